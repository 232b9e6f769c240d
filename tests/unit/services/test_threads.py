"""Model work in its own thread: the event loop stays responsive, and the work stops with its reader."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing

import pytest

from services.shared.rpc.threads import ModelThread


@pytest.fixture
def thread() -> Iterator[ModelThread]:
    model_thread = ModelThread("test")
    yield model_thread
    model_thread.shut_down()


async def test_an_iterator_runs_in_a_single_other_thread(thread: ModelThread) -> None:
    def work() -> Iterator[int]:
        for _ in range(3):
            yield threading.get_ident()

    idents = [ident async for ident in thread.iterate(work)]
    assert len(idents) == 3
    assert set(idents).isdisjoint({threading.get_ident()})
    assert len(set(idents)) == 1


async def test_the_event_loop_keeps_running_during_a_slow_step(thread: ModelThread) -> None:
    go_on = threading.Event()
    task = asyncio.create_task(thread.run(lambda: go_on.wait(10)))
    await asyncio.sleep(0)
    go_on.set()
    assert await task


async def test_a_reader_that_stops_closes_the_iterator_before_it_returns(thread: ModelThread) -> None:
    closed = False

    def work() -> Iterator[int]:
        nonlocal closed
        try:
            yield from range(1000)
        finally:
            closed = True

    async with aclosing(thread.iterate(work)) as numbers:
        assert await anext(numbers) == 0
    assert closed


async def test_cancellation_finishes_the_current_step_and_starts_no_other(thread: ModelThread) -> None:
    in_step, go_on = threading.Event(), threading.Event()
    steps = 0

    def work() -> Iterator[int]:
        nonlocal steps
        while True:
            steps += 1
            in_step.set()
            go_on.wait(10)
            yield steps

    async def read() -> None:
        async for _ in thread.iterate(work):
            pass

    task = asyncio.create_task(read())
    await asyncio.to_thread(in_step.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == 1


async def test_work_cancelled_in_the_queue_never_starts(thread: ModelThread) -> None:
    go_on = threading.Event()
    first = asyncio.create_task(thread.run(lambda: go_on.wait(10)))
    await asyncio.sleep(0)
    started = threading.Event()
    second = asyncio.create_task(thread.run(started.set))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    go_on.set()
    await first
    await thread.run(lambda: None)
    assert not started.is_set()


async def test_an_error_in_the_work_reaches_the_reader(thread: ModelThread) -> None:
    def work() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        [number async for number in thread.iterate(work)]
