import asyncio

import pytest
import structlog
from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from services.gateway.http.rate_limits import ADDRESS, KEY, LimitStatus, _Counters, headers

RATE = parse("1000/hour")


class SlowForOne(SlidingWindowCounterRateLimiter):
    """Stands in for Redis: answers every key but "slow"."""

    async def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        if "slow" in identifiers:
            await asyncio.Event().wait()
        return await super().hit(item, *identifiers, cost=cost)


async def test_one_slow_request_is_not_an_outage_while_others_succeed() -> None:
    counts = _Counters("redis://127.0.0.1:1/0", 0.1)
    counts._shared = SlowForOne(MemoryStorage())
    with structlog.testing.capture_logs() as log:
        slow = asyncio.create_task(counts.hit(KEY, RATE, "slow"))
        while not slow.done():
            await counts.hit(KEY, RATE, "quick")
            await asyncio.sleep(0.01)
        assert slow.result().remaining == 999
        assert log == []
        assert (await counts.hit(KEY, RATE, "slow")).remaining == 998
    assert [each["reason"] for each in log] == ["no answer in time"]


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.0, "0s"), (11.2, "12s"), (60.0, "1m0s"), (90.0, "1m30s"), (7205.0, "2h0m5s")]
)
def test_openai_clients_can_parse_the_reset_header(seconds: float, told: str) -> None:
    status = LimitStatus(KEY, RATE, True, 5, seconds)
    assert headers([status])["x-ratelimit-reset-requests"] == told


def test_every_limit_is_an_item_in_the_ietf_draft_headers() -> None:
    fields = headers(
        [LimitStatus(ADDRESS, parse("20/10 seconds"), True, 7, 2.5), LimitStatus(KEY, RATE, False, 0, 59.0)]
    )
    assert fields["RateLimit-Policy"] == '"address";q=20;w=10, "key";q=1000;w=3600'
    assert fields["RateLimit"] == '"address";r=7;t=3, "key";r=0;t=59'
    assert headers([]) == {}


@pytest.mark.parametrize(
    ("rate", "per"), [("6000/minute", "6,000 requests with this key per minute"), ("2/10 seconds", "per 10 seconds")]
)
def test_a_refusal_has_the_limit_and_a_retry_after(rate: str, per: str) -> None:
    error = LimitStatus(KEY, parse(rate), False, 0, 2.2).error()
    assert per in error.body["error"]["message"]
    assert error.headers == {"Retry-After": "3"}
