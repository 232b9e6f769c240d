"""Batches of what concurrent requests submit: gathered while the thread is busy, or for a bounded time."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from services.shared.rpc.batching import Batcher, GatherWindow
from services.shared.rpc.threads import ModelThread


class Model:
    """Doubles numbers behind a gate: notes each batch and lets it through when opened."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.opened = threading.Event()
        self.entered = threading.Event()

    def run(self, numbers: list[int]) -> list[int]:
        self.batches.append(numbers)
        self.entered.set()
        self.opened.wait(10)
        if 0 in numbers:
            raise ValueError("zero")
        return [2 * number for number in numbers]


@pytest.fixture
def thread() -> Iterator[ModelThread]:
    model_thread = ModelThread("test")
    yield model_thread
    model_thread.shut_down()


class Bench:
    """A batcher with its model."""

    def __init__(self, thread: ModelThread, max_items: int = 4, milliseconds: float = 0.0, max_sum: int = 1000) -> None:
        self.model = Model()
        self.window = GatherWindow(milliseconds)
        self.batcher = Batcher(
            self.model.run, thread, max_items=max_items, window=self.window, fits=lambda items: sum(items) <= max_sum
        )

    def submit(self, number: int) -> "asyncio.Task[int]":
        return asyncio.create_task(self.batcher.submit(number))

    async def occupied(self) -> "asyncio.Task[int]":
        """An item that is with the model, before the closed gate."""
        task = self.submit(1)
        await asyncio.to_thread(self.model.entered.wait, 10)
        return task


async def test_items_that_wait_while_the_model_is_busy_make_batches(thread: ModelThread) -> None:
    bench = Bench(thread, max_items=2)
    tasks = [await bench.occupied(), *map(bench.submit, (2, 3, 4))]
    await asyncio.sleep(0)
    bench.model.opened.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8]
    assert bench.model.batches == [[1], [2, 3], [4]]


async def test_item_alone_does_not_wait(thread: ModelThread) -> None:
    bench = Bench(thread, milliseconds=60_000)
    bench.model.opened.set()
    assert await bench.batcher.submit(3) == 6


async def test_batch_waits_for_items_on_their_way_until_it_is_full(thread: ModelThread) -> None:
    bench = Bench(thread, max_items=2, milliseconds=60_000)
    bench.model.opened.set()
    with bench.window.arriving():
        one = bench.submit(1)
        with bench.window.arriving():
            await asyncio.sleep(0.01)
            assert not bench.model.batches
        two = bench.submit(2)
        assert list(await asyncio.gather(one, two)) == [2, 4]
    assert bench.model.batches == [[1, 2]]


async def test_window_bounds_the_wait(thread: ModelThread) -> None:
    bench = Bench(thread, milliseconds=1)
    bench.model.opened.set()
    with bench.window.arriving():
        assert await bench.batcher.submit(1) == 2


async def test_request_that_gives_up_lets_the_batch_go(thread: ModelThread) -> None:
    bench = Bench(thread, milliseconds=60_000)
    bench.model.opened.set()
    with bench.window.arriving():
        one = bench.submit(1)
        await asyncio.sleep(0.01)
    assert await one == 2


async def test_error_reaches_the_whole_batch_and_no_other(thread: ModelThread) -> None:
    bench = Bench(thread, max_items=2)
    tasks = [await bench.occupied(), *map(bench.submit, (0, 3, 4))]
    await asyncio.sleep(0)
    bench.model.opened.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(result) for result in results] == ["2", "zero", "zero", "8"]


async def test_item_that_is_cancelled_in_line_is_not_computed(thread: ModelThread) -> None:
    bench = Bench(thread)
    first, leaving, staying = await bench.occupied(), bench.submit(2), bench.submit(3)
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.sleep(0)
    bench.model.opened.set()
    assert list(await asyncio.gather(first, staying)) == [2, 6]
    assert bench.model.batches == [[1], [3]]


async def test_thread_that_shuts_down_leaves_nobody_waiting(thread: ModelThread) -> None:
    bench = Bench(thread)
    first, second = await bench.occupied(), bench.submit(2)
    await asyncio.sleep(0)
    thread.shut_down()
    bench.model.opened.set()
    assert await first == 2
    with pytest.raises((asyncio.CancelledError, RuntimeError)):
        await second


async def test_items_that_do_not_fit_together_make_further_batches(thread: ModelThread) -> None:
    bench = Bench(thread, max_sum=6)
    tasks = [await bench.occupied(), *map(bench.submit, (2, 3, 4, 9, 1))]
    await asyncio.sleep(0)
    bench.model.opened.set()
    assert list(await asyncio.gather(*tasks)) == [2, 4, 6, 8, 18, 2]
    assert bench.model.batches == [[1], [2, 3], [4], [9], [1]]
