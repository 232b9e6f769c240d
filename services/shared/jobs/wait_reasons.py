"""Why jobs are waiting: recorded in Redis by the worker that found a service unavailable, and dropped after a while."""

import time
from collections.abc import Callable

import redis

from services.shared.jobs.layout import JobId
from services.shared.service_errors import Overloaded, Unavailable

_PREFIX = "lyra:waits:"
_EXTRA_SECONDS = 10.0  # beyond the time after which the unit is tried again
_REDIS_RETRY_SECONDS = 5.0


class WaitReasons:
    """Why jobs are waiting. Best effort: without Redis there is no reason, and no error."""

    def __init__(self, client: "redis.Redis") -> None:
        self._client = client
        self._skip_until = 0.0

    def record(self, job: JobId, error: Unavailable | Overloaded) -> None:
        """A unit of the job waits because of `error`."""
        seconds = int(error.retry_after_seconds + _EXTRA_SECONDS)
        self._try(lambda: self._client.set(_PREFIX + job.prefix, error.message, ex=seconds))

    def clear(self, job: JobId) -> None:
        """A unit of the job was completed."""
        self._try(lambda: self._client.delete(_PREFIX + job.prefix))

    def get(self, job: JobId) -> str:
        """Why a unit of the job is waiting; empty if none is."""
        found = self._try(lambda: self._client.get(_PREFIX + job.prefix))
        return found.decode() if isinstance(found, bytes) else ""

    def _try(self, call: Callable[[], object]) -> object:
        """None if Redis is unavailable; it is then skipped for a while, so that listing many jobs stays fast."""
        if time.monotonic() < self._skip_until:
            return None
        try:
            return call()
        except redis.RedisError:
            self._skip_until = time.monotonic() + _REDIS_RETRY_SECONDS
            return None
