"""Tickets: what travels through Celery. A ticket is leave to do one unit of a queue; `queue` decides which.

Losing a ticket, or getting one twice, does no harm: the reconciler gives out tickets for units that wait without, and a
ticket for which nothing waits is torn up.
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
# A killed worker's ticket comes back to others after so many seconds. Work may take longer than that.
_TICKET_SECONDS = 60


class Queue(StrEnum):
    """Queues, each with workers and a concurrency of its own."""

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
    """Redis cannot be reached. What is in the store is safe; work goes on when Redis is back."""

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
        broker_channel_error_retry=True,  # a Redis that says no, as on a full disk, is waited for
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
    """Puts units into their queues and gives out tickets for them."""

    def __init__(self, client: "redis.Redis", celery: Celery) -> None:
        self._client = client
        self._celery = celery
        self.queues = {queue: UnitQueue(client, queue) for queue in Queue}

    def push(self, job: JobId, units: Iterable[Unit], priority: Priority) -> int:
        """Returns how many units are new. Raises QueueDown."""
        by_queue: dict[Queue, list[Unit]] = {}
        for unit in units:
            by_queue.setdefault(QUEUE_OF[unit.work], []).append(unit)
        new = 0
        try:
            for queue, some in by_queue.items():
                added = self.queues[queue].push(job, some, priority)
                self.give_tickets(queue, added)
                new += added
        except redis.RedisError as error:
            raise QueueDown from error
        return new

    def give_tickets(self, queue: Queue, count: int, after_seconds: float | None = None) -> None:
        """Raises QueueDown."""
        try:
            with self._celery.producer_pool.acquire(block=True) as producer:
                for _ in range(count):
                    self._celery.send_task(
                        WORK_TASK, (queue.value,), queue=queue.value, producer=producer, countdown=after_seconds
                    )
        except (OperationalError, OSError, redis.RedisError) as error:
            raise QueueDown from error

    def tickets(self, queue: Queue) -> int:
        """Tickets that no worker has taken yet."""
        return self._client.llen(KEY_PREFIX + queue.value)

    def pop(self, queue: Queue) -> Waiting | None:
        """The unit for a ticket. Raises QueueDown."""
        try:
            return self.queues[queue].pop()
        except redis.RedisError as error:
            raise QueueDown from error
