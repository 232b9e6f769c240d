"""Detects images with fewer pixels than their header says; Pillow fills up the rest silently.

Formats: PNG (RFC 2083: the header determines the length of the inflated image data) and JPEG (libjpeg warns if a scan
ends before its last row). A WebP file whose size differs from its header cannot be decoded at all.
"""

import struct
import zlib
from collections.abc import Iterator

import simplejpeg

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of PNG's colour types
# Adam7: start column and row, and column and row steps, of the seven passes.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PIECE = 1 << 20


def holds_all_pixels(data: bytes, kind: str) -> bool:
    """Whether an image contains as many pixels as its header says.

    Args:
        data: A file with a valid header whose pixels are within the limit.
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
        return "premature end" not in str(error).lower()  # other errors are the decoder's to report
    return True


def _expected_bytes(data: bytes) -> int:
    """Bytes of all rows, each with its filter byte."""
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    depth, colours, interlaced = data[24], data[25], data[28]
    bits = depth * _CHANNELS.get(colours, 0)
    if not interlaced:
        return height * (1 + -(-width * bits // 8))
    sizes = [(max(-(-(width - x) // dx), 0), max(-(-(height - y) // dy), 0)) for x, y, dx, dy in _PASSES]
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns)


def _inflates_to(data: bytes, size: int) -> bool:
    """Whether the image data inflates to at least `size` bytes; inflates piece by piece, and no more than that."""
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
