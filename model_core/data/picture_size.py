"""Pictures that lie about their size: Pillow fills what a file does not hold, so that has to be looked for.

Formats: PNG (RFC 2083: the inflated image data has a length that the header determines) and JPEG (libjpeg warns where
the data of a scan end before its last row). A WebP file of another size than its header says does not decode at all.
"""

import struct
import zlib
from collections.abc import Iterator

import simplejpeg

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of PNG's colour types
# Adam7: first column and row, and steps between columns and rows, of the seven passes.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PIECE = 1 << 20


def holds_all_pixels(data: bytes, kind: str) -> bool:
    """Whether a picture holds as many pixels as its header says.

    Args:
        data: A file whose header could be read; its pixels are within the limit.
        kind: `PNG`, `JPEG` or `WEBP`.
    """
    if kind == "PNG":
        return _inflates_to(data, _expected_bytes(data))
    return kind != "JPEG" or _scans_are_whole(data)


def _scans_are_whole(data: bytes) -> bool:
    try:
        *_, colours, _ = simplejpeg.decode_jpeg_header(data)
        simplejpeg.decode_jpeg(data, "CMYK" if colours in ("CMYK", "YCCK") else "GRAY", strict=True)
    except ValueError as error:
        return "premature end" not in str(error).lower()  # other oddities are for the decoder to judge
    return True


def _expected_bytes(data: bytes) -> int:
    """Bytes of all rows, each with the byte that names its filter."""
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    depth, colours, interlaced = data[24], data[25], data[28]
    bits = depth * _CHANNELS.get(colours, 0)
    if not interlaced:
        return height * (1 + -(-width * bits // 8))
    sizes = [(max(-(-(width - x) // dx), 0), max(-(-(height - y) // dy), 0)) for x, y, dx, dy in _PASSES]
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns)


def _inflates_to(data: bytes, size: int) -> bool:
    """Whether the image data inflate to so many bytes; a piece is held at a time, and no more is inflated."""
    inflate = zlib.decompressobj()
    found = 0
    try:
        for chunk in _image_data(data):
            waiting = chunk
            while waiting and found < size:
                found += len(inflate.decompress(waiting, _PIECE))
                waiting = inflate.unconsumed_tail
    except zlib.error:
        return False
    return found + len(inflate.flush(_PIECE)) >= size


def _image_data(data: bytes) -> Iterator[bytes]:
    at = 8
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind == b"IDAT":
            yield data[at + 8 : at + 8 + length]
        at += 12 + length
