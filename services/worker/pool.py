"""Celery's pool of processes, with a guard around a bug that ends the worker."""

from typing import Any

from celery.concurrency import prefork
from celery.concurrency.asynpool import AsynPool
from kombu.asynchronous import Hub


class ReconnectingPool(AsynPool):  # type: ignore[misc]  # Celery has no type information
    """Skips processes that are about to exit when the worker reconnects to Redis.

    A process is no longer watched once it has closed its files, but stays in the pool until it has been waited for. If
    Redis is lost in between, Celery 5.7 tries to watch every process of the pool again on reconnecting, and the worker
    ends with "ValueError: file descriptor is None". Skipping the process is safe: the pool also looks for processes
    that have exited every five seconds.
    """

    def _track_child_process(self, proc: Any, hub: Hub) -> None:
        never_watched = not hasattr(proc, "_sentinel_poll")
        if never_watched or proc._sentinel_poll is not None:
            super()._track_child_process(proc, hub)


class ProcessPool(prefork.TaskPool):  # type: ignore[misc]
    """The workers' pool of processes: `pool="services.worker.pool:ProcessPool"`."""

    Pool = ReconnectingPool
