"""Sequences that wait to be admitted, in order of priority, and fair between tenants within a priority.

Fairness is by virtual token counters (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024): the tenant
that has been served the fewest tokens is next. A tenant that returns after a pause starts level with those that were
busy, so that it cannot save up service.
"""

from collections import Counter, deque
from collections.abc import Iterator

from model_core.engine.sequence import Sequence

# A generated token costs more than a prompt token, as in the paper.
_GENERATED_WEIGHT = 2


class WaitingQueue:
    """Waiting sequences by priority and tenant."""

    def __init__(self) -> None:
        self._queues: dict[tuple[int, str], deque[Sequence]] = {}
        self._served: dict[str, float] = {}
        self._active: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[Sequence]:
        for queue in self._queues.values():
            yield from queue

    def push(self, sequence: Sequence) -> None:
        """Adds a sequence that has just arrived."""
        tenant = sequence.tenant
        if not self._active[tenant]:
            busy = [self._served[other] for other, count in self._active.items() if count]
            self._served[tenant] = max(self._served.get(tenant, 0.0), min(busy, default=0.0))
        self._active[tenant] += 1
        self._queue(sequence).append(sequence)

    def push_front(self, sequence: Sequence) -> None:
        """Puts back a sequence that was preempted: it is the next of its tenant."""
        self._queue(sequence).appendleft(sequence)

    def peek(self) -> Sequence | None:
        """The sequence to admit next."""
        waiting = [key for key, queue in self._queues.items() if queue]
        if not waiting:
            return None
        return self._queues[min(waiting, key=lambda key: (key[0], self._served[key[1]]))][0]

    def evictable(self, newcomer: Sequence) -> Sequence | None:
        """Who gives way to a newcomer: the latest of the tenant with the most, if those are at least two more."""
        counts = Counter(sequence.tenant for sequence in self)
        tenant, most = max(counts.items(), key=lambda item: item[1], default=("", 0))
        if most < counts[newcomer.tenant] + 2:
            return None
        return max((each for each in self if each.tenant == tenant), key=lambda each: (each.priority, each.arrival))

    def remove(self, sequence: Sequence) -> None:
        """Takes a sequence out of the queue, to run or because it was aborted."""
        key = sequence.priority, sequence.tenant
        self._queues[key].remove(sequence)
        if not self._queues[key]:
            del self._queues[key]

    def charge(self, sequence: Sequence, prompt_tokens: int = 0, generated_tokens: int = 0) -> None:
        """Counts work that was done for a sequence's tenant."""
        self._served[sequence.tenant] += prompt_tokens + _GENERATED_WEIGHT * generated_tokens

    def leave(self, sequence: Sequence) -> None:
        """Counts a sequence of a tenant out, once it has ended."""
        tenant = sequence.tenant
        self._active[tenant] -= 1
        if not self._active[tenant]:
            del self._active[tenant]
        if not self._active:
            self._served.clear()  # counters only matter relative to each other

    def _queue(self, sequence: Sequence) -> deque[Sequence]:
        return self._queues.setdefault((sequence.priority, sequence.tenant), deque())
