"""`lyra cluster job-metrics`: queues from a real Redis, jobs from a real object store."""

import json
from datetime import timedelta

import pytest

from services.operations.cluster.cluster_errors import Unreachable
from services.operations.cluster.job_metrics import job_metrics
from services.shared.jobs.dispatch import Dispatcher, make_celery, open_redis
from services.shared.jobs.kinds import Priority, State, Task
from services.shared.jobs.layout import JobId
from services.shared.jobs.model import Manifest, Plan, PlannedClip, Recording
from services.shared.jobs.settings import JobSettings
from services.shared.jobs.state import next_units
from services.shared.jobs.store import JobStore, now
from services.shared.storage.client import ObjectStore
from services.shared.storage.settings import StoreSettings
from tests.integration.cluster.conftest import Lyra
from tests.servers import RedisServer, StartRedis, store_environment


@pytest.fixture
def redis_url(start_redis: StartRedis) -> str:
    server: RedisServer = start_redis()
    return server.url


@pytest.fixture
def settings(store_settings: StoreSettings, redis_url: str) -> JobSettings:
    return JobSettings(**store_settings.model_dump(), redis_url=redis_url)


def submit(job_store: JobStore, name: str, tenant: str = "shop", days_ago: float = 0) -> JobId:
    at = now() - timedelta(days=days_ago)
    recording = Recording(media_id="m", content_key="k", filename="a.mp3", sha256="0" * 64, bytes=1, seconds=90.0)
    job_store.create(Manifest(id=name, tenant=tenant, created_at=at, recording=recording, tasks=(Task.TRANSCRIPT,)))
    return JobId(tenant, name)


def planned(job_store: JobStore, job: JobId) -> None:
    clips = tuple(PlannedClip(index=n, start_seconds=30.0 * n, end_seconds=30.0 * n + 30) for n in range(3))
    plan = Plan(planned_at=now(), seconds=90.0, speech_seconds=80.0, truncated=False, clips=clips)
    job_store.store.put(job.plan, plan.to_bytes())


def test_queues_and_jobs_are_counted(settings: JobSettings) -> None:
    client = open_redis(settings)
    job_store, dispatcher = JobStore(ObjectStore(settings)), Dispatcher(client, make_celery(settings))
    waiting, running = submit(job_store, "job-1"), submit(job_store, "job-2", "bank")
    planned(job_store, running)
    for job in (waiting, running):
        dispatcher.push(job, next_units(job_store.read(job)), Priority.NORMAL)
    done, old = submit(job_store, "job-3"), submit(job_store, "job-4", days_ago=3)
    for job in (done, old):
        job_store.finish(job, State.SUCCEEDED)
        job_store.mark_idle(job)
    found = job_metrics(settings, hours=24)
    assert {each.queue: each.waiting for each in found.queues if each.waiting} == {"plans": 1, "clips": 3}
    assert found.open == {"queued": 1, "running": 1}
    assert found.ended == {"succeeded": 1}
    assert found.tenants == {"shop": 1, "bank": 1}
    assert found.seconds_left == 90.0
    assert job_metrics(settings, hours=24 * 7).ended == {"succeeded": 2}


def test_reserved_messages_are_counted_by_queue(settings: JobSettings) -> None:
    client = open_redis(settings)
    dispatcher = Dispatcher(client, make_celery(settings))
    job = submit(JobStore(ObjectStore(settings)), "job-1")
    dispatcher.push(job, next_units(JobStore(ObjectStore(settings)).read(job)), Priority.NORMAL)
    celery = make_celery(settings)
    with celery.connection_for_read() as connection, connection.SimpleQueue("plans") as queue:
        queue.get(timeout=10)  # reserved like a worker does, and not acknowledged
        taken = {each.queue: each.taken for each in job_metrics(settings).queues}
    assert taken == {"plans": 1, "clips": 0, "answers": 0, "webhooks": 0, "housekeeping": 0}


def test_unreachable_redis_says_how_to_reach_the_bundled_one(settings: JobSettings) -> None:
    with pytest.raises(Unreachable) as raised:
        job_metrics(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"}))
    assert "port-forward" in raised.value.hint


def test_command_prints_queues_and_jobs(settings: JobSettings, lyra: Lyra, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in store_environment(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LYRA_REDIS_URL", settings.redis_url)
    submit(JobStore(ObjectStore(settings)), "job-1")
    page = json.loads(lyra("job-metrics", "--json").stdout)
    assert page["open"] == {"queued": 1}
    text = lyra("job-metrics").stdout
    assert "queued" in text
    assert "housekeeping" in text
    assert "shop" in text
