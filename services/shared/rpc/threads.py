"""Runs model code outside the event loop: one thread per model, for functions and for iterators."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol, TypeVar

T = TypeVar("T")
_END: Final = object()


class WorkTimer:
    """Measures the seconds that functions take in their thread, without the time they wait for it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, work: Callable[[], T]) -> Callable[[], T]:
        """`work`, timed."""

        def timed() -> T:
            began = time.perf_counter()
            try:
                return work()
            finally:
                self.seconds += time.perf_counter() - began

        return timed

    def wrap_iterator(self, start: Callable[[], Iterator[T]]) -> Callable[[], Iterator[T]]:
        """`start`, with each step of its iterator timed."""

        def timed() -> Iterator[T]:
            iterator = self.wrap(start)()
            step = self.wrap(lambda: next(iterator, _END))
            try:
                while (item := step()) is not _END:
                    yield item  # type: ignore[misc]
            finally:
                close = getattr(iterator, "close", None)
                if close is not None:
                    close()

        return timed


class WorkThread(Protocol):
    """A thread that a model runs in."""

    async def run(self, work: Callable[[], T]) -> T:
        """Runs `work` in the thread. Cancelled before its start, it never runs; later, this waits for its end."""
        ...


class ModelThread:
    """The thread in which a model runs. Work is queued, so the event loop is never blocked.

    Args:
        name: Shown in thread listings.
        threads: More than one for a model that several threads may use at the same time.
    """

    def __init__(self, name: str, threads: int = 1) -> None:
        self._executor = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)

    async def run(self, work: Callable[[], T]) -> T:
        """Runs `work` in the thread. If cancelled, `work` is dropped if it has not started, and awaited otherwise."""
        job = self._executor.submit(work)
        result = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(result)
        except asyncio.CancelledError:
            if not job.cancel():
                await asyncio.wait([result])
                if not result.cancelled():
                    result.exception()  # retrieved, so that it is not logged
            raise

    async def iterate(self, start: Callable[[], Iterator[T]]) -> AsyncGenerator[T, None]:
        """Iterates over what `start` returns, each step in the thread and only on demand.

        If iteration is stopped or cancelled, the step in progress finishes and the iterator is closed before control
        returns. Use `contextlib.aclosing` to stop at once.
        """
        iterator: Iterator[T] | None = None
        try:
            iterator = await self.run(start)
            while (item := await self.run(lambda: next(iterator, _END))) is not _END:
                yield item  # type: ignore[misc]
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                await self.run(close)

    def shut_down(self) -> None:
        """Accepts no more work; the step in progress finishes."""
        self._executor.shutdown(wait=False, cancel_futures=True)
