"""Fixes for Celery 5.7 and kombu 5.7, so that a worker keeps working whenever it has lost Redis."""

from typing import Any

from celery.concurrency import prefork
from celery.concurrency.asynpool import AsynPool
from kombu.asynchronous import Hub
from kombu.transport.redis import QoS


class ReconnectingPool(AsynPool):  # type: ignore[misc]  # Celery has no type information
    """Skips processes that are about to exit when the worker reconnects to Redis.

    A process is no longer watched once it has closed its files, but stays in the pool until it has been waited for. If
    Redis is lost in between, Celery tries to watch every process of the pool again on reconnecting, and the worker ends
    with "ValueError: file descriptor is None". Skipping the process is safe: the pool also looks for processes that
    have exited every five seconds.
    """

    def _track_child_process(self, proc: Any, hub: Hub) -> None:
        never_watched = not hasattr(proc, "_sentinel_poll")
        if never_watched or proc._sentinel_poll is not None:
            super()._track_child_process(proc, hub)


class ProcessPool(prefork.TaskPool):  # type: ignore[misc]
    """A worker's pool of processes."""

    Pool = ReconnectingPool


class ReconnectingQoS(QoS):
    """Frees the place of a message even if Redis could not be told that it was acknowledged or rejected.

    A worker that holds as many messages as its prefetch limit allows does not notice that Redis was lost, because
    redis-py reconnects by itself. kombu counts a message whose acknowledgement failed in the meantime towards the limit
    forever, until the worker takes no messages at all. Redis still has the message, and delivers it again after the
    visibility timeout.
    """

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        finally:
            self._quick_ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        try:
            super().reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]
        finally:
            self._quick_ack(delivery_tag)
