"""Leases on units, and how often each was tried. They expire by Redis' clock, so workers' clocks do not matter.

A lease keeps two workers from doing the same unit at the same time. It only saves work: a unit that is done twice
produces the same objects. A unit that has started therefore finishes even if Redis becomes unavailable.
"""

import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import cast

import redis

from services.shared.jobs.queue import Waiting

_PREFIX = "lyra:lease:"
_TRIES_PREFIX = "lyra:tries:"
_TRIES_SECONDS = 86_400
_RETRY_SECONDS = 0.2

_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Leases:
    """Leases and tries of units.

    Args:
        client: Of Redis.
        seconds: Until a lease expires unless it is renewed, which happens every third of that.
    """

    def __init__(self, client: "redis.Redis", seconds: float) -> None:
        self._client = client
        self._milliseconds = int(seconds * 1000)
        self._renew = client.register_script(_RENEW)
        self._release = client.register_script(_RELEASE)

    @contextmanager
    def hold(self, unit: Waiting) -> Iterator[bool]:
        """Holds the unit's lease while the body runs. Yields False if another worker holds it.

        Raises redis.RedisError if Redis is unavailable at the start.
        """
        key, token, stop = _key(unit), secrets.token_hex(8), threading.Event()
        if not self._client.set(key, token, nx=True, px=self._milliseconds):
            yield False
            return
        beat = threading.Thread(target=self._beat, args=(key, token, stop), daemon=True, name="lease")
        beat.start()
        try:
            yield True
        finally:
            stop.set()
            beat.join()
            self._release_lease(key, token)

    def held(self, units: Iterable[Waiting]) -> set[Waiting]:
        """Those that a worker holds a lease of."""
        asked = list(units)
        values = cast("list[bytes | None]", self._client.mget([_key(unit) for unit in asked])) if asked else []
        return {unit for unit, value in zip(asked, values, strict=True) if value is not None}

    def count_try(self, unit: Waiting) -> int:
        """Counts an attempt at the unit; returns which one it is, from 1."""
        key = _TRIES_PREFIX + _name(unit)
        with self._client.pipeline() as pipeline:
            pipeline.incr(key)
            pipeline.expire(key, _TRIES_SECONDS)
            tries, _ = pipeline.execute()
        return int(tries)

    def forget_try(self, unit: Waiting) -> None:
        """Takes back the last attempt, which did not fail through the unit's own fault."""
        with suppress(redis.RedisError):
            self._client.decr(_TRIES_PREFIX + _name(unit))

    def forget_tries(self, unit: Waiting) -> None:
        """The unit succeeded: earlier failures no longer count."""
        with suppress(redis.RedisError):
            self._client.delete(_TRIES_PREFIX + _name(unit))

    def _release_lease(self, key: str, token: str) -> None:
        """Retries while Redis is unavailable, because nobody else does the unit before its lease is gone."""
        expires = time.monotonic() + self._milliseconds / 1000
        while time.monotonic() < expires:
            try:
                self._release(keys=[key], args=[token])
            except redis.RedisError:
                time.sleep(_RETRY_SECONDS)
            else:
                return

    def _beat(self, key: str, token: str, stop: threading.Event) -> None:
        while not stop.wait(self._milliseconds / 3000):
            with suppress(redis.RedisError):
                if not self._renew(keys=[key], args=[token, self._milliseconds]):
                    # Lost with Redis, or expired in the meantime: take it again unless another worker has.
                    self._client.set(key, token, nx=True, px=self._milliseconds)


def _name(unit: Waiting) -> str:
    return f"{unit.job.tenant}/{unit}"


def _key(unit: Waiting) -> str:
    return _PREFIX + _name(unit)
