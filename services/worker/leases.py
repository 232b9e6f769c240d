"""Leases on units, and how often each was tried. They expire by Redis' clock, so workers' clocks do not matter.

Celery delivers a message again if its worker died or takes long, and the reconciler queues units that seem to be lost.
A lease keeps two workers from doing the same unit at the same time. It only saves work: a unit that is done twice
produces the same objects.

Tries are counted in Redis because Celery counts retries in the message when a task fails: a unit that kills its worker
would be delivered again forever.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import redis
from redis.exceptions import LockError
from redis.lock import Lock

from services.shared.jobs.backlog import QueuedUnit

_PREFIX = "lyra:lease:"
_TRIES_PREFIX = "lyra:tries:"
_TRIES_SECONDS = 86_400
_RETRY_SECONDS = 0.2


class Leases:
    """Leases and tries of units.

    Args:
        client: Of Redis.
        seconds: Until a lease expires unless it is renewed, which happens every third of that.
    """

    def __init__(self, client: "redis.Redis", seconds: float) -> None:
        self._client = client
        self._seconds = seconds

    @contextmanager
    def hold(self, unit: QueuedUnit) -> Iterator[bool]:
        """Holds the unit's lease while the body runs. Yields False if another worker holds it.

        Raises redis.RedisError if Redis is unavailable at the start.
        """
        lock = self._client.lock(_PREFIX + unit.name, timeout=self._seconds, thread_local=False)
        if not lock.acquire(blocking=False):
            yield False
            return
        token, stop = lock.local.token, threading.Event()
        beat = threading.Thread(target=self._beat, args=(lock, token, stop), daemon=True, name="lease")
        beat.start()
        try:
            yield True
        finally:
            stop.set()
            beat.join()
            self._release(lock, token)

    def held(self, units: Iterable[QueuedUnit]) -> set[QueuedUnit]:
        """Those that a worker holds a lease of."""
        asked = list(units)
        values = cast("list[bytes | None]", self._client.mget([_PREFIX + unit.name for unit in asked])) if asked else []
        return {unit for unit, value in zip(asked, values, strict=True) if value is not None}

    def count_try(self, unit: QueuedUnit) -> int:
        """Counts an attempt at the unit; returns which one it is, from 1."""
        key = _TRIES_PREFIX + unit.name
        with self._client.pipeline() as pipeline:
            pipeline.incr(key)
            pipeline.expire(key, _TRIES_SECONDS)
            tries, _ = pipeline.execute()
        return int(tries)

    def forget_try(self, unit: QueuedUnit) -> None:
        """Takes back the last attempt, which did not fail through the unit's own fault."""
        with suppress(redis.RedisError):
            self._client.decr(_TRIES_PREFIX + unit.name)

    def forget_tries(self, unit: QueuedUnit) -> None:
        """The unit succeeded: earlier failures no longer count."""
        with suppress(redis.RedisError):
            self._client.delete(_TRIES_PREFIX + unit.name)

    def _release(self, lock: Lock, token: Any) -> None:
        """Retries while Redis is unavailable, because nobody else does the unit before its lease is gone."""
        expires = time.monotonic() + self._seconds
        while time.monotonic() < expires:
            try:
                lock.do_release(token)
            except LockError:
                return  # expired, or lost with Redis
            except redis.RedisError:
                time.sleep(_RETRY_SECONDS)
            else:
                return

    def _beat(self, lock: Lock, token: Any, stop: threading.Event) -> None:
        while not stop.wait(self._seconds / 3):
            with suppress(redis.RedisError):
                try:
                    lock.reacquire()
                except LockError:  # expired, or lost with Redis: take it again unless another worker has
                    lock.acquire(token=token, blocking=False)
