"""A channel to replicas that come and go, down to none and back, and with certificates that change."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc

# A channel that has found nobody for this long begins anew with the next call.
_RENEW_SECONDS = 1.0
# Calls that still run on a channel that was left have their own deadlines; this only bounds the waiting for them.
_LEFT_SECONDS = 3600.0


class RenewedChannel(grpc.aio.Channel):
    """Hands each call to a channel made by `open`, and makes another one where that has found no replica.

    gRPC asks less and less often for a name that has no address, in the end once in two minutes, and no option changes
    that. A service that was scaled to zero, or lost its only pod, would be found that late. A new channel asks at once.

    Args:
        open: Makes a channel.
        version: Of what channels are made with; where it differs from before, the next call gets a new channel.
    """

    def __init__(self, open: Callable[[], grpc.aio.Channel], version: Callable[[], object] = lambda: None) -> None:
        self._open = open
        self._version = version
        self._made_with = version()
        self._current = open()
        self._opened = time.monotonic()
        self._left: set[asyncio.Task[None]] = set()

    def current(self) -> grpc.aio.Channel:
        """The channel for the next call."""
        lost = self._current.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
        version = self._version()
        if (lost and time.monotonic() - self._opened > _RENEW_SECONDS) or version != self._made_with:
            closing = asyncio.create_task(self._current.close(_LEFT_SECONDS))
            self._left.add(closing)
            closing.add_done_callback(self._left.discard)
            self._current, self._opened, self._made_with = self._open(), time.monotonic(), version
        return self._current

    async def __aenter__(self) -> "RenewedChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Ends it, and calls that run after `grace` seconds."""
        for closing in self._left:
            closing.cancel()
        await asyncio.gather(self._current.close(grace), *self._left, return_exceptions=True)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self.current().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._current.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self.current().channel_ready()

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        return _Method(self, "unary_unary", arguments, options)

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        return _Method(self, "unary_stream", arguments, options)

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        return _Method(self, "stream_unary", arguments, options)

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        return _Method(self, "stream_stream", arguments, options)


class _Method:
    """A method of the service, on whichever channel is current when it is called."""

    def __init__(self, channel: RenewedChannel, kind: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self._channel = channel
        self._kind, self._arguments, self._options = kind, arguments, options
        self._made: tuple[grpc.aio.Channel | None, Any] = (None, None)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        channel = self._channel.current()
        if self._made[0] is not channel:
            self._made = channel, getattr(channel, self._kind)(*self._arguments, **self._options)
        return self._made[1](*arguments, **options)
