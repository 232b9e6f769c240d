"""Files that arrive in chunks."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lyra.v1.vision_encoder_pb2 import VisionEncoderEncodeRequest
from services.shared.rpc import uploads
from services.shared.rpc.uploads import Upload, header_and_parts
from services.shared.service_errors import InvalidInput

Request = VisionEncoderEncodeRequest


async def _stream(*items: Request) -> AsyncIterator[Request]:
    for item in items:
        yield item


def test_a_small_file_stays_in_memory() -> None:
    with Upload(max_bytes=100, field="image") as upload:
        upload.write(b"ab")
        upload.write(b"c")
        assert upload.source() == b"abc"


def test_a_large_file_is_on_disk_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MEMORY_BYTES", 4)
    with Upload(max_bytes=100, field="image") as upload:
        for piece in (b"abc", b"def", b"ghi"):
            upload.write(piece)
        path = upload.source()
        assert isinstance(path, Path)
        assert path.read_bytes() == upload.read() == b"abcdefghi"
    assert not path.exists()


@pytest.mark.parametrize("memory_bytes", [4, 100])
def test_digest_is_that_of_the_whole_file(monkeypatch: pytest.MonkeyPatch, memory_bytes: int) -> None:
    monkeypatch.setattr(uploads, "MEMORY_BYTES", memory_bytes)
    with Upload(max_bytes=100, field="image") as upload:
        for piece in (b"abc", b"def", b"ghi"):
            upload.write(piece)
        assert upload.digest() == hashlib.sha256(b"abcdefghi").digest()
        assert upload.read() == b"abcdefghi"


def test_a_file_is_refused_at_the_chunk_that_exceeds_the_limit() -> None:
    upload = Upload(max_bytes=2 * 2**20, field="image")
    upload.write(b"x" * 2**20)
    with pytest.raises(InvalidInput, match="image: over the limit of 2 MiB"):
        upload.write(b"x" * (2**20 + 1))


async def test_an_empty_file_is_refused() -> None:
    _, pieces = await header_and_parts(_stream(Request(header=Request.Header())), "data")
    with pytest.raises(InvalidInput, match="image: is empty"):
        await Upload(max_bytes=10, field="image").receive(pieces)


async def test_a_stream_that_does_not_start_with_a_header_is_refused() -> None:
    for stream in (_stream(), _stream(Request(data=b"x")), _stream(Request())):
        with pytest.raises(InvalidInput) as refusal:
            await header_and_parts(stream, "data")
        assert refusal.value.field == "header"


async def test_a_second_header_is_refused() -> None:
    header = Request(header=Request.Header(media_type="image/png"))
    first, pieces = await header_and_parts(_stream(header, Request(data=b"x"), header), "data")
    assert first.media_type == "image/png"
    with pytest.raises(InvalidInput) as refusal:
        [piece async for piece in pieces]
    assert refusal.value.field == "header"
