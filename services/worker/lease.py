"""Leases: who works on a unit now. They run by Redis' clock alone, so no machine's clock matters.

A lease only spares work that another worker is doing: units may be done twice, and give the same objects. So where
Redis is gone, a unit that has begun goes on to its end.
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
_ASK_AGAIN_SECONDS = 0.2

_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Leases:
    """Leases and tries of units.

    Args:
        client: Of Redis.
        seconds: That a lease holds without a sign of life; one is given every third of that.
    """

    def __init__(self, client: "redis.Redis", seconds: float) -> None:
        self._client = client
        self._milliseconds = int(seconds * 1000)
        self._renew = client.register_script(_RENEW)
        self._release = client.register_script(_RELEASE)

    @contextmanager
    def hold(self, unit: Waiting) -> Iterator[bool]:
        """Holds the unit's lease while the body runs. Gives whether it was to be had; False where another holds it.

        Raises redis.RedisError where Redis is gone to begin with.
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
            self._let_go(key, token)

    def held(self, units: Iterable[Waiting]) -> set[Waiting]:
        """Those that somebody works on."""
        asked = list(units)
        values = cast("list[bytes | None]", self._client.mget([_key(unit) for unit in asked])) if asked else []
        return {unit for unit, value in zip(asked, values, strict=True) if value is not None}

    def count_try(self, unit: Waiting) -> int:
        """Which try of the unit this is, from 1."""
        key = _TRIES_PREFIX + _name(unit)
        with self._client.pipeline() as pipeline:
            pipeline.incr(key)
            pipeline.expire(key, _TRIES_SECONDS)
            tries, _ = pipeline.execute()
        return int(tries)

    def forget_try(self, unit: Waiting) -> None:
        """The try that was counted last was not the unit's fault."""
        with suppress(redis.RedisError):
            self._client.decr(_TRIES_PREFIX + _name(unit))

    def forget_tries(self, unit: Waiting) -> None:
        """It was done: what went wrong before counts no more."""
        with suppress(redis.RedisError):
            self._client.delete(_TRIES_PREFIX + _name(unit))

    def _let_go(self, key: str, token: str) -> None:
        """Nobody does the unit before its lease is gone, so a Redis that cannot take it now is asked until it has."""
        runs_out = time.monotonic() + self._milliseconds / 1000
        while time.monotonic() < runs_out:
            try:
                self._release(keys=[key], args=[token])
            except redis.RedisError:
                time.sleep(_ASK_AGAIN_SECONDS)
            else:
                return

    def _beat(self, key: str, token: str, stop: threading.Event) -> None:
        while not stop.wait(self._milliseconds / 3000):
            with suppress(redis.RedisError):
                if not self._renew(keys=[key], args=[token, self._milliseconds]):
                    # Redis lost it, or it ran out while Redis was gone: take it again if nobody else has.
                    self._client.set(key, token, nx=True, px=self._milliseconds)


def _name(unit: Waiting) -> str:
    return f"{unit.job.tenant}/{unit}"


def _key(unit: Waiting) -> str:
    return _PREFIX + _name(unit)
