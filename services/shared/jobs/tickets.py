"""Tickets: the messages that Celery carries. A ticket lets a worker do one unit of a queue; `queue` decides which.

Tickets may be lost or delivered twice: the reconciler issues tickets for units that wait without one, and a ticket for
which no unit waits does nothing.
"""

from collections.abc import Iterable
from enum import StrEnum

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from services.shared.jobs.kinds import Priority
from services.shared.jobs.layout import JobId
from services.shared.jobs.queue import UnitQueue, Waiting
from services.shared.jobs.settings import JobSettings
from services.shared.jobs.state import Unit, Work
from services.shared.service_errors import Unavailable

WORK_TASK = "lyra.work"
KEY_PREFIX = "lyra:celery:"
# A killed worker's ticket is delivered again after so many seconds. Units may take longer than that.
_TICKET_SECONDS = 60


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


class QueueDown(Unavailable):
    """Redis cannot be reached. Nothing in the store is lost; work continues when Redis is back."""

    def __init__(self) -> None:
        super().__init__("redis", "the queue cannot be reached", 5.0)


def make_celery(settings: JobSettings) -> Celery:
    """Celery on Redis, as every process of the platform uses it."""
    app = Celery("lyra", broker=settings.redis_url)
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_default_queue=Queue.HOUSEKEEPING,
        task_publish_retry=False,
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        broker_channel_error_retry=True,  # wait for a Redis that refuses writes, as on a full disk
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": _TICKET_SECONDS,
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


class Dispatcher:
    """Queues units and issues tickets for them."""

    def __init__(self, client: "redis.Redis", celery: Celery) -> None:
        self._client = client
        self._celery = celery
        self.queues = {queue: UnitQueue(client, queue) for queue in Queue}

    def push(self, job: JobId, units: Iterable[Unit], priority: Priority) -> int:
        """Queues units; returns how many were not queued before. Raises QueueDown."""
        by_queue: dict[Queue, list[Unit]] = {}
        for unit in units:
            by_queue.setdefault(QUEUE_OF[unit.work], []).append(unit)
        new = 0
        try:
            for queue, some in by_queue.items():
                added = self.queues[queue].push(job, some, priority)
                self.issue_tickets(queue, added)
                new += added
        except redis.RedisError as error:
            raise QueueDown from error
        return new

    def issue_tickets(self, queue: Queue, count: int, after_seconds: float | None = None) -> None:
        """Issues tickets of a queue, to be used after so many seconds. Raises QueueDown."""
        try:
            with self._celery.producer_pool.acquire(block=True) as producer:
                for _ in range(count):
                    self._celery.send_task(
                        WORK_TASK, (queue.value,), queue=queue.value, producer=producer, countdown=after_seconds
                    )
        except (OperationalError, OSError, redis.RedisError) as error:
            raise QueueDown from error

    def tickets(self, queue: Queue) -> int:
        """Tickets that no worker has taken."""
        return self._client.llen(KEY_PREFIX + queue.value)

    def pop(self, queue: Queue) -> Waiting | None:
        """Takes the unit for a ticket. Raises QueueDown."""
        try:
            return self.queues[queue].pop()
        except redis.RedisError as error:
            raise QueueDown from error
