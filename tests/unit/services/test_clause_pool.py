"""Clauses of several streams: a few at a time, the first clause of a stream before later ones of others."""

import asyncio
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from model_core.speech.voice import Samples
from services.speech_synthesizer.clauses import ClausePool


class Bench:
    """A pool whose clauses take until they are let go; notes the order in which they start."""

    def __init__(self, max_clauses: int) -> None:
        self.pool = ClausePool(max_clauses)
        self.started: list[str] = []
        self.go_on = threading.Semaphore(0)

    def submit(self, name: str, *, is_first: bool = False) -> "asyncio.Task[Samples]":
        return asyncio.create_task(self.pool.run(lambda: self._synthesize(name), is_first=is_first))

    def _synthesize(self, name: str) -> Samples:
        self.started.append(name)
        self.go_on.acquire(timeout=10)
        return np.zeros(1, np.int16)

    async def until_started(self, count: int) -> None:
        while len(self.started) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench(max_clauses=1)
    yield bench
    bench.pool.shut_down()


async def test_first_clause_of_a_stream_waits_for_one_clause_of_others_at_most(bench: Bench) -> None:
    tasks = [bench.submit("long 1")]
    await bench.until_started(1)
    tasks += [bench.submit("long 2"), bench.submit("other 2"), bench.submit("first", is_first=True)]
    await asyncio.sleep(0)
    bench.go_on.release(4)
    await asyncio.gather(*tasks)
    assert bench.started == ["long 1", "first", "long 2", "other 2"]


async def test_clauses_run_concurrently_up_to_the_limit() -> None:
    bench = Bench(max_clauses=2)
    tasks = [bench.submit(str(number)) for number in range(3)]
    await bench.until_started(2)
    await asyncio.sleep(0.01)
    assert sorted(bench.started) == ["0", "1"]
    bench.go_on.release(3)
    await asyncio.gather(*tasks)
    assert len(bench.started) == 3
    bench.pool.shut_down()


async def test_cancelled_clause_gives_its_turn_to_the_next(bench: Bench) -> None:
    running = bench.submit("running")
    await bench.until_started(1)
    leaving, staying = bench.submit("leaving"), bench.submit("staying")
    await asyncio.sleep(0)
    leaving.cancel()
    bench.go_on.release(2)
    await asyncio.gather(running, staying)
    assert bench.started == ["running", "staying"]


async def test_clause_cancelled_while_it_is_granted_its_turn_passes_it_on(bench: Bench) -> None:
    running = bench.submit("running")
    await bench.until_started(1)
    leaving, staying = bench.submit("leaving"), bench.submit("staying")
    await asyncio.sleep(0)
    bench.go_on.release(2)
    running.add_done_callback(lambda _: leaving.cancel())
    await asyncio.gather(running, staying)
    assert bench.started[-1] == "staying"
    bench.go_on.release()
    assert len(await bench.submit("last")) == 1


async def test_failure_gives_its_turn_to_the_next(bench: Bench) -> None:
    def fail() -> Samples:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await bench.pool.run(fail, is_first=True)
    bench.go_on.release()
    assert len(await bench.submit("next")) == 1
