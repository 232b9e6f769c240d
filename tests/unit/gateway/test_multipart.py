from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from services.gateway.http.api_errors import ApiError
from services.gateway.http.multipart import FileEnd, FileStart, FormEvent, FormField, form_events

CRLF = b"\r\n"


def request(chunks: Sequence[bytes], kind: str = "multipart/form-data; boundary=bound") -> Request:
    messages: list[Message] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Message:
        return messages.pop(0)

    return Request({"type": "http", "method": "POST", "headers": [(b"content-type", kind.encode())]}, receive)


def part(disposition: str, value: bytes) -> bytes:
    return b"--bound" + CRLF + b"Content-Disposition: form-data; " + disposition.encode() + CRLF * 2 + value + CRLF


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--bound--" + CRLF


async def joined(body: bytes, size: int) -> list[FormEvent]:
    """All events of a body that comes in chunks of `size`, the pieces of each file put together."""
    events: list[FormEvent] = []
    async for event in form_events(request([body[start : start + size] for start in range(0, len(body), size)])):
        if isinstance(event, bytes) and isinstance(events[-1], bytes):
            events[-1] += event
        else:
            events.append(event)
    return events


# Look-alikes of the boundary inside a file belong to the file.
FILES = st.lists(st.sampled_from([b"\r\n", b"\r", b"-", b"--bound", b"\r\n--boun", b"x"]), min_size=1).map(b"".join)


@given(file=FILES.filter(lambda data: b"\r\n--bound" not in b"\r\n" + data), size=st.integers(1, 60))
async def test_chunks_of_any_size_give_the_same_form(file: bytes, size: int) -> None:
    body = form(part('name="a"', "ä".encode()), part('name="file"; filename="t.wav"', file), part('name="b"', b""))
    expected = [FormField("a", "ä"), FileStart("file", "t.wav"), file, FileEnd(), FormField("b", "")]
    assert await joined(body, size) == expected


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (form(*[part('name="a"', b"1")] * 65), "64 fields"),
        (form(part('name="a"', b"x" * 300_000)), "262,144 bytes"),
        (form(part('name="a"', b"\xff")), "UTF-8"),
        (form(part("", b"1")), "no name"),
        (form(part('name="a"', b"1"))[:-8], "closing boundary"),
        (b"", "closing boundary"),
        (b"--other--", "not valid"),
        (b"--bound" + CRLF + b"x" * 20_000, "not valid"),
    ],
)
async def test_a_broken_or_excessive_form_is_a_400(body: bytes, word: str) -> None:
    with pytest.raises(ApiError) as caught:
        await joined(body, 1_000)
    assert caught.value.status_code == 400
    assert word in caught.value.detail


@pytest.mark.parametrize("kind", ["", "text/plain", "multipart/form-data", "multipart/mixed; boundary=bound"])
async def test_a_body_that_is_not_a_form_is_a_400(kind: str) -> None:
    with pytest.raises(ApiError, match="multipart/form-data"):
        await anext(form_events(request([form()], kind)))
