"""How often a key and an address may ask: counted by `limits` in Redis, for all gateways together.

While Redis does not answer, each gateway counts in its own memory: a limit then holds for each gateway, not for all of
them. An outage of a counter is no reason to refuse everybody, nor to let everybody do anything.
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
RATE_LIMITED = Counter("lyra_rate_limited_total", "Requests that were refused for coming too often.", ("limit",))
for _name in (KEY, ADDRESS, FAILED_KEYS):
    RATE_LIMITED.labels(_name)

KEY_PREFIX = "lyra:limits"
_CONNECTIONS = 16
_RETRY_SECONDS = 5.0  # between two looks whether Redis is back
_WHOSE = {
    KEY: "requests with this key",
    ADDRESS: "requests from this address",
    FAILED_KEYS: "requests without a good key",
}


@dataclass(frozen=True, slots=True)
class Standing:
    """A limit after a request was held against it; `reset_seconds` are those until it allows more than now."""

    limit: str
    rate: RateLimitItem
    allowed: bool
    remaining: int
    reset_seconds: float

    def error(self) -> ApiError:
        """The refusal of what is not allowed."""
        many, unit = self.rate.multiples, self.rate.GRANULARITY.name
        per = f"{many} {unit}s" if many > 1 else unit
        text = f"More than {self.rate.amount:,} {_WHOSE[self.limit]} per {per}. Please try again later."
        return ApiError(429, text, code="rate_limit_exceeded", retry_after_seconds=self.reset_seconds)


class RateLimits:
    """The limits of one gateway. They are shared with all gateways that have the same Redis."""

    def __init__(self, settings: AccessSettings, redis_url: str) -> None:
        self._per_key = parse_rate(settings.rate_limit_per_key)
        self._per_address = parse_rate(settings.rate_limit_per_address)
        self._failed_keys = parse_rate(settings.rate_limit_failed_keys)
        self._counts = _Counts(redis_url, settings.rate_limit_redis_seconds)

    async def request(self, key_id: str, address: str) -> list[Standing]:
        """Counts a request with a good key. Only the last standing may refuse it; limits after that do not count it."""
        standings: list[Standing] = []
        for limit, rate, who in ((ADDRESS, self._per_address, address), (KEY, self._per_key, key_id)):
            if rate is not None and (not standings or standings[-1].allowed):
                standings.append(await self._hit(limit, rate, who))
        return standings

    async def failed_key(self, address: str) -> Standing | None:
        """Counts a request without a good key."""
        return await self._hit(FAILED_KEYS, self._failed_keys, address) if self._failed_keys else None

    async def close(self) -> None:
        await self._counts.close()

    async def _hit(self, limit: str, rate: RateLimitItem, who: str) -> Standing:
        standing = await self._counts.hit(limit, rate, who)
        if not standing.allowed:
            RATE_LIMITED.labels(limit).inc()
        return standing


class _Counts:
    """Counters in Redis, or in this process's memory while Redis does not answer."""

    def __init__(self, redis_url: str, seconds: float) -> None:
        self._seconds = seconds
        self._slots = asyncio.Semaphore(_CONNECTIONS)
        self._pool = ConnectionPool.from_url(
            redis_url,
            max_connections=_CONNECTIONS,
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            retry=Retry(NoBackoff(), 0),  # the retry is ours: later, and meanwhile in memory
        )
        # The scheme only tells `limits` that the server is a Redis; where it is, the pool knows.
        storage = RedisStorage(
            "async+redis://",
            wrap_exceptions=True,
            implementation="redispy",
            key_prefix=KEY_PREFIX,
            connection_pool=self._pool,  # type: ignore[arg-type]  # as documented
        )
        self._shared = SlidingWindowCounterRateLimiter(storage)
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._lost = False
        self._answered = self._ask_again = 0.0

    async def hit(self, limit: str, rate: RateLimitItem, who: str) -> Standing:
        """Counts, and tells how the limit stands."""
        # Whoever waits here waits for this process, not for Redis: time runs from the connection on. When Redis is lost
        # meanwhile, they all go on without it.
        async with self._slots:
            if self._may_ask_redis():
                started = time.monotonic()
                try:
                    async with asyncio.timeout(self._seconds):
                        standing = await _hit(self._shared, limit, rate, who)
                except (StorageError, OSError) as error:  # TimeoutError is an OSError
                    # Where others got an answer meanwhile, it is this process that was busy, and this request alone
                    # is counted here.
                    if self._answered < started:
                        self._note_lost(error)
                else:
                    self._note_found()
                    return standing
        return await _hit(self._own, limit, rate, who)

    async def close(self) -> None:
        await self._pool.aclose()

    def _may_ask_redis(self) -> bool:
        """While it is lost, one request now and then finds out whether it is back; the others do not wait for it."""
        if not self._lost:
            return True
        now = time.monotonic()
        if now < self._ask_again:
            return False
        self._ask_again = now + _RETRY_SECONDS
        return True

    def _note_lost(self, error: Exception) -> None:
        if not self._lost:
            reason = "no answer in time" if isinstance(error, TimeoutError) else str(error)
            log.warning("Redis does not answer: until it does, this gateway counts requests for itself", reason=reason)
        self._lost, self._ask_again = True, time.monotonic() + _RETRY_SECONDS

    def _note_found(self) -> None:
        if self._lost:
            log.info("Redis answers: requests are counted over all gateways again")
        self._lost, self._answered = False, time.monotonic()


async def _hit(limiter: SlidingWindowCounterRateLimiter, limit: str, rate: RateLimitItem, who: str) -> Standing:
    allowed = await limiter.hit(rate, limit, who)
    stats = await limiter.get_window_stats(rate, limit, who)
    return Standing(limit, rate, allowed, stats.remaining if allowed else 0, max(0.0, stats.reset_time - time.time()))


def headers(standings: Sequence[Standing]) -> dict[str, str]:
    """RateLimit fields (draft-ietf-httpapi-ratelimit-headers) of all limits, and OpenAI's of that of the key."""
    if not standings:
        return {}
    fields = {
        "RateLimit-Policy": ", ".join(
            f'"{each.limit}";q={each.rate.amount};w={each.rate.get_expiry()}' for each in standings
        ),
        "RateLimit": ", ".join(
            f'"{each.limit}";r={each.remaining};t={math.ceil(each.reset_seconds)}' for each in standings
        ),
    }
    for each in standings:
        if each.limit == KEY:
            fields["x-ratelimit-limit-requests"] = str(each.rate.amount)
            fields["x-ratelimit-remaining-requests"] = str(each.remaining)
            fields["x-ratelimit-reset-requests"] = _duration(each.reset_seconds)
    return fields


def _duration(seconds: float) -> str:
    """As OpenAI writes it: 12s, 1m30s, 2h0m5s."""
    minutes, whole = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{whole}s"
