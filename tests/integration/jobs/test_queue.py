"""Waiting units in a real Redis: everybody gets their turn, whoever asks for how much."""

from collections.abc import Iterator
from itertools import islice

import pytest
import redis

from services.shared.jobs.kinds import Priority
from services.shared.jobs.layout import JobId
from services.shared.jobs.queue import UnitQueue
from services.shared.jobs.state import Unit, Work
from tests.servers import RedisServer


@pytest.fixture
def queue(redis_server: RedisServer) -> UnitQueue:
    client = redis.Redis.from_url(redis_server.url)
    client.flushall()
    return UnitQueue(client, "clips")


def clips(count: int) -> list[Unit]:
    return [Unit(Work.CLIP, index) for index in range(count)]


def popped(queue: UnitQueue) -> Iterator[tuple[str, int]]:
    while (waiting := queue.pop()) is not None:
        yield waiting.job.job, waiting.unit.index


def test_a_queue_gives_back_what_was_put_in_once(queue: UnitQueue) -> None:
    job = JobId("acme", "job-1")
    assert queue.push(job, clips(3)) == 3
    assert queue.push(job, clips(4)) == 1
    assert len(queue) == 4
    assert list(popped(queue)) == [("job-1", index) for index in range(4)]
    assert queue.pop() is None


def test_tenants_take_turns(queue: UnitQueue) -> None:
    queue.push(JobId("large", "long"), clips(50))
    queue.push(JobId("small", "short"), clips(3))
    first = [job for job, _ in islice(popped(queue), 6)]
    assert first.count("short") == 3


def test_a_short_job_is_not_stuck_behind_a_long_one_of_its_own_tenant(queue: UnitQueue) -> None:
    queue.push(JobId("acme", "long"), clips(100))
    assert len(list(islice(popped(queue), 30))) == 30
    queue.push(JobId("acme", "short"), clips(4))
    first = [job for job, _ in islice(popped(queue), 8)]
    assert first.count("short") == 4


def test_a_tenant_who_asks_again_and_again_starves_nobody(queue: UnitQueue) -> None:
    queue.push(JobId("b", "patient"), clips(3))
    seen = []
    for number in range(8):
        queue.push(JobId("a", f"hasty-{number}"), clips(1))
        seen.append(next(popped(queue))[0])
    assert seen.count("patient") == 3


def test_a_job_of_high_priority_goes_four_times_as_fast(queue: UnitQueue) -> None:
    queue.push(JobId("acme", "normal"), clips(40), Priority.NORMAL)
    queue.push(JobId("acme", "high"), clips(40), Priority.HIGH)
    first = [job for job, _ in islice(popped(queue), 20)]
    assert first.count("high") == 16
