"""What a job waits for at the moment: told by the worker that found it away, in Redis, and forgotten after a while."""

import time
from collections.abc import Callable

import redis

from services.shared.jobs.layout import JobId
from services.shared.service_errors import Overloaded, Unavailable

_PREFIX = "lyra:waits:"
_KEPT_SECONDS = 10.0  # longer than the unit rests
_REDIS_REST_SECONDS = 5.0


class Waits:
    """What jobs wait for. Where Redis cannot say or take it, nothing fails."""

    def __init__(self, client: "redis.Redis") -> None:
        self._client = client
        self._rests_until = 0.0

    def note(self, job: JobId, error: Unavailable | Overloaded) -> None:
        """A unit of the job waits because of `error`."""
        seconds = int(error.retry_after_seconds + _KEPT_SECONDS)
        self._ask(lambda: self._client.set(_PREFIX + job.prefix, error.message, ex=seconds))

    def clear(self, job: JobId) -> None:
        """A unit of the job was done."""
        self._ask(lambda: self._client.delete(_PREFIX + job.prefix))

    def reason(self, job: JobId) -> str:
        """Why a unit of the job waits; empty where none does."""
        found = self._ask(lambda: self._client.get(_PREFIX + job.prefix))
        return found.decode() if isinstance(found, bytes) else ""

    def _ask(self, call: Callable[[], object]) -> object:
        """None where Redis is away; then it is left alone for a while, so that a page of jobs is not slow."""
        if time.monotonic() < self._rests_until:
            return None
        try:
            return call()
        except redis.RedisError:
            self._rests_until = time.monotonic() + _REDIS_REST_SECONDS
            return None
