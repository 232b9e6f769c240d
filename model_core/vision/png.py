"""PNG chunks (https://www.w3.org/TR/png-3, section 5): removes metadata before the pixels."""

import struct

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Texts and colour profiles: compressed ones may be broken or inflate to any size, and are not needed.
_METADATA = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_CHUNK = struct.Struct(">I4s")
_CHECKSUM_BYTES = 4
_DEPTH_AT = len(SIGNATURE) + _CHUNK.size + 8  # after width and height


def without_metadata(data: bytes) -> bytes:
    """A PNG file without the texts and the colour profile before its pixels; any other file unchanged."""
    if not data.startswith(SIGNATURE):
        return data
    kept, at = [SIGNATURE], len(SIGNATURE)
    while at + _CHUNK.size <= len(data):
        length, kind = _CHUNK.unpack_from(data, at)
        end = at + _CHUNK.size + length + _CHECKSUM_BYTES
        if kind == b"IDAT":
            break
        if kind not in _METADATA:
            kept.append(data[at:end])
        at = end
    return b"".join((*kept, data[at:]))


def is_deep(data: bytes) -> bool:
    """Whether a file is a PNG with 16 bits per channel."""
    return data.startswith(SIGNATURE) and data[_DEPTH_AT : _DEPTH_AT + 1] == b"\x10"
