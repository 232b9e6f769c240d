"""The pool of processes when the worker reconnects to Redis while a process is exiting."""

import os
from types import SimpleNamespace

import pytest
from celery.concurrency.asynpool import AsynPool
from kombu.asynchronous import Hub

from services.worker.reconnecting import ReconnectingPool


def exiting(pool: type[AsynPool], hub: Hub) -> tuple[AsynPool, SimpleNamespace]:
    """A pool without processes, and a process that it has stopped watching and not yet waited for."""
    read, write = os.pipe()
    process = SimpleNamespace(_popen=SimpleNamespace(sentinel=read))
    unstarted = object.__new__(pool)
    unstarted._track_child_process(process, hub)
    assert len(hub.readers) == 1
    unstarted._untrack_child_process(process, hub)
    os.close(read)
    os.close(write)
    return unstarted, process


def test_celery_still_needs_the_guard() -> None:
    hub = Hub()
    pool, process = exiting(AsynPool, hub)
    with pytest.raises(ValueError, match="file descriptor is None"):
        pool._track_child_process(process, hub)
    hub.close()


def test_a_process_that_is_exiting_is_not_watched_again() -> None:
    hub = Hub()
    pool, process = exiting(ReconnectingPool, hub)
    pool._track_child_process(process, hub)
    assert not hub.readers
    hub.close()
