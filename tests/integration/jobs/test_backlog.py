"""Backlogs in a real Redis: every tenant gets its turn, however much the others submit."""

from collections.abc import Iterator
from itertools import islice

import pytest
import redis

from services.shared.jobs.backlog import Backlog, QueuedUnit
from services.shared.jobs.kinds import Priority
from services.shared.jobs.layout import JobId
from services.shared.jobs.state import Unit, Work
from tests.servers import RedisServer


@pytest.fixture
def client(redis_server: RedisServer) -> "redis.Redis":
    client = redis.Redis.from_url(redis_server.url)
    client.flushall()
    return client


@pytest.fixture
def backlog(client: "redis.Redis") -> Backlog:
    return Backlog(client, "clips")


def clips(tenant: str, job: str, count: int, priority: Priority = Priority.NORMAL) -> list[QueuedUnit]:
    return [QueuedUnit(JobId(tenant, job), Unit(Work.CLIP, index), priority) for index in range(count)]


def started(backlog: Backlog) -> Iterator[tuple[str, int]]:
    """Job and clip of units in the order in which workers start them, one at a time."""
    while handed_over := backlog.hand_over(window=1):
        for each in handed_over:
            backlog.remove(each)
            yield each.job.job, each.unit.index


def test_units_are_handed_over_once_and_in_order(backlog: Backlog) -> None:
    assert backlog.add(clips("acme", "job-1", 3)) == 3
    assert backlog.add(clips("acme", "job-1", 4)) == 1
    assert len(backlog) == 4
    assert list(started(backlog)) == [("job-1", index) for index in range(4)]
    assert len(backlog) == 0


def test_tenants_take_turns(backlog: Backlog) -> None:
    backlog.add(clips("large", "long", 50))
    backlog.add(clips("small", "short", 3))
    first = [job for job, _ in islice(started(backlog), 6)]
    assert first.count("short") == 3


def test_a_short_job_is_not_stuck_behind_a_long_one_of_its_own_tenant(backlog: Backlog) -> None:
    backlog.add(clips("acme", "long", 100))
    assert len(list(islice(started(backlog), 30))) == 30
    backlog.add(clips("acme", "short", 4))
    first = [job for job, _ in islice(started(backlog), 8)]
    assert first.count("short") == 4


def test_a_second_job_does_not_give_its_tenant_a_second_turn(backlog: Backlog) -> None:
    backlog.add(clips("a", "a-1", 20))
    backlog.add(clips("b", "b-1", 20))
    backlog.add(clips("a", "a-2", 20))
    first = [job for job, _ in islice(started(backlog), 20)]
    assert first.count("b-1") == 10
    assert first.count("a-1") == first.count("a-2") == 5


def test_a_tenant_who_submits_again_and_again_starves_nobody(backlog: Backlog) -> None:
    backlog.add(clips("b", "patient", 3))
    seen = []
    for number in range(8):
        backlog.add(clips("a", f"hasty-{number}", 1))
        seen.append(next(started(backlog))[0])
    assert seen.count("patient") == 3


def test_a_job_of_high_priority_goes_four_times_as_fast(backlog: Backlog) -> None:
    backlog.add(clips("acme", "normal", 40, Priority.NORMAL))
    backlog.add(clips("acme", "high", 40, Priority.HIGH))
    first = [job for job, _ in islice(started(backlog), 20)]
    assert first.count("high") == 16


def test_no_more_are_handed_over_than_the_window_holds_and_they_still_wait(backlog: Backlog) -> None:
    backlog.add(clips("acme", "job-1", 10))
    first = backlog.hand_over(window=4)
    assert [each.unit.index for each in first] == [0, 1, 2, 3]
    assert backlog.hand_over(window=4) == []
    assert len(backlog) == 10
    assert backlog.add(clips("acme", "job-1", 10)) == 0
    backlog.remove(first[0])
    assert [each.unit.index for each in backlog.hand_over(window=4)] == [4]


def test_a_unit_that_waits_for_a_retry_is_not_queued_again_and_takes_no_place_in_the_window(backlog: Backlog) -> None:
    backlog.add(clips("acme", "job-1", 2))
    (first,) = backlog.hand_over(window=1)
    backlog.postpone(first, 5.0)
    assert backlog.add(clips("acme", "job-1", 2)) == 0
    assert [each.unit.index for each in backlog.hand_over(window=1)] == [1]


def test_a_removed_job_leaves_the_units_of_others(backlog: Backlog) -> None:
    backlog.add(clips("acme", "job-1", 4))
    backlog.add(clips("acme", "job-2", 1))
    backlog.hand_over(window=1)
    backlog.remove_job(JobId("acme", "job-1"))
    assert list(started(backlog)) == [("job-2", 0)]


def test_units_that_celery_lost_are_forgotten_and_may_be_queued_again(backlog: Backlog) -> None:
    backlog.add(clips("acme", "job-1", 3))
    backlog.hand_over(window=2)
    assert backlog.forget_lost(older_than_seconds=60) == 0
    assert backlog.forget_lost(older_than_seconds=-1) == 2
    assert backlog.add(clips("acme", "job-1", 3)) == 2
