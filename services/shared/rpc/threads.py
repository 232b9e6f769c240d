"""Model work off the event loop: one thread per model, iterators that run in it and stop when their reader does."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")
_END: Final = object()


class WorkTime:
    """Counts the seconds that pieces of work take in their thread, without those that they wait for it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def of(self, work: Callable[[], T]) -> Callable[[], T]:
        """`work`, counted."""

        def timed() -> T:
            began = time.perf_counter()
            try:
                return work()
            finally:
                self.seconds += time.perf_counter() - began

        return timed

    def of_steps(self, start: Callable[[], Iterator[T]]) -> Callable[[], Iterator[T]]:
        """`start`, with each step of its iterator counted."""

        def timed() -> Iterator[T]:
            iterator = self.of(start)()
            step = self.of(lambda: next(iterator, _END))
            try:
                while (item := step()) is not _END:
                    yield item  # type: ignore[misc]
            finally:
                close = getattr(iterator, "close", None)
                if close is not None:
                    close()

        return timed


class ModelThread:
    """The one thread that a model runs in. Work waits for its turn; the event loop stays free.

    Args:
        name: Shown in thread listings.
    """

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, work: Callable[[], T]) -> T:
        """Runs `work` in the thread. Cancelled before its start, it never runs; later, this waits for its end."""
        job = self._executor.submit(work)
        result = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(result)
        except asyncio.CancelledError:
            if not job.cancel():
                await asyncio.wait([result])
                if not result.cancelled():
                    result.exception()  # nobody is left to hear of it
            raise

    async def iterate(self, start: Callable[[], Iterator[T]]) -> AsyncGenerator[T, None]:
        """Yields what the iterator made by `start` yields, each step taken in the thread and only when asked for.

        When the reader stops or is cancelled, the step in progress is the last: the iterator is closed, which frees
        what it holds, before control returns. Close this with `contextlib.aclosing` to have that happen at once.
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
        """Lets the step in progress end and takes no more."""
        self._executor.shutdown(wait=False, cancel_futures=True)
