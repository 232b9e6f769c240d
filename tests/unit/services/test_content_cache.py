"""The encoders' cache: bounded, and one computation for concurrent requests for the same content."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from prometheus_client import REGISTRY

from services.shared.content_cache import ContentCache, content_key


def new_cache(max_bytes: int = 10) -> ContentCache[bytes]:
    return ContentCache("test", max_bytes, len)


def counted(name: str) -> float:
    return REGISTRY.get_sample_value(f"lyra_encoder_cache_{name}", {"service": "test"}) or 0.0


class Work:
    """Computations that wait until they are let go."""

    def __init__(self) -> None:
        self.started = 0
        self.go_on = asyncio.Event()

    def of(self, value: bytes | Exception) -> Callable[[], Awaitable[bytes]]:
        async def compute() -> bytes:
            self.started += 1
            await self.go_on.wait()
            if isinstance(value, Exception):
                raise value
            return value

        return compute


def done(value: bytes) -> Callable[[], Awaitable[bytes]]:
    async def compute() -> bytes:
        return value

    return compute


async def fail() -> bytes:
    raise AssertionError("was cached")


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_value_is_computed_once_and_counted() -> None:
    cache, hits, misses = new_cache(), counted("hits_total"), counted("misses_total")
    assert await cache.get(b"a", done(b"1234")) == b"1234"
    assert await cache.get(b"a", fail) == b"1234"
    assert (counted("hits_total"), counted("misses_total")) == (hits + 1, misses + 1)
    assert cache.nbytes == counted("bytes") == 4


async def test_least_recently_used_value_is_evicted() -> None:
    cache = new_cache(max_bytes=10)
    for name in (b"a", b"b"):
        await cache.get(name, done(b"1234"))
    await cache.get(b"a", fail)
    await cache.get(b"c", done(b"1234"))
    assert await cache.get(b"a", fail)
    assert await cache.get(b"c", fail)
    assert await cache.get(b"b", done(b"again")) == b"again"
    assert cache.nbytes <= 10


async def test_value_larger_than_the_cache_evicts_nothing() -> None:
    cache = new_cache(max_bytes=4)
    await cache.get(b"a", done(b"1234"))
    assert await cache.get(b"b", done(b"12345")) == b"12345"
    assert await cache.get(b"a", fail) == b"1234"


@pytest.mark.parametrize("size", [4, 40])
async def test_concurrent_requests_share_one_computation(size: int) -> None:
    cache, work, value = new_cache(), Work(), b"x" * size
    requests = [asyncio.create_task(cache.get(b"a", work.of(value))) for _ in range(3)]
    await settle()
    work.go_on.set()
    assert await asyncio.gather(*requests) == [value] * 3
    assert work.started == 1


async def test_failure_is_not_shared() -> None:
    cache, work = new_cache(), Work()
    failing = asyncio.create_task(cache.get(b"a", work.of(ValueError("broken"))))
    await settle()
    other = asyncio.create_task(cache.get(b"a", done(b"ok")))
    await settle()
    work.go_on.set()
    with pytest.raises(ValueError, match="broken"):
        await failing
    assert await other == b"ok"


async def test_request_that_is_cancelled_hands_its_computation_to_one_that_waits() -> None:
    cache, work = new_cache(), Work()
    first, second, third = (asyncio.create_task(cache.get(b"a", work.of(b"ok"))) for _ in range(3))
    await settle()
    first.cancel()
    await settle()
    assert work.started == 2
    work.go_on.set()
    assert list(await asyncio.gather(second, third)) == [b"ok", b"ok"]
    assert work.started == 2


async def test_request_that_only_waits_may_leave() -> None:
    cache, work = new_cache(), Work()
    first, second = (asyncio.create_task(cache.get(b"a", work.of(b"ok"))) for _ in range(2))
    await settle()
    second.cancel()
    await settle()
    work.go_on.set()
    assert await first == b"ok"


async def test_values_being_computed_are_not_cached_after_a_clear() -> None:
    cache, work = new_cache(), Work()
    request = asyncio.create_task(cache.get(b"a", work.of(b"old")))
    await settle()
    cache.clear()
    work.go_on.set()
    assert await request == b"old"
    assert await cache.get(b"a", done(b"new")) == b"new"


async def test_clear_forgets_everything() -> None:
    cache = new_cache()
    await cache.get(b"a", done(b"old"))
    cache.clear()
    assert cache.nbytes == 0
    assert await cache.get(b"a", done(b"new")) == b"new"


async def test_capacity_of_zero_turns_it_off() -> None:
    cache, work = new_cache(max_bytes=0), Work()
    requests = [asyncio.create_task(cache.get(b"a", work.of(b"ok"))) for _ in range(2)]
    await settle()
    work.go_on.set()
    await asyncio.gather(*requests)
    assert work.started == 2


async def test_future_is_resolved_by_the_computation_of_another_or_by_its_own() -> None:
    cache, loop = new_cache(), asyncio.get_running_loop()
    computed: list[int] = []
    results = [loop.create_future() for _ in range(4)]
    for index, result in enumerate(results):
        cache.resolve(b"a", result, lambda index=index: computed.append(index))  # type: ignore[misc]
    results[0].cancel()
    await settle()
    assert computed == [0, 1]
    results[2].cancel()
    results[1].set_result(b"ok")
    assert await results[3] == b"ok"
    assert results[2].cancelled()
    late = loop.create_future()
    cache.resolve(b"a", late, lambda: computed.append(4))
    assert late.result() == b"ok"
    assert computed == [0, 1]


def test_key_depends_on_content_and_on_each_dependency() -> None:
    keys = {
        content_key(b"content", "nano", "speech", "acme"),
        content_key(b"other", "nano", "speech", "acme"),
        content_key(b"content", "nano", "speech", "globex"),
        content_key(b"content", "nano", "long_speech", "acme"),
        content_key(b"content", "nano", "speechacme", ""),
    }
    assert len(keys) == 5
    assert content_key(b"content", "nano") == content_key(b"content", "nano")
