"""gRPC calls with bytes as they are: nothing on the attacker's side checks what is sent."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc

from tests.attack.target import CLIENT_SECONDS, Target

_OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", 16 * 2**20))


@asynccontextmanager
async def open_channels(target: Target) -> AsyncIterator[dict[str, grpc.aio.Channel]]:
    """A channel to each model service, by its name."""
    channels = {name: grpc.aio.insecure_channel(at, options=_OPTIONS) for name, at in target.services().items()}
    try:
        yield channels
    finally:
        await asyncio.gather(*(channel.close(None) for channel in channels.values()))


async def call(channel: grpc.aio.Channel, method: str, messages: Iterable[bytes], *, streams: bool = True) -> str:
    """Sends messages, takes everything that comes back, and returns the name of the status.

    Args:
        method: As in "/lyra.v1.LanguageModel/Generate".
        streams: Whether the method takes a stream and answers with one.
    """
    if not streams:
        (message,) = messages
        unary = channel.unary_unary(method)(message, timeout=CLIENT_SECONDS)
        return (await unary.code()).name
    stream = channel.stream_stream(method)(timeout=CLIENT_SECONDS)
    writing = asyncio.create_task(_write(stream, messages))
    with suppress(grpc.aio.AioRpcError):
        while await stream.read() is not grpc.aio.EOF:
            pass
    code = (await stream.code()).name
    await writing
    return code


async def _write(stream: Any, messages: Iterable[bytes]) -> None:
    """Until all is sent, or the service has ended the call: then it takes nothing more."""
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        for message in messages:
            await stream.write(message)
        await stream.done_writing()
