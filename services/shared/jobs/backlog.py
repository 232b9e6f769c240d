"""Fairness between tenants: units wait here until the dispatcher hands them to Celery, a few at a time.

Celery's queues are first in, first out: ten hours of audio would be served before everything that comes later. A
backlog is one sorted set in Redis per queue. The score of a waiting unit is its virtual start time (start-time
fair queueing, Goyal et al. 1996): a tenant's units are one apart, and a tenant who comes later starts next to the head.
A tenant's jobs take turns by their priority. From being handed to Celery until a worker starts them, units stay in the
set with a score above all of these; so the set's size is the number that waits, and no unit is queued twice.

All of this may be lost at any time: the reconciler adds units that are not done according to the store.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import redis

from services.shared.jobs.kinds import Priority
from services.shared.jobs.layout import JobId
from services.shared.jobs.state import Unit

WEIGHTS = {Priority.LOW: 0.25, Priority.NORMAL: 1.0, Priority.HIGH: 4.0}
KEY_PREFIX = "lyra:units:"
# Scores from here on: units in Celery's hands, by when that was; and those that wait for a retry, by when it is due.
_HANDED_OVER, _POSTPONED = 1e12, 2e12
_BEHIND_HEAD = 0.5


@dataclass(frozen=True, slots=True)
class QueuedUnit:
    """A unit of a job, with the job's priority."""

    job: JobId
    unit: Unit
    priority: Priority = Priority.NORMAL

    def __str__(self) -> str:
        return f"{self.job.tenant}/{self.job.job}/{self.unit}/{self.priority}"

    @property
    def name(self) -> str:
        """Of the unit, whatever its priority."""
        return f"{self.job.tenant}/{self.job.job}/{self.unit}"

    @classmethod
    def parse(cls, text: str) -> "QueuedUnit":
        """The inverse of `str`. Raises ValueError."""
        tenant, job, unit, priority = text.split("/")
        return cls(JobId(tenant, job), Unit.parse(unit), Priority(priority))


class Backlog:
    """The units of one queue that no worker has started.

    Args:
        client: Of Redis.
        queue: Name of the queue.
    """

    def __init__(self, client: "redis.Redis", queue: str) -> None:
        self._client = client
        self._key = KEY_PREFIX + queue

    def add(self, units: Sequence[QueuedUnit]) -> int:
        """Adds units of one tenant that are not queued yet; returns how many."""
        there = dict(self._all())
        new = [unit for unit in units if unit not in there]
        if not new:
            return 0
        waiting = [unit for unit, score in there.items() if score < _HANDED_OVER]
        own = [unit for unit in waiting if unit.job.tenant == new[0].job.tenant]
        first = there[own[0]] if own else there[waiting[0]] + _BEHIND_HEAD if waiting else 0.0
        scores = {str(unit): first + turn for turn, unit in enumerate(fair_order([*own, *new]))}
        with self._client.pipeline() as pipeline:
            if own:  # only ever move back: what was handed over meanwhile has a higher score, and keeps it
                pipeline.zadd(self._key, {str(unit): scores[str(unit)] for unit in own}, xx=True, gt=True)
            pipeline.zadd(self._key, {str(unit): scores[str(unit)] for unit in new}, nx=True)
            return int(pipeline.execute()[-1])

    def hand_over(self, window: int) -> list[QueuedUnit]:
        """Takes the units whose turn it is, as many as keep the number of those in Celery's hands at `window`."""
        with self._client.pipeline() as pipeline:
            pipeline.zcount(self._key, _HANDED_OVER, f"({_POSTPONED}")
            pipeline.zcount(self._key, "-inf", f"({_HANDED_OVER}")
            pipeline.time()
            handed_over, waiting, (seconds, microseconds) = pipeline.execute()
        wanted = min(window - handed_over, waiting)
        if wanted <= 0:
            return []
        popped = cast("list[tuple[bytes, float]]", self._client.zpopmin(self._key, wanted))
        at = _HANDED_OVER + seconds + microseconds / 1e6
        self._client.zadd(self._key, {member: max(score, at) for member, score in popped})
        return [QueuedUnit.parse(member.decode()) for member, score in popped if score < _HANDED_OVER]

    def remove(self, unit: QueuedUnit) -> None:
        """A worker has started the unit."""
        self._client.zrem(self._key, str(unit))

    def postpone(self, unit: QueuedUnit, seconds: float) -> None:
        """Celery retries the unit in so many seconds."""
        at, _ = self._client.time()
        self._client.zadd(self._key, {str(unit): _POSTPONED + at + seconds})

    def remove_job(self, job: JobId) -> None:
        """Removes the units of a job."""
        if found := [str(unit) for unit, _ in self._all() if unit.job == job]:
            self._client.zrem(self._key, *found)

    def forget_lost(self, older_than_seconds: float) -> int:
        """Removes units that should have started so long ago; returns how many. The reconciler adds them again."""
        at, _ = self._client.time()
        removed = 0
        for base, end in ((_HANDED_OVER, _POSTPONED), (_POSTPONED, math.inf)):
            limit = min(base + at - older_than_seconds, end)
            removed += self._client.zremrangebyscore(self._key, base, limit)
        return removed

    def __len__(self) -> int:
        return self._client.zcard(self._key)

    def _all(self) -> list[tuple[QueuedUnit, float]]:
        """By score."""
        found = cast("list[tuple[bytes, float]]", self._client.zrange(self._key, 0, -1, withscores=True))
        return [(QueuedUnit.parse(member.decode()), score) for member, score in found]


def fair_order(units: Sequence[QueuedUnit]) -> list[QueuedUnit]:
    """A tenant's units, with its jobs taking turns by the weight of their priorities; units of a job stay in order."""
    seen = Counter[JobId]()
    turns: dict[QueuedUnit, float] = {}
    for unit in units:
        seen[unit.job] += 1
        turns[unit] = seen[unit.job] / WEIGHTS[unit.priority]
    return sorted(turns, key=turns.__getitem__)
