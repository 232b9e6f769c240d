"""A bounded queue of threads that want a file decoded, fair between tenants."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from services.shared.fair_slots import FairSlots, QueueFull
from services.shared.sandbox.cancellation import Cancellation, Cancelled
from services.shared.service_errors import Overloaded


class ThreadFairQueue:
    """Runs up to `running_limit` threads at a time and queues `waiting_limit` more, ordered by `FairSlots`."""

    def __init__(self, running_limit: int, waiting_limit: int) -> None:
        self._slots = FairSlots[_Waiter](running_limit, waiting_limit)
        self._lock = threading.Lock()

    @property
    def running(self) -> int:
        """Threads that hold a slot."""
        return self._slots.running

    @property
    def waiting(self) -> int:
        """Threads that wait for a slot."""
        return self._slots.waiting

    @contextmanager
    def slot(self, tenant: str, cancellation: Cancellation) -> Iterator[None]:
        """Holds a slot for the body of the `with`.

        Raises:
            Overloaded: The queue is full, or this thread was evicted from it.
            Cancelled: The work was cancelled while it waited.
        """
        self._acquire(tenant, cancellation)
        try:
            yield
        finally:
            with self._lock:
                self._release()

    def _acquire(self, tenant: str, cancellation: Cancellation) -> None:
        with self._lock:
            if self._slots.try_acquire():
                return
            waiter = _Waiter()
            try:
                evicted = self._slots.enqueue(tenant, waiter)
            except QueueFull:
                raise self._overloaded() from None
            if evicted is not None:
                evicted.error = self._overloaded()
                evicted.woken.set()
        try:
            with cancellation.interrupting(waiter.woken.set):
                waiter.woken.wait()
        finally:
            with self._lock:
                withdrawn = self._slots.withdraw(tenant, waiter)
                if cancellation.cancelled and not withdrawn and waiter.error is None:  # it has just been granted a slot
                    self._release()
        if cancellation.cancelled:
            raise Cancelled
        if waiter.error is not None:
            raise waiter.error

    def _release(self) -> None:
        self._slots.release()
        while (waiter := self._slots.grant()) is not None:
            waiter.woken.set()

    def _overloaded(self) -> Overloaded:
        return Overloaded(f"{self.waiting} files wait to be decoded, the limit is {self._slots.waiting_limit}")


class _Waiter:
    """A thread in the queue."""

    __slots__ = ("error", "woken")

    def __init__(self) -> None:
        self.woken = threading.Event()
        self.error: Overloaded | None = None
