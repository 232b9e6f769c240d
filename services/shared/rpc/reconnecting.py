"""A channel that reconnects at once after a service was scaled to zero, or its credentials were replaced."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc

# A channel that has found no replica for this long is replaced at the next call.
_RECONNECT_SECONDS = 1.0
# Calls in progress on a replaced channel have their own deadlines; this only bounds the wait for them.
_RETIRED_SECONDS = 3600.0


class ReconnectingChannel(grpc.aio.Channel):
    """Makes each call on a channel from `open`, and opens another one if that finds no replica.

    gRPC resolves a name without addresses at increasing intervals of up to two minutes, which no option changes. A
    service that was scaled to zero or lost its only pod would be found that late; a new channel resolves at once.

    Args:
        open: Opens a channel.
        version: Version of the credentials; when it changes, the next call gets a new channel.
    """

    def __init__(self, open: Callable[[], grpc.aio.Channel], version: Callable[[], object] = lambda: None) -> None:
        self._open = open
        self._version = version
        self._opened_with = version()
        self._current = open()
        self._opened_at = time.monotonic()
        self._retired: set[asyncio.Task[None]] = set()

    def current(self) -> grpc.aio.Channel:
        """The channel for the next call."""
        unreachable = self._current.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
        version = self._version()
        if (unreachable and time.monotonic() - self._opened_at > _RECONNECT_SECONDS) or version != self._opened_with:
            closing = asyncio.create_task(self._current.close(_RETIRED_SECONDS))
            self._retired.add(closing)
            closing.add_done_callback(self._retired.discard)
            self._current, self._opened_at, self._opened_with = self._open(), time.monotonic(), version
        return self._current

    async def __aenter__(self) -> "ReconnectingChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Closes the channel; calls still in progress after `grace` seconds are cancelled."""
        for closing in self._retired:
            closing.cancel()
        await asyncio.gather(self._current.close(grace), *self._retired, return_exceptions=True)

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
    """A method of the service; each call uses the channel that is current at that time."""

    def __init__(
        self, channel: ReconnectingChannel, kind: str, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        self._channel = channel
        self._kind, self._arguments, self._options = kind, arguments, options
        self._made: tuple[grpc.aio.Channel | None, Any] = (None, None)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        channel = self._channel.current()
        if self._made[0] is not channel:
            self._made = channel, getattr(channel, self._kind)(*self._arguments, **self._options)
        return self._made[1](*arguments, **options)
