"""What each model service last said of itself, so that a request does not ask for it again and again."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

# Neither shows on the connection: adapters that others load and unload, and one of several replicas being replaced.
MAX_AGE_SECONDS = 1.0

Description = TypeVar("Description")


@dataclass(frozen=True, slots=True)
class _Entry:
    answer: asyncio.Task[Any]
    asked_at: float


class DescriptionCache:
    """Keeps a service's answer to `Describe` while its connection holds, for `MAX_AGE_SECONDS` at most.

    A service that restarts, perhaps with another model, loses its connection first. Callers that come while an answer
    is pending share it; an error is raised to all of them and not kept.

    Args:
        channels: To each service, by name.
    """

    def __init__(self, channels: Mapping[str, grpc.aio.Channel]) -> None:
        self._channels = channels
        self._entries: dict[str, _Entry] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}

    async def get(
        self, service: str, describe: Callable[[], Coroutine[Any, Any, Description]], *, fresh: bool = False
    ) -> Description:
        """The description of a service: the cached one, or what `describe` returns.

        Args:
            service: Its name.
            describe: Asks the service.
            fresh: Whether to ask in any case.
        """
        entry = self._entries.get(service)
        if fresh or entry is None or time.monotonic() - entry.asked_at > MAX_AGE_SECONDS:
            entry = _Entry(asyncio.create_task(describe()), time.monotonic())
            entry.answer.add_done_callback(lambda answer: self._answered(service, answer))
            self._entries[service] = entry
        # Shielded, so that a caller that is cancelled leaves the answer to the others.
        description: Description = await asyncio.shield(entry.answer)
        return description

    async def close(self) -> None:
        """Forgets everything. Call it before the channels are closed."""
        pending = [*self._watchers.values(), *(entry.answer for entry in self._entries.values())]
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        self._entries.clear()

    def _answered(self, service: str, answer: asyncio.Task[Any]) -> None:
        if answer.cancelled() or answer.exception() is not None:
            if (entry := self._entries.get(service)) is not None and entry.answer is answer:
                del self._entries[service]
        elif service not in self._watchers:
            self._watchers[service] = asyncio.create_task(self._watch(service))

    async def _watch(self, service: str) -> None:
        """Forgets the answer of a service when the connection to it is lost."""
        channel, ready = self._channels[service], grpc.ChannelConnectivity.READY
        try:
            if channel.get_state() is ready:
                await channel.wait_for_state_change(ready)
        finally:
            self._entries.pop(service, None)
            del self._watchers[service]
