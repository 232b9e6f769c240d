"""Clients that do what no HTTP library does."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.integration.gateway.conftest import Gateway


@dataclass(slots=True)
class RawClient:
    """A raw connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, *data: bytes) -> None:
        for each in data:
            self.writer.write(each)

    async def response(self) -> bytes:
        """The next response: head, and body if the head has its length."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return head + await self.reader.readexactly(int(line.partition(b":")[2]))
        return head

    async def status(self) -> int:
        return int((await self.response()).split(b" ", 2)[1])

    async def rest(self) -> bytes:
        """Everything until the gateway closes the connection; empty if it resets it."""
        try:
            return await self.reader.read()
        except ConnectionResetError:
            return b""


@asynccontextmanager
async def connected(gateway: Gateway, context: ssl.SSLContext | None = None) -> AsyncIterator[RawClient]:
    host, _, port = gateway.url.rpartition("/")[2].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.transport.abort()


def post(gateway: Gateway, path: str, length: int | None = None, *more: str, secret: str = "") -> bytes:
    """The head of a POST of JSON."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {secret or gateway.secret}"]
    lines += ["Content-Type: application/json", *more]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
