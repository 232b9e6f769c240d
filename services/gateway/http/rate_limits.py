"""Rate limits by key and address, counted by the library `limits` in Redis across all gateways.

While Redis is unavailable, each gateway counts in its own memory, so a limit applies per gateway: an outage of the
counter should neither refuse all requests nor allow unlimited ones.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from limits import RateLimitItem
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError
from prometheus_client import Counter
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from services.gateway.http.access_settings import AccessSettings, parse_rate
from services.gateway.http.api_errors import ApiError
from services.shared import telemetry

log = telemetry.get_logger(__name__)

KEY, ADDRESS, FAILED_KEYS = "key", "address", "failed_keys"
RATE_LIMITED = Counter("lyra_rate_limited_total", "Requests refused by a rate limit.", ("limit",))
for _name in (KEY, ADDRESS, FAILED_KEYS):
    RATE_LIMITED.labels(_name)

KEY_PREFIX = "lyra:limits"
_CONNECTIONS = 16
_RETRY_SECONDS = 5.0  # between attempts to reach an unavailable Redis
_WHAT = {
    KEY: "requests with this key",
    ADDRESS: "requests from this address",
    FAILED_KEYS: "requests without a valid key",
}


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """State of a limit after a request was counted; it allows more again in `reset_seconds`."""

    limit: str
    rate: RateLimitItem
    allowed: bool
    remaining: int
    reset_seconds: float

    def error(self) -> ApiError:
        """The response if the request is not allowed."""
        many, unit = self.rate.multiples, self.rate.GRANULARITY.name
        per = f"{many} {unit}s" if many > 1 else unit
        text = f"More than {self.rate.amount:,} {_WHAT[self.limit]} per {per}. Please try again later."
        return ApiError(429, text, code="rate_limit_exceeded", retry_after_seconds=self.reset_seconds)


class RateLimits:
    """The rate limits, shared by all gateways that use the same Redis."""

    def __init__(self, settings: AccessSettings, redis_url: str) -> None:
        self._per_key = parse_rate(settings.rate_limit_per_key)
        self._per_address = parse_rate(settings.rate_limit_per_address)
        self._failed_keys = parse_rate(settings.rate_limit_failed_keys)
        self._counters = _Counters(redis_url, settings.rate_limit_redis_seconds)

    async def request(self, key_id: str, address: str) -> list[LimitStatus]:
        """Counts a request with a valid key. Only the last status may refuse it; limits after that do not count it."""
        statuses: list[LimitStatus] = []
        for limit, rate, who in ((ADDRESS, self._per_address, address), (KEY, self._per_key, key_id)):
            if rate is not None and (not statuses or statuses[-1].allowed):
                statuses.append(await self._hit(limit, rate, who))
        return statuses

    async def failed_key(self, address: str) -> LimitStatus | None:
        """Counts a request without a valid key."""
        return await self._hit(FAILED_KEYS, self._failed_keys, address) if self._failed_keys else None

    async def close(self) -> None:
        await self._counters.close()

    async def _hit(self, limit: str, rate: RateLimitItem, who: str) -> LimitStatus:
        status = await self._counters.hit(limit, rate, who)
        if not status.allowed:
            RATE_LIMITED.labels(limit).inc()
        return status


class _Counters:
    """Counters in Redis, or in this process's memory while Redis is unavailable."""

    def __init__(self, redis_url: str, seconds: float) -> None:
        self._seconds = seconds
        self._slots = asyncio.Semaphore(_CONNECTIONS)
        self._pool = ConnectionPool.from_url(
            redis_url,
            max_connections=_CONNECTIONS,
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            retry=Retry(NoBackoff(), 0),  # retried below: later, counting in memory meanwhile
        )
        # The URL only selects the implementation; the pool has the address.
        storage = RedisStorage(
            "async+redis://",
            wrap_exceptions=True,
            implementation="redispy",
            key_prefix=KEY_PREFIX,
            connection_pool=self._pool,  # type: ignore[arg-type]  # as documented
        )
        self._shared = SlidingWindowCounterRateLimiter(storage)
        self._local = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._is_down = False
        self._answered_at = self._retry_at = 0.0

    async def hit(self, limit: str, rate: RateLimitItem, who: str) -> LimitStatus:
        """Counts a request and returns the state of the limit."""
        # Waiting for a slot is not waiting for Redis, so the timeout starts afterwards. If Redis fails in the meantime,
        # those who waited count in memory.
        async with self._slots:
            if self._should_try_redis():
                started = time.monotonic()
                try:
                    async with asyncio.timeout(self._seconds):
                        status = await _hit(self._shared, limit, rate, who)
                except (StorageError, OSError) as error:  # TimeoutError is an OSError
                    # If another request got an answer meanwhile, this process was busy rather than Redis down: only
                    # this request is counted in memory.
                    if self._answered_at < started:
                        self._mark_down(error)
                else:
                    self._mark_up()
                    return status
        return await _hit(self._local, limit, rate, who)

    async def close(self) -> None:
        await self._pool.aclose()

    def _should_try_redis(self) -> bool:
        """While Redis is down, one request in _RETRY_SECONDS probes it; the others do not wait for it."""
        if not self._is_down:
            return True
        now = time.monotonic()
        if now < self._retry_at:
            return False
        self._retry_at = now + _RETRY_SECONDS
        return True

    def _mark_down(self, error: Exception) -> None:
        if not self._is_down:
            reason = "no answer in time" if isinstance(error, TimeoutError) else str(error)
            log.warning(
                "Redis is unavailable: until it is back, this gateway counts requests on its own", reason=reason
            )
        self._is_down, self._retry_at = True, time.monotonic() + _RETRY_SECONDS

    def _mark_up(self) -> None:
        if self._is_down:
            log.info("Redis is available: requests are counted across all gateways again")
        self._is_down, self._answered_at = False, time.monotonic()


async def _hit(limiter: SlidingWindowCounterRateLimiter, limit: str, rate: RateLimitItem, who: str) -> LimitStatus:
    allowed = await limiter.hit(rate, limit, who)
    stats = await limiter.get_window_stats(rate, limit, who)
    return LimitStatus(
        limit, rate, allowed, stats.remaining if allowed else 0, max(0.0, stats.reset_time - time.time())
    )


def headers(statuses: Sequence[LimitStatus]) -> dict[str, str]:
    """RateLimit headers (draft-ietf-httpapi-ratelimit-headers) of all limits, and OpenAI's headers of the key's."""
    if not statuses:
        return {}
    fields = {
        "RateLimit-Policy": ", ".join(
            f'"{each.limit}";q={each.rate.amount};w={each.rate.get_expiry()}' for each in statuses
        ),
        "RateLimit": ", ".join(
            f'"{each.limit}";r={each.remaining};t={math.ceil(each.reset_seconds)}' for each in statuses
        ),
    }
    for each in statuses:
        if each.limit == KEY:
            fields["x-ratelimit-limit-requests"] = str(each.rate.amount)
            fields["x-ratelimit-remaining-requests"] = str(each.remaining)
            fields["x-ratelimit-reset-requests"] = _duration(each.reset_seconds)
    return fields


def _duration(seconds: float) -> str:
    """In OpenAI's format: 12s, 1m30s, 2h0m5s."""
    minutes, whole = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{whole}s"
