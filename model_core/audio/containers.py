"""Container details that FFmpeg does not report: tags to skip, truncated files, links of a chained Ogg file.

ID3v2 (id3.org, version 2.4, section 3.1), Xing/Info headers of mp3, Ogg pages (RFC 3533, section 6).
"""

import io
from contextlib import suppress
from typing import BinaryIO

_ID3_HEADER = 10
_ID3_FOOTER_FLAG = 0x10
_HEAD = 4_096  # bytes at the start of a file that are searched
_WAV_UNKNOWN = 0x7FFFF000  # sizes in WAV headers from here on mean "unknown"
_XING_HAS_FRAMES, _XING_HAS_BYTES, _XING_FLAGS = 1, 2, 15
_XING_SLACK = 4_096  # bytes of trailing tags that some writers count and others strip
_OGG_PAGE = b"OggS\0"
_OGG_HEADER = 27
_OGG_FIRST, _OGG_LAST = 2, 4  # page flags: first, last page of its stream
_OGG_MAX_PAGE = _OGG_HEADER + 255 + 255 * 255
_BLOCK = 1 << 20


class Window:
    """A file from `start` on, for FFmpeg to read. Keeps read errors, which FFmpeg may mistake for the end."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        self._file = file
        self._start = start
        self._failure: Exception | None = None
        file.seek(start)

    def read(self, count: int) -> bytes:
        try:
            return self._file.read(count)
        except Exception as error:
            self._failure = error
            raise

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            at = self._file.seek(offset + self._start if whence == io.SEEK_SET else offset, whence)
        except Exception as error:
            self._failure = error
            raise
        return at - self._start

    def tell(self) -> int:
        return self._file.tell() - self._start

    @property
    def failed(self) -> bool:
        """Whether a read has failed."""
        return self._failure is not None

    def raise_failure(self) -> None:
        """Raises the error that a read failed with, if any."""
        if self._failure is not None:
            raise self._failure


def file_size(file: BinaryIO) -> int:
    """The size of a file in bytes."""
    return file.seek(0, io.SEEK_END)


def audio_start(file: BinaryIO) -> int:
    """The offset at which a file begins after its ID3v2 tags.

    The tags are not needed, and may hold compressed pictures that expand a thousandfold.
    """
    start = 0
    while True:
        file.seek(start)
        head = file.read(_ID3_HEADER)
        if len(head) < _ID3_HEADER or head[:3] != b"ID3" or max(head[6:10]) > 0x7F:
            return start
        length = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        start += _ID3_HEADER + length + (_ID3_HEADER if head[5] & _ID3_FOOTER_FLAG else 0)


def lacks_index(file: Window) -> bool:
    """Whether a file that cannot be opened begins like an mp4, whose index often comes last."""
    file.seek(4)
    return file.read(4) == b"ftyp"


def wav_lacks_length(file: BinaryIO) -> bool:
    """Whether a WAV header leaves the length open because its writer could not seek back, as into a pipe."""
    file.seek(0)
    head = file.read(_HEAD)
    at = head.find(b"data")
    size = int.from_bytes(head[at + 4 : at + 8], "little")
    return at >= 0 and (size == 0 or size >= _WAV_UNKNOWN)


def mp3_ends_early(file: BinaryIO, start: int) -> bool | None:
    """Whether an mp3 is shorter than the byte count in its Xing or Info header; None without such a header."""
    file.seek(start)
    head = file.read(_HEAD)
    at = max(head.find(b"Xing"), head.find(b"Info"))
    if at < 0 or len(head) < at + 16:
        return None
    flags = int.from_bytes(head[at + 4 : at + 8], "big")
    if flags > _XING_FLAGS or not flags & _XING_HAS_BYTES:
        return None
    field = at + 12 if flags & _XING_HAS_FRAMES else at + 8
    return file_size(file) - start + _XING_SLACK < int.from_bytes(head[field : field + 4], "big")


def ogg_ends_early(file: BinaryIO) -> bool:
    """Whether the last page of an Ogg file is incomplete, or does not end its stream."""
    size = file_size(file)
    start = max(0, size - _OGG_MAX_PAGE)
    file.seek(start)
    tail = file.read(size - start)
    at = tail.rfind(_OGG_PAGE)
    page = tail[at:]
    if at < 0 or len(page) < _OGG_HEADER or not page[5] & _OGG_LAST:
        return True
    lengths = page[_OGG_HEADER : _OGG_HEADER + page[26]]
    return len(page) < _OGG_HEADER + page[26] + sum(lengths)


def next_ogg_link(file: BinaryIO, after: int) -> int | None:
    """The offset behind `after` of the next link of a chained Ogg file, a page that begins a stream, if any."""
    at = after + 1
    rest = b""
    while True:
        file.seek(at + len(rest))
        block = file.read(_BLOCK)
        rest += block
        found = rest.find(_OGG_PAGE)
        while 0 <= found < len(rest) - len(_OGG_PAGE):
            if rest[found + 5] & _OGG_FIRST:
                return at + found
            found = rest.find(_OGG_PAGE, found + 1)
        if not block:
            return None
        kept = rest[-len(_OGG_PAGE) :]
        at += len(rest) - len(kept)
        rest = kept


def close_quietly(file: BinaryIO) -> None:
    """Closes a file and ignores errors."""
    with suppress(OSError):
        file.close()
