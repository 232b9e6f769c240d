"""A bounded queue in front of scarce work, fair between tenants."""

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from services.shared.service_errors import Overloaded

_SMOOTHING = 0.2  # weight of the latest request in the mean time a request takes


class FairQueue:
    """Lets `running_limit` requests run at a time; at most `waiting_limit` more wait their turn.

    Tenants with waiting requests take turns; one tenant's requests run in the order they came. Where the queue is full,
    the latest request of the tenant that has most waiting makes room for a tenant that has fewer, so nobody can shut
    others out by asking a lot.

    Args:
        running_limit: Requests that run at the same time.
        waiting_limit: Requests that may wait.
        on_change: Called with (running, waiting) after either changed.
        clock: Seconds, for the estimate of when to come again.
    """

    def __init__(
        self,
        *,
        running_limit: int = 1,
        waiting_limit: int,
        on_change: Callable[[int, int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if running_limit < 1 or waiting_limit < 0:
            raise ValueError("running_limit must be at least 1 and waiting_limit at least 0")
        self._running_limit = running_limit
        self._waiting_limit = waiting_limit
        self._on_change = on_change
        self._clock = clock
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._running = 0
        self._mean_seconds: float | None = None

    @property
    def running(self) -> int:
        """Requests that hold a slot."""
        return self._running

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return sum(len(line) for line in self._lines.values())

    @asynccontextmanager
    async def slot(self, tenant: str = "") -> AsyncIterator[None]:
        """Holds a slot for the time of the `async with` body.

        Raises:
            Overloaded: The queue is full, or became full of others' requests while this one waited.
        """
        await self._acquire(tenant)
        started = self._clock()
        try:
            yield
        finally:
            self._observe(self._clock() - started)
            self._running -= 1
            self._wake_next()
            self._changed()

    async def _acquire(self, tenant: str) -> None:
        if self._running < self._running_limit and not self._lines:
            self._running += 1
            self._changed()
            return
        if self.waiting >= self._waiting_limit:
            self._make_room_for(tenant)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(tenant, deque()).append(turn)
        self._changed()
        try:
            await turn
        except BaseException:
            self._leave(tenant, turn)
            raise

    def _leave(self, tenant: str, turn: asyncio.Future[None]) -> None:
        """Forgets a request that gave up; hands its slot on if it had just been given one."""
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            self._running -= 1
            self._wake_next()
        else:
            self._remove(tenant, turn)
        self._changed()

    def _remove(self, tenant: str, turn: asyncio.Future[None]) -> None:
        line = self._lines.get(tenant)
        if line is not None and turn in line:
            line.remove(turn)
            if not line:
                del self._lines[tenant]

    def _wake_next(self) -> None:
        while self._lines and self._running < self._running_limit:
            tenant, line = self._lines.popitem(last=False)
            turn = line.popleft()
            if line:
                self._lines[tenant] = line  # to the end: the others come first
            if not turn.done():
                self._running += 1
                turn.set_result(None)

    def _make_room_for(self, tenant: str) -> None:
        own = len(self._lines.get(tenant, ()))
        largest = max(self._lines, key=lambda name: len(self._lines[name]), default=None)
        if largest is None or len(self._lines[largest]) <= own + 1:
            raise self._overloaded()
        turn = self._lines[largest].pop()
        turn.set_exception(self._overloaded())

    def _overloaded(self) -> Overloaded:
        ahead = self.waiting + self._running
        estimate = (self._mean_seconds or 1.0) * ahead / self._running_limit
        return Overloaded(
            f"{self.waiting} requests are waiting, the limit is {self._waiting_limit}",
            float(max(1, math.ceil(estimate))),
        )

    def _observe(self, seconds: float) -> None:
        mean = self._mean_seconds
        self._mean_seconds = seconds if mean is None else mean + _SMOOTHING * (seconds - mean)

    def _changed(self) -> None:
        if self._on_change is not None:
            self._on_change(self._running, self.waiting)
