"""The desk against a real store and a real Redis: limits, retention, and leases by one clock."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import redis

from services.shared.jobs.kinds import State, Task
from services.shared.jobs.layout import JobId
from services.shared.jobs.model import Recording
from services.shared.jobs.queue import Waiting
from services.shared.jobs.service import JobRequest, JobService
from services.shared.jobs.settings import JobSettings
from services.shared.jobs.state import Unit, Work
from services.shared.jobs.store import JobEnded, JobStore, UnknownJob, now
from services.shared.jobs.tickets import Dispatcher, Queue, make_celery, open_redis
from services.shared.service_errors import InvalidInput
from services.shared.storage.client import ObjectStore
from services.worker.lease import Leases
from tests.servers import RedisServer

REQUEST = JobRequest(
    tenant="acme",
    recording=Recording(media_id="media-1", content_key="c", filename="a.mp3", sha256="0", bytes=1, seconds=60.0),
    tasks=(Task.TRANSCRIPT,),
    metadata={},
)
UNIT = Waiting(JobId("acme", "job-1"), Unit(Work.CLIP, 3))


@pytest.fixture
def client(redis_server: RedisServer) -> "redis.Redis":
    client = redis.Redis.from_url(redis_server.url)
    client.flushall()
    return client


@pytest.fixture
def book(object_store: ObjectStore) -> JobStore:
    return JobStore(object_store, retention=timedelta(days=1))


@pytest.fixture
def desk(book: JobStore, redis_server: RedisServer) -> JobService:
    settings = JobSettings(redis_url=redis_server.url)
    return JobService(book, Dispatcher(open_redis(settings), make_celery(settings)), settings)


def test_eleven_hours_are_refused(desk: JobService) -> None:
    recording = REQUEST.recording.model_copy(update={"seconds": 11 * 3600.0})
    with pytest.raises(InvalidInput, match=r"media_id: 11.00 h are over the limit of 10 h"):
        desk.submit(replace(REQUEST, recording=recording))


def test_a_job_is_kept_and_gets_a_ticket(desk: JobService, book: JobStore, client: "redis.Redis") -> None:
    manifest = desk.submit(REQUEST)
    assert list(book.active()) == [JobId("acme", manifest.id)]
    assert Dispatcher(client, make_celery(JobSettings())).tickets(Queue.PLANS) == 1


def test_a_job_is_kept_where_there_is_no_redis(book: JobStore) -> None:
    settings = JobSettings(redis_url="redis://127.0.0.1:1/0", redis_seconds=0.5)
    manifest = JobService(book, Dispatcher(open_redis(settings), make_celery(settings)), settings).submit(REQUEST)
    assert list(book.active()) == [JobId("acme", manifest.id)]


def test_results_expire_and_then_the_job_is_forgotten(desk: JobService, book: JobStore) -> None:
    job = JobId("acme", desk.submit(REQUEST).id)
    book.store.put(job.result, b"{}")
    book.finish(job, State.SUCCEEDED)
    assert book.expire(now()) == 0
    assert book.expire(now() + timedelta(days=1, minutes=2)) == 1
    assert book.read(job).state is State.EXPIRED
    assert book.store.stat(job.result) is None
    with pytest.raises(JobEnded):
        desk.ask(job, ["Why?"])
    book.expire(datetime.now(UTC) + timedelta(days=2, minutes=4))
    with pytest.raises(UnknownJob):
        book.read(job)


def test_the_first_end_stays(desk: JobService, book: JobStore) -> None:
    job = JobId("acme", desk.submit(REQUEST).id)
    assert desk.cancel(job).state is State.CANCELLED
    assert book.finish(job, State.SUCCEEDED).state is State.CANCELLED


@pytest.mark.parametrize("skew", [-86_400, 86_400])
def test_leases_hold_whatever_a_workers_clock_says(
    client: "redis.Redis", skew: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = Leases(client, seconds=30), Leases(client, seconds=30)
    at = datetime.now(UTC).timestamp()
    with here.hold(UNIT) as held:
        assert held
        monkeypatch.setattr("time.time", lambda: at + skew)
        with there.hold(UNIT) as also:
            assert not also
        assert there.held([UNIT]) == {UNIT}
    with there.hold(UNIT) as free:
        assert free


def test_a_lease_is_renewed_while_its_holder_lives(client: "redis.Redis") -> None:
    leases = Leases(client, seconds=1)
    with leases.hold(UNIT):
        for _ in range(4):
            client.blpop("nothing", timeout=0.5)  # waits by Redis' clock
            assert leases.held([UNIT])
    assert not leases.held([UNIT])


def test_tries_are_counted_and_taken_back(client: "redis.Redis") -> None:
    leases = Leases(client, seconds=30)
    assert [leases.count_try(UNIT) for _ in range(2)] == [1, 2]
    leases.forget_try(UNIT)
    assert leases.count_try(UNIT) == 2
