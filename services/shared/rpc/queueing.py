"""A bounded queue in front of a model, fair between tenants."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from services.shared.fair_slots import FairSlots, QueueFull
from services.shared.service_errors import Overloaded

_SMOOTHING = 0.2  # weight of the latest request in the moving average of durations


class FairQueue:
    """Runs up to `running_limit` requests at a time and queues up to `waiting_limit` more, as `FairSlots` orders them.

    Args:
        running_limit: Requests that run at the same time.
        waiting_limit: Requests that may wait.
        on_change: Called with (running, waiting) whenever either has changed.
        clock: Seconds; for the estimate of when to retry.
    """

    def __init__(
        self,
        *,
        running_limit: int = 1,
        waiting_limit: int,
        on_change: Callable[[int, int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slots = FairSlots[asyncio.Future[None]](running_limit, waiting_limit)
        self._on_change = on_change
        self._clock = clock
        self._mean_seconds: float | None = None

    @property
    def running(self) -> int:
        """Requests that hold a slot."""
        return self._slots.running

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return self._slots.waiting

    @asynccontextmanager
    async def slot(self, tenant: str = "") -> AsyncIterator[None]:
        """Holds a slot for the body of the `async with`.

        Raises:
            Overloaded: The queue is full, or this request was evicted from it.
        """
        await self._acquire(tenant)
        started = self._clock()
        try:
            yield
        finally:
            self._observe(self._clock() - started)
            self._release()

    async def _acquire(self, tenant: str) -> None:
        if self._slots.try_acquire():
            return self._changed()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            evicted = self._slots.enqueue(tenant, turn)
        except QueueFull:
            raise self._overloaded() from None
        if evicted is not None:
            evicted.set_exception(self._overloaded())
        self._changed()
        try:
            await turn
        except BaseException:
            if not self._slots.withdraw(tenant, turn) and _is_granted(turn):
                self._release()
            self._changed()
            raise

    def _release(self) -> None:
        self._slots.release()
        while (turn := self._slots.grant()) is not None:
            if turn.done():  # cancelled but not withdrawn yet
                self._slots.release()
            else:
                turn.set_result(None)
        self._changed()

    def _overloaded(self) -> Overloaded:
        ahead = self.waiting + self.running
        estimate = (self._mean_seconds or 1.0) * ahead / self._slots.limit
        return Overloaded(
            f"{self.waiting} requests are waiting, the limit is {self._slots.waiting_limit}",
            float(max(1, math.ceil(estimate))),
        )

    def _observe(self, seconds: float) -> None:
        mean = self._mean_seconds
        self._mean_seconds = seconds if mean is None else mean + _SMOOTHING * (seconds - mean)

    def _changed(self) -> None:
        if self._on_change is not None:
            self._on_change(self.running, self.waiting)


def _is_granted(turn: asyncio.Future[None]) -> bool:
    return turn.done() and not turn.cancelled() and turn.exception() is None
