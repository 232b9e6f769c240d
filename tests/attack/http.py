"""HTTP as raw bytes: for requests that no client library would send, and for many of them."""

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

_ANSWER_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, or "closed" if there was none, and the beginning of the body."""

    status: str
    body: bytes = b""


def request_bytes(method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> bytes:
    """A request as sent over the wire."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers.items())]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + (body or b"")


def post(path: str, body: object, headers: Mapping[str, str]) -> bytes:
    """A POST of JSON."""
    return request_bytes("POST", path, {**headers, "Content-Type": "application/json"}, json.dumps(body).encode())


async def send_all(
    port: int,
    requests: Iterable[bytes],
    connections: int,
    on_answer: Callable[[bytes, Answer], None],
    source: str = "127.0.0.1",
) -> None:
    """Sends the requests over a few keep-alive connections, and passes on each response.

    Args:
        source: Source address, in 127.0.0.0/8.
    """
    waiting = iter(requests)
    await asyncio.gather(*(_connection(port, waiting, on_answer, source) for _ in range(connections)))


async def _connection(
    port: int, requests: Iterator[bytes], on_answer: Callable[[bytes, Answer], None], source: str
) -> None:
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    for request in requests:
        answer = Answer("closed")
        for _ in range(2):  # a keep-alive connection may be closed by now
            fresh = streams is None
            try:
                if streams is None:
                    streams = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
                answer, stays = await asyncio.wait_for(_exchange(*streams, request), _ANSWER_SECONDS)
                if not stays:
                    _close(streams)
                    streams = None
                break
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                _close(streams)
                streams = None
                if fresh:
                    break
        on_answer(request, answer)
    _close(streams)


def _close(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None) -> None:
    if streams is not None:
        streams[1].close()


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[Answer, bool]:
    """The response, and whether the connection stays open."""
    with suppress(ConnectionError):  # the response may have arrived before everything was sent
        writer.write(request)
        await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines if ": " in line)
    body = bytearray()
    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    else:
        body += await reader.readexactly(int(headers.get("content-length", "0")))
    return Answer(first.split()[1], bytes(body[:500])), headers.get("connection") != "close"
