"""The job_service against a real store and a real Redis: limits, retention, and leases by one clock."""

from datetime import UTC, datetime, timedelta

import pytest
import redis

from services.shared.jobs.backlog import Backlog, QueuedUnit
from services.shared.jobs.dispatch import Dispatcher, make_celery, open_redis
from services.shared.jobs.kinds import State, Task
from services.shared.jobs.layout import JobId
from services.shared.jobs.model import Recording
from services.shared.jobs.service import JobRequest, JobService
from services.shared.jobs.settings import JobSettings
from services.shared.jobs.state import Unit, Work
from services.shared.jobs.store import JobEnded, JobStore, UnknownJob, now
from services.shared.service_errors import InvalidInput
from services.shared.storage.client import ObjectStore
from services.worker.leases import Leases
from tests.servers import RedisServer

REQUEST = JobRequest(
    tenant="acme",
    recording=Recording(media_id="media-1", content_key="c", filename="a.mp3", sha256="0", bytes=1, seconds=60.0),
    tasks=(Task.TRANSCRIPT,),
    metadata={},
)
UNIT = QueuedUnit(JobId("acme", "job-1"), Unit(Work.CLIP, 3))


@pytest.fixture
def client(redis_server: RedisServer) -> "redis.Redis":
    client = redis.Redis.from_url(redis_server.url)
    client.flushall()
    return client


@pytest.fixture
def job_store(object_store: ObjectStore) -> JobStore:
    return JobStore(object_store, retention=timedelta(days=1))


@pytest.fixture
def job_service(job_store: JobStore, redis_server: RedisServer) -> JobService:
    settings = JobSettings(redis_url=redis_server.url)
    return JobService(job_store, Dispatcher(open_redis(settings), make_celery(settings)), settings)


def test_eleven_hours_are_refused(job_service: JobService) -> None:
    recording = REQUEST.recording.model_copy(update={"seconds": 11 * 3600.0})
    with pytest.raises(InvalidInput, match=r"media_id: 11.00 h are over the limit of 10 h"):
        job_service.submit(REQUEST.model_copy(update={"recording": recording}))


def test_a_job_is_stored_and_its_plan_handed_to_celery(
    job_service: JobService, job_store: JobStore, client: "redis.Redis"
) -> None:
    job = job_service.submit(REQUEST)
    assert list(job_store.active()) == [job.id]
    assert len(Backlog(client, "plans")) == 1
    assert client.llen("lyra:celery:plans\x06\x163") == 1


def test_a_job_is_kept_where_there_is_no_redis(job_store: JobStore) -> None:
    settings = JobSettings(redis_url="redis://127.0.0.1:1/0", redis_seconds=0.5)
    job = JobService(job_store, Dispatcher(open_redis(settings), make_celery(settings)), settings).submit(REQUEST)
    assert list(job_store.active()) == [job.id]


def test_results_expire_and_then_the_job_is_forgotten(job_service: JobService, job_store: JobStore) -> None:
    job = job_service.submit(REQUEST).id
    job_store.store.put(job.result, b"{}")
    job_store.finish(job, State.SUCCEEDED)
    assert job_store.expire(now()) == 0
    assert job_store.expire(now() + timedelta(days=1, minutes=2)) == 1
    assert job_store.read(job).state is State.EXPIRED
    assert job_store.store.stat(job.result) is None
    with pytest.raises(JobEnded):
        job_service.ask(job, ["Why?"])
    job_store.expire(datetime.now(UTC) + timedelta(days=2, minutes=4))
    with pytest.raises(UnknownJob):
        job_store.read(job)


def test_the_first_end_stays(job_service: JobService, job_store: JobStore) -> None:
    job = job_service.submit(REQUEST).id
    assert job_service.cancel(job).state is State.CANCELLED
    assert job_store.finish(job, State.SUCCEEDED).state is State.CANCELLED


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
