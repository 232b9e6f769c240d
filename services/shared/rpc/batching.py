"""Batching across concurrent requests to one model."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from services.shared.rpc.threads import ModelThread

Item = TypeVar("Item")
Result = TypeVar("Result")


class GatherWindow:
    """Lets a batch wait for requests that are about to join it; it does not wait if there are none.

    Args:
        milliseconds: Maximum wait.
    """

    def __init__(self, milliseconds: float) -> None:
        self._seconds = milliseconds / 1000
        self._arriving = 0
        self._arrived = asyncio.Event()

    @contextmanager
    def arriving(self) -> Iterator[None]:
        """Announces a request during a `with` body that ends right before the request joins a batch, or gives up."""
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1
            self._arrived.set()

    def joined(self) -> None:
        """Wakes a waiting batch after a request joined it, which may be full now."""
        self._arrived.set()

    async def wait(self, since: float, is_full: Callable[[], bool]) -> None:
        """Returns once the batch is full, no further request is announced, or the time is up.

        Args:
            since: When the first request of the batch arrived, in seconds of the event loop's clock.
            is_full: Returns whether the batch is full.
        """
        try:
            async with asyncio.timeout_at(since + self._seconds):
                while self._arriving and not is_full():
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            pass


@dataclass(frozen=True, slots=True, eq=False)
class _Entry(Generic[Item, Result]):
    item: Item
    result: asyncio.Future[Result]
    arrived: float  # on the event loop's clock


class Batcher(Generic[Item, Result]):
    """Batches the items that are submitted while a batch is running, in order of arrival.

    Args:
        run: Runs a batch in the thread and returns a result for each item, in order. An error fails the whole batch.
        thread: The model's thread.
        max_items: Maximum items in a batch.
        window: Lets a batch that is not full wait for others.
        fits: Returns whether two or more items may share a batch.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], list[Result]],
        thread: ModelThread,
        *,
        max_items: int,
        window: GatherWindow,
        fits: Callable[[Sequence[Item]], bool] = lambda items: True,
    ) -> None:
        self._fits = fits
        self._run_batch = run
        self._thread = thread
        self._max_items = max_items
        self._window = window
        self._waiting: list[_Entry[Item, Result]] = []
        self._runner: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Result:
        """The result of an item. If cancelled before its batch starts, the item is dropped."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Result] = loop.create_future()
        entry = _Entry(item, result, loop.time())
        self._waiting.append(entry)
        self._window.joined()
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await result

    async def _run(self) -> None:
        while self._waiting:
            await self._window.wait(self._waiting[0].arrived, lambda: len(self._waiting) >= self._max_items)
            entries = [entry for entry in self._waiting if not entry.result.done()]
            count = min(len(entries), self._max_items)
            while count > 1 and not self._fits([entry.item for entry in entries[:count]]):
                count -= 1
            batch, self._waiting = entries[:count], entries[count:]
            if batch:
                await self._compute(batch)

    async def _compute(self, batch: list[_Entry[Item, Result]]) -> None:
        try:
            results = await self._thread.run(partial(self._run_batch, [entry.item for entry in batch]))
        except Exception as error:  # whatever it is, it belongs to the callers
            for entry in batch:
                if not entry.result.done():
                    entry.result.set_exception(error)
        else:
            for entry, result in zip(batch, results, strict=True):
                if not entry.result.done():
                    entry.result.set_result(result)
        finally:
            for entry in batch:
                entry.result.cancel()  # where the thread was shut down
