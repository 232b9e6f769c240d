"""Metrics of long-audio jobs: queue lengths from Redis, jobs by state from the object store."""

import json
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import redis

from services.operations.cluster.cluster_errors import Unreachable
from services.shared.jobs.backlog import Backlog
from services.shared.jobs.dispatch import KEY_PREFIX, Queue, open_redis
from services.shared.jobs.kinds import State
from services.shared.jobs.layout import JobId
from services.shared.jobs.settings import JobSettings
from services.shared.jobs.store import JobStore, UnknownJob
from services.shared.storage.client import ObjectStore

_READS_AT_ONCE = 8
_TAKEN = KEY_PREFIX + "unacked"  # where Celery keeps messages that workers have taken and not acknowledged


@dataclass(frozen=True, slots=True)
class QueueLength:
    """Length of a queue.

    Attributes:
        waiting: Units that no worker has started.
        taken: Tasks that workers hold: units that run, or wait for a retry.
    """

    queue: str
    waiting: int
    taken: int


@dataclass(frozen=True, slots=True)
class JobMetrics:
    """Queues and jobs at one point in time.

    Attributes:
        queues: In the order in which a job passes through them.
        open: Number of unfinished jobs by state.
        ended: Number of finished jobs that were submitted within the last `hours`, by state.
        tenants: Number of unfinished jobs by tenant.
        seconds_left: Seconds of audio that remain to be encoded for unfinished jobs, as far as they are planned.
    """

    queues: tuple[QueueLength, ...]
    open: dict[str, int]
    ended: dict[str, int]
    tenants: dict[str, int]
    seconds_left: float
    hours: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def job_metrics(settings: JobSettings, hours: float = 24.0) -> JobMetrics:
    """Counts queues and jobs.

    Args:
        hours: Finished jobs count if they were submitted within this time.

    Raises:
        Unreachable: Redis does not respond.
        StoreUnavailable: The object store does not respond.
    """
    queues = queue_lengths(open_redis(settings))
    job_store = JobStore(ObjectStore(settings))
    active = set(job_store.active())
    recent = set(job_store.submitted_since(datetime.now(UTC) - timedelta(hours=hours)))
    opened, ended, tenants, left = Counter[str](), Counter[str](), Counter[str](), 0.0
    for job, state, seconds in _states(job_store, active | recent):
        if state in (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED):
            ended[state.value] += job in recent
        else:
            opened[state.value] += 1
            tenants[job.tenant] += 1
            left += seconds
    return JobMetrics(queues, dict(opened), dict(+ended), dict(tenants), round(left, 1), hours)


def queue_lengths(client: "redis.Redis") -> tuple[QueueLength, ...]:
    """Length of each queue. Raises Unreachable."""
    try:
        taken = Counter(_queues_of(cast("list[bytes]", client.hvals(_TAKEN))))
        return tuple(QueueLength(queue.value, len(Backlog(client, queue)), taken[queue.value]) for queue in Queue)
    except redis.RedisError as error:
        raise Unreachable(
            "Redis cannot be reached",
            "set LYRA_REDIS_URL; for the bundled one, run in another terminal: "
            "`kubectl port-forward service/RELEASE-redis 6379` (docs/deploy/cluster.md)",
        ) from error


def _queues_of(messages: Iterable[bytes]) -> Iterable[str]:
    """The queue of each message that Celery keeps: JSON of message, exchange and routing key."""
    for message in messages:
        yield str(json.loads(message)[2])


def _states(job_store: JobStore, jobs: Iterable[JobId]) -> Iterable[tuple[JobId, State, float]]:
    """State and seconds of audio left of each job that still exists."""

    def read(job: JobId) -> tuple[JobId, State, float] | None:
        try:
            end = job_store.end(job)
            if end is not None:
                return job, end.state, 0.0
            view = job_store.read(job)
            return job, view.state, sum(clip.seconds for clip in view.open_clips)
        except UnknownJob:
            return None

    with ThreadPoolExecutor(_READS_AT_ONCE, thread_name_prefix="jobs") as threads:
        return [each for each in threads.map(read, sorted(jobs)) if each is not None]
