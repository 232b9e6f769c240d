"""A cache of encoder results, keyed by a hash of their content: the same content is encoded once."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Generic, TypeVar

from services.shared import telemetry

Value = TypeVar("Value")


def content_key(content: bytes, *dependencies: str) -> bytes:
    """The cache key of a result.

    Args:
        content: What the result is computed from, or its SHA-256.
        dependencies: What else the result depends on, such as preset and adapter, and the tenant it belongs to.
    """
    digest = hashlib.sha256(repr(dependencies).encode())
    digest.update(content)
    return digest.digest()


class ContentCache(Generic[Value]):
    """An LRU cache in which concurrent requests for the same key share one computation.

    If that computation fails or is cancelled, the next request that waits for it computes the value itself. Not
    thread-safe: use it from one event loop.

    Args:
        service: Label of its metrics.
        max_bytes: Capacity in bytes; 0 turns off caching and sharing.
        size: Returns the bytes that a value takes.
    """

    def __init__(self, service: str, max_bytes: int, size: Callable[[Value], int]) -> None:
        self._max_bytes = max_bytes
        self._size = size
        self._values: OrderedDict[bytes, Value] = OrderedDict()
        self._computing: dict[bytes, asyncio.Future[Value]] = {}
        self._nbytes = 0
        self._hits = telemetry.ENCODER_CACHE_HITS.labels(service)
        self._misses = telemetry.ENCODER_CACHE_MISSES.labels(service)
        self._usage = telemetry.ENCODER_CACHE_BYTES.labels(service)
        self._usage.set(0)

    @property
    def nbytes(self) -> int:
        """Bytes in use."""
        return self._nbytes

    async def get(self, key: bytes, compute: Callable[[], Awaitable[Value]]) -> Value:
        """The value of a key: from the cache, from another request that is computing it, or from `compute`."""
        if not self._max_bytes:
            return await compute()
        while (found := self._find(key)) is None and (other := self._computing.get(key)) is not None:
            await asyncio.wait([other])
            if _succeeded(other):
                self._hits.inc()
                return other.result()
        if found is not None:
            return found
        result: asyncio.Future[Value] = asyncio.get_running_loop().create_future()
        self._begin(key, result)
        try:
            value = await compute()
        except BaseException:
            result.cancel()
            raise
        result.set_result(value)
        return value

    def resolve(self, key: bytes, result: "asyncio.Future[Value]", compute: Callable[[], None]) -> None:
        """Like `get`, for a value that is set on a future.

        Args:
            key: Of the value.
            result: Receives the value. Cancel it when the value is no longer needed.
            compute: Called if this request has to compute the value; must set `result` eventually.
        """
        if result.done():  # cancelled while it waited
            return
        if not self._max_bytes:
            compute()
        elif (found := self._find(key)) is not None:
            result.set_result(found)
        elif (other := self._computing.get(key)) is not None:
            other.add_done_callback(partial(self._follow, key, result, compute))
        else:
            self._begin(key, result)
            compute()

    def clear(self) -> None:
        """Evicts all values; those being computed are not cached either."""
        self._values.clear()
        self._computing.clear()
        self._count(-self._nbytes)

    def _find(self, key: bytes) -> Value | None:
        found = self._values.get(key)
        if found is not None:
            self._values.move_to_end(key)
            self._hits.inc()
        return found

    def _begin(self, key: bytes, result: "asyncio.Future[Value]") -> None:
        self._misses.inc()
        self._computing[key] = result
        result.add_done_callback(partial(self._finish, key))

    def _finish(self, key: bytes, result: "asyncio.Future[Value]") -> None:
        if self._computing.get(key) is not result:  # cleared meanwhile
            return
        del self._computing[key]
        if _succeeded(result):
            self._put(key, result.result())

    def _follow(
        self,
        key: bytes,
        result: "asyncio.Future[Value]",
        compute: Callable[[], None],
        other: "asyncio.Future[Value]",
    ) -> None:
        if not _succeeded(other):
            self.resolve(key, result, compute)
        elif not result.done():
            self._hits.inc()
            result.set_result(other.result())

    def _put(self, key: bytes, value: Value) -> None:
        nbytes = self._size(value)
        if nbytes > self._max_bytes:
            return
        self._values[key] = value
        self._count(nbytes)
        while self._nbytes > self._max_bytes:
            _, evicted = self._values.popitem(last=False)
            self._count(-self._size(evicted))

    def _count(self, nbytes: int) -> None:
        self._nbytes += nbytes
        self._usage.set(self._nbytes)


def _succeeded(result: "asyncio.Future[Value]") -> bool:
    return not result.cancelled() and result.exception() is None
