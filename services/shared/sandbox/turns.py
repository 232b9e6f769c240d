"""Whose file is decoded next: a bounded queue for threads, fair between tenants as `queueing.FairQueue` is."""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from services.shared.service_errors import Overloaded


class Cancelled(Exception):
    """Nobody waits for the work any more."""


class Cancellation:
    """How one thread tells another, which may be waiting for a child, that its work is not wanted any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._interrupt: Callable[[], None] | None = None

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        """Interrupts what waits. Safe from any thread, at any time."""
        with self._lock:
            self._cancelled = True
            if self._interrupt is not None:
                self._interrupt()

    @contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Has `interrupt` called where the work is cancelled in the `with`; raises Cancelled where it was before."""
        with self._lock:
            if self._cancelled:
                raise Cancelled
            self._interrupt = interrupt
        try:
            yield
        finally:
            with self._lock:
                self._interrupt = None


class Turns:
    """Lets `running_limit` threads go on at a time; at most `waiting_limit` more wait, and tenants take turns.

    Where no more may wait, the latest of the tenant that has most waiting makes room for a tenant that has fewer.
    """

    def __init__(self, running_limit: int, waiting_limit: int) -> None:
        self._running_limit = running_limit
        self._waiting_limit = waiting_limit
        self._lock = threading.Lock()
        self._running = 0
        self._lines: OrderedDict[str, deque[_Turn]] = OrderedDict()

    @property
    def running(self) -> int:
        """Threads that go on."""
        return self._running

    @property
    def waiting(self) -> int:
        """Threads that wait."""
        return sum(len(line) for line in self._lines.values())

    @contextmanager
    def turn(self, tenant: str, cancellation: Cancellation) -> Iterator[None]:
        """Raises Overloaded where no more may wait, Cancelled where it is cancelled meanwhile."""
        self._wait(tenant, cancellation)
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                self._call_next()

    def _wait(self, tenant: str, cancellation: Cancellation) -> None:
        with self._lock:
            if self._running < self._running_limit and not self._lines:
                self._running += 1
                return
            if self.waiting >= self._waiting_limit:
                self._make_room_for(tenant)
            turn = _Turn()
            self._lines.setdefault(tenant, deque()).append(turn)
        try:
            with cancellation.interrupting(turn.called.set):
                turn.called.wait()
        finally:
            with self._lock:
                self._leave(tenant, turn, given_up=cancellation.cancelled)
        if cancellation.cancelled:
            raise Cancelled
        if turn.error is not None:
            raise turn.error

    def _leave(self, tenant: str, turn: "_Turn", *, given_up: bool) -> None:
        line = self._lines.get(tenant)
        if line is not None and turn in line:
            line.remove(turn)
            if not line:
                del self._lines[tenant]
        elif given_up and turn.error is None:  # its turn had just come
            self._running -= 1
            self._call_next()

    def _call_next(self) -> None:
        while self._lines and self._running < self._running_limit:
            tenant, line = self._lines.popitem(last=False)
            turn = line.popleft()
            if line:
                self._lines[tenant] = line  # to the end: the others come first
            self._running += 1
            turn.called.set()

    def _make_room_for(self, tenant: str) -> None:
        own = len(self._lines.get(tenant, ()))
        largest = max(self._lines, key=lambda name: len(self._lines[name]), default=None)
        error = Overloaded(f"{self.waiting} files wait to be decoded, the limit is {self._waiting_limit}")
        if largest is None or len(self._lines[largest]) <= own + 1:
            raise error
        turn = self._lines[largest].pop()
        turn.error = error
        turn.called.set()


class _Turn:
    """A thread that waits."""

    __slots__ = ("called", "error")

    def __init__(self) -> None:
        self.called = threading.Event()
        self.error: Overloaded | None = None
