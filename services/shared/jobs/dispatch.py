"""Celery as every process of the platform uses it, and the dispatcher that hands it units of jobs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum

import redis
from celery import Celery
from kombu.exceptions import OperationalError
from kombu.transport.redis import PRIORITY_STEPS, Channel

from services.shared.jobs.backlog import Backlog, QueuedUnit
from services.shared.jobs.kinds import Priority
from services.shared.jobs.layout import JobId
from services.shared.jobs.settings import JobSettings
from services.shared.jobs.state import Unit, Work
from services.shared.service_errors import Unavailable

KEY_PREFIX = "lyra:celery:"
# A message that is not acknowledged in this time is delivered again. Units may take longer: their lease is held.
_VISIBILITY_SECONDS = 60


class Queue(StrEnum):
    """Celery's queues, each with its own workers and concurrency."""

    PLANS = "plans"
    CLIPS = "clips"
    ANSWERS = "answers"
    WEBHOOKS = "webhooks"
    HOUSEKEEPING = "housekeeping"


QUEUE_OF = {
    Work.PLAN: Queue.PLANS,
    Work.CLIP: Queue.CLIPS,
    Work.WINDOWS: Queue.ANSWERS,
    Work.WINDOW: Queue.ANSWERS,
    Work.ANSWER: Queue.ANSWERS,
    Work.FINISH: Queue.ANSWERS,
    Work.CALL_BACK: Queue.WEBHOOKS,
}
# Units that wait in Celery itself: enough to keep workers busy, as another is handed over whenever one starts, and few,
# because units that arrive later wait for all of them.
_WINDOW = {Queue.PLANS: 2, Queue.CLIPS: 32, Queue.ANSWERS: 2, Queue.WEBHOOKS: 8, Queue.HOUSEKEEPING: 0}
# Redis' priority step, for units within the window; the backlog decides between tenants and jobs.
_PRIORITY = {Priority.HIGH: 0, Priority.NORMAL: 3, Priority.LOW: 6}
_STEPS = ("", *(f"{Channel.sep}{step}" for step in PRIORITY_STEPS[1:]))  # what kombu appends to a queue's name


class QueueDown(Unavailable):
    """Redis cannot be reached. Nothing in the store is lost; work continues when Redis is back."""

    def __init__(self) -> None:
        super().__init__("redis", "the queue cannot be reached", 5.0)


def task_name(work: Work) -> str:
    """Name of the Celery task that does units of a kind."""
    return f"lyra.{work}"


def make_celery(settings: JobSettings) -> Celery:
    """Celery on Redis. Publishing fails at once without Redis; workers change that."""
    app = Celery("lyra", broker=settings.redis_url)
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_default_queue=Queue.HOUSEKEEPING,
        task_routes={task_name(work): {"queue": queue.value} for work, queue in QUEUE_OF.items()},
        task_publish_retry=False,
        task_send_sent_event=True,
        worker_send_task_events=True,
        # Needs a subscription; if that loses Redis first, kombu 5.7 ends the worker instead of reconnecting.
        worker_enable_remote_control=False,
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        broker_channel_error_retry=True,  # wait for a Redis that refuses writes, as on a full disk
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": _VISIBILITY_SECONDS,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "socket_timeout": settings.redis_seconds,
            "socket_connect_timeout": settings.redis_seconds,
            "global_keyprefix": KEY_PREFIX,
        },
    )
    return app


def open_redis(settings: JobSettings) -> "redis.Redis":
    """A client; nothing is connected yet."""
    seconds = settings.redis_seconds
    return redis.Redis.from_url(settings.redis_url, socket_timeout=seconds, socket_connect_timeout=seconds)


@contextmanager
def raising_queue_down() -> Iterator[None]:
    """Turns errors of Redis into QueueDown."""
    try:
        yield
    except (OperationalError, OSError, redis.RedisError) as error:
        raise QueueDown from error


class Dispatcher:
    """Queues units. Every method raises QueueDown if Redis cannot be reached or refuses writes."""

    def __init__(self, client: "redis.Redis", celery: Celery) -> None:
        self._client = client
        self._celery = celery
        self.backlogs = {queue: Backlog(client, queue) for queue in Queue}

    @raising_queue_down()
    def push(self, job: JobId, units: Iterable[Unit], priority: Priority) -> int:
        """Queues units that are not queued yet; returns how many."""
        by_queue: dict[Queue, list[QueuedUnit]] = {}
        for unit in units:
            by_queue.setdefault(QUEUE_OF[unit.work], []).append(QueuedUnit(job, unit, priority))
        new = sum(self.backlogs[queue].add(some) for queue, some in by_queue.items())
        self.fill(by_queue)
        return new

    @raising_queue_down()
    def start(self, unit: QueuedUnit) -> None:
        """A worker starts the unit: it no longer waits, and another one takes its place in Celery's queue."""
        queue = QUEUE_OF[unit.unit.work]
        self.backlogs[queue].remove(unit)
        self.fill([queue])

    @raising_queue_down()
    def postpone(self, unit: QueuedUnit, seconds: float) -> None:
        """The unit is about to be retried by Celery in so many seconds."""
        self.backlogs[QUEUE_OF[unit.unit.work]].postpone(unit, seconds)

    @raising_queue_down()
    def drop(self, job: JobId) -> None:
        """Drops the job's waiting units. Those that Celery holds end when a worker sees that the job has ended."""
        for backlog in self.backlogs.values():
            backlog.remove_job(job)
        self.fill()

    @raising_queue_down()
    def forget_lost(self, older_than_seconds: float) -> None:
        """Drops units that were handed to Celery so long ago, are no longer there and have not been started.

        They are lost after a failover of Redis, or if a worker died between receiving and starting them.
        """
        for queue, backlog in self.backlogs.items():
            if not any(self._client.llen(KEY_PREFIX + queue.value + step) for step in _STEPS):
                backlog.forget_lost(older_than_seconds)

    @raising_queue_down()
    def fill(self, queues: Iterable[Queue] = Queue) -> None:
        """Hands units to Celery until its queues are as long as they should be."""
        for queue in queues:
            for queued in self.backlogs[queue].hand_over(_WINDOW[queue]):
                job, unit, priority = queued.job, queued.unit, queued.priority
                self._celery.send_task(
                    task_name(unit.work),
                    (job.tenant, job.job),
                    {"index": unit.index, "answer": unit.answer, "priority": priority.value},
                    priority=_PRIORITY[priority],
                )
