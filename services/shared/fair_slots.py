"""Slots for scarce work, with a bounded queue for them that is fair between tenants."""

from collections import OrderedDict, deque
from typing import Generic, TypeVar

WaiterT = TypeVar("WaiterT")


class QueueFull(Exception):
    """No more may wait, and no other tenant holds enough of the queue to give way."""


class FairSlots(Generic[WaiterT]):
    """Counts slots and queues waiters; tenants take turns, and one tenant's waiters are served in order of arrival.

    When the queue is full, the latest waiter of the tenant with the most waiters is evicted for a tenant that has
    fewer, so that no tenant can shut out others by sending many requests.

    This is bookkeeping without synchronization: `rpc.queueing.FairQueue` adds it for an event loop,
    `sandbox.queueing.ThreadFairQueue` for threads.

    Args:
        limit: Slots.
        waiting_limit: Waiters.
    """

    def __init__(self, limit: int, waiting_limit: int) -> None:
        if limit < 1 or waiting_limit < 0:
            raise ValueError("limit must be at least 1 and waiting_limit at least 0")
        self.limit = limit
        self.waiting_limit = waiting_limit
        self.running = 0
        self._queues: OrderedDict[str, deque[WaiterT]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Waiters of all tenants."""
        return sum(map(len, self._queues.values()))

    def try_acquire(self) -> bool:
        """Takes a slot if one is free and nobody waits for it."""
        free = self.running < self.limit and not self._queues
        self.running += free
        return free

    def release(self) -> None:
        """Frees a slot; call `grant` next."""
        self.running -= 1

    def enqueue(self, tenant: str, waiter: WaiterT) -> WaiterT | None:
        """Queues a waiter. Returns the waiter that was evicted for it, if any. Raises QueueFull."""
        evicted = self._evict(tenant) if self.waiting >= self.waiting_limit else None
        self._queues.setdefault(tenant, deque()).append(waiter)
        return evicted

    def grant(self) -> WaiterT | None:
        """Gives a free slot to the next waiter and returns it; None if no slot is free or nobody waits."""
        if not self._queues or self.running >= self.limit:
            return None
        tenant, queue = self._queues.popitem(last=False)
        waiter = queue.popleft()
        if queue:
            self._queues[tenant] = queue  # behind the other tenants
        self.running += 1
        return waiter

    def withdraw(self, tenant: str, waiter: WaiterT) -> bool:
        """Removes a waiter that gives up. Returns False if it is no longer queued."""
        queue = self._queues.get(tenant)
        if queue is None or waiter not in queue:
            return False
        queue.remove(waiter)
        if not queue:
            del self._queues[tenant]
        return True

    def _evict(self, tenant: str) -> WaiterT:
        own = len(self._queues.get(tenant, ()))
        largest = max(self._queues, key=lambda name: len(self._queues[name]), default=None)
        if largest is None or len(self._queues[largest]) <= own + 1:
            raise QueueFull
        return self._queues[largest].pop()
