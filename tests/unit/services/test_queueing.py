"""The queue: bounded, first come first served within a tenant, taking turns between tenants."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from services.shared.rpc.queueing import FairQueue
from services.shared.service_errors import Overloaded


@dataclass
class Visitors:
    """Requests that keep their slot until released, in the order in which they got it."""

    queue: FairQueue
    served: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    releases: dict[str, asyncio.Event] = field(default_factory=dict)

    async def arrive(self, *names: str) -> None:
        """Names start with the letter of the tenant."""
        for name in names:
            self.releases[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._visit(name))
            await _settle()

    async def leave(self, name: str) -> None:
        self.releases[name].set()
        await _settle()

    async def drain(self) -> None:
        for release in self.releases.values():
            release.set()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)

    async def _visit(self, name: str) -> None:
        try:
            async with self.queue.slot(name[0]):
                self.served.append(name)
                await self.releases[name].wait()
        except Overloaded:
            self.refused.append(name)


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_no_more_run_than_the_limit_allows() -> None:
    visitors = Visitors(FairQueue(running_limit=2, waiting_limit=5))
    await visitors.arrive("a1", "a2", "a3", "b1")
    assert visitors.served == ["a1", "a2"]
    assert (visitors.queue.running, visitors.queue.waiting) == (2, 2)
    await visitors.drain()
    assert (visitors.queue.running, visitors.queue.waiting) == (0, 0)


async def test_tenants_take_turns_regardless_of_their_number_of_requests() -> None:
    visitors = Visitors(FairQueue(waiting_limit=10))
    await visitors.arrive("a1", "a2", "a3", "a4", "b1", "b2", "c1")
    await visitors.drain()
    assert visitors.served == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]


async def test_a_request_over_the_limit_is_refused_with_a_retry_delay() -> None:
    queue = FairQueue(waiting_limit=1)
    visitors = Visitors(queue)
    await visitors.arrive("a1", "a2")
    with pytest.raises(Overloaded) as refusal:
        async with queue.slot("a"):
            pass
    assert refusal.value.retry_after_seconds >= 1
    await visitors.drain()


async def test_a_waiting_limit_of_zero_refuses_waiters() -> None:
    visitors = Visitors(FairQueue(waiting_limit=0))
    await visitors.arrive("a1", "b1")
    assert visitors.refused == ["b1"]
    await visitors.drain()


async def test_a_full_queue_of_one_tenant_makes_room_for_another() -> None:
    visitors = Visitors(FairQueue(waiting_limit=3))
    await visitors.arrive("a1", "a2", "a3", "a4", "b1")
    assert visitors.refused == ["a4"]
    await visitors.drain()
    assert visitors.served == ["a1", "a2", "b1", "a3"]


async def test_an_evenly_shared_full_queue_refuses_a_new_request() -> None:
    visitors = Visitors(FairQueue(waiting_limit=2))
    await visitors.arrive("a1", "a2", "b1", "b2", "a3")
    assert visitors.refused == ["b2", "a3"]
    await visitors.drain()


async def test_a_cancelled_request_leaves_the_queue() -> None:
    visitors = Visitors(FairQueue(waiting_limit=5))
    await visitors.arrive("a1", "a2", "a3")
    visitors.tasks["a2"].cancel()
    await _settle()
    assert visitors.queue.waiting == 1
    await visitors.drain()
    assert visitors.served == ["a1", "a3"]


async def test_a_slot_granted_to_a_cancelled_request_goes_to_the_next() -> None:
    visitors = Visitors(FairQueue(waiting_limit=5))
    await visitors.arrive("a1", "a2", "a3")
    visitors.releases["a1"].set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    visitors.tasks["a2"].cancel()
    await visitors.drain()
    assert visitors.served[-1] == "a3"
    assert visitors.queue.running == 0


async def test_a_slot_is_released_when_the_work_fails() -> None:
    queue = FairQueue(waiting_limit=0)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            async with queue.slot("a"):
                raise RuntimeError
    assert queue.running == 0


async def test_changes_are_reported_to_the_observer() -> None:
    shown: list[tuple[int, int]] = []
    record: Callable[[int, int], None] = lambda running, waiting: shown.append((running, waiting))  # noqa: E731
    visitors = Visitors(FairQueue(waiting_limit=2, on_change=record))
    await visitors.arrive("a1", "a2")
    await visitors.drain()
    assert shown[0] == (1, 0)
    assert (1, 1) in shown
    assert shown[-1] == (0, 0)


async def test_the_retry_estimate_grows_with_the_duration_of_requests() -> None:
    times = iter([0.0, 30.0, 30.0])
    queue = FairQueue(waiting_limit=0, clock=lambda: next(times, 30.0))
    async with queue.slot("a"):
        pass
    async with queue.slot("a"):
        with pytest.raises(Overloaded) as refusal:
            async with queue.slot("b"):
                pass
    assert refusal.value.retry_after_seconds == 30
