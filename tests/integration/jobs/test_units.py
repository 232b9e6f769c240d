"""Units as tasks of a real Celery worker: their arguments, retries and failures."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, signals
from celery.contrib.testing.worker import start_worker

from services.shared.jobs.backlog import QueuedUnit
from services.shared.jobs.dispatch import Dispatcher, Queue, open_redis
from services.shared.jobs.kinds import Priority
from services.shared.jobs.layout import JobId
from services.shared.jobs.state import Unit, Work
from services.shared.service_errors import Failed, Unavailable
from services.worker import units
from services.worker.app import make_app
from services.worker.settings import WorkerSettings
from tests.servers import RedisServer

JOB = JobId("acme", "job-1")
SECONDS = 30.0


@dataclass
class Steps:
    """What the body of a unit does at each try, and what came of the unit."""

    errors: list[Exception] = field(default_factory=list)
    done: list[QueuedUnit] = field(default_factory=list)
    given_up: list[tuple[str, int]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def do(self, context: object, queued: QueuedUnit) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.done.append(queued)

    def give_up(self, context: object, job: JobId, unit: Unit, reason: str, tries: int) -> None:
        self.given_up.append((reason, tries))

    def follow(self, context: object, job: JobId, unit: Unit) -> None:
        self.ended.set()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """The unit's body and what follows it, in place of those that need a store."""
    steps = Steps()
    monkeypatch.setattr(units, "_do", steps.do)
    monkeypatch.setattr(units, "_give_up", steps.give_up)
    monkeypatch.setattr(units, "_follow", steps.follow)
    return steps


@pytest.fixture
def settings(redis_server: RedisServer, tmp_path: Path) -> WorkerSettings:
    redis.Redis.from_url(redis_server.url).flushall()
    return WorkerSettings(redis_url=redis_server.url, home=tmp_path, store_endpoint="127.0.0.1:9")


@pytest.fixture
def app(settings: WorkerSettings) -> Celery:
    return make_app(settings)


@pytest.fixture
def dispatcher(settings: WorkerSettings, app: Celery) -> Dispatcher:
    return Dispatcher(open_redis(settings), app)


@pytest.fixture
def worker(app: Celery) -> Iterator[None]:
    """A worker of clips and answers, in threads."""
    app.conf.worker_hijack_root_logger = False
    signals.setup_logging.connect(lambda **_: None, weak=False, dispatch_uid="test")
    with start_worker(app, concurrency=2, pool="threads", perform_ping_check=False, queues=["clips", "answers"]):
        yield


def test_a_unit_is_a_task_of_its_own_with_its_arguments(dispatcher: Dispatcher, steps: Steps, worker: None) -> None:
    seen: list[tuple[str, Any, Any]] = []

    def record(task: Any, args: Any, kwargs: Any, **_: Any) -> None:
        seen.append((task.name, tuple(args), kwargs))

    signals.task_prerun.connect(record)
    dispatcher.push(JOB, [Unit(Work.CLIP, 7)], Priority.HIGH)
    assert steps.ended.wait(SECONDS)
    assert seen == [("lyra.clip", ("acme", "job-1"), {"index": 7, "answer": "", "priority": "high"})]
    assert steps.done == [QueuedUnit(JOB, Unit(Work.CLIP, 7), Priority.HIGH)]
    assert len(dispatcher.backlogs[Queue.CLIPS]) == 0


def test_all_units_are_started_although_few_are_handed_over_at_a_time(
    dispatcher: Dispatcher, steps: Steps, worker: None
) -> None:
    dispatcher.push(JOB, [Unit(Work.WINDOW, index, "000") for index in range(20)], Priority.NORMAL)
    done = threading.Event()
    for _ in range(int(SECONDS * 10)):
        if len(steps.done) == 20 or done.wait(0.1):
            break
    assert sorted(queued.unit.index for queued in steps.done) == list(range(20))


def test_waiting_for_a_service_counts_as_no_try(dispatcher: Dispatcher, steps: Steps, worker: None) -> None:
    steps.errors = [Unavailable("speech_encoder", "is away", 0.1) for _ in range(5)]
    dispatcher.push(JOB, [Unit(Work.CLIP)], Priority.NORMAL)
    assert steps.ended.wait(SECONDS)
    assert len(steps.done) == 1
    assert steps.given_up == []


def test_a_unit_that_keeps_failing_is_given_up_after_its_tries(
    dispatcher: Dispatcher, steps: Steps, worker: None, settings: WorkerSettings
) -> None:
    steps.errors = [Failed("broken") for _ in range(settings.max_tries)]
    dispatcher.push(JOB, [Unit(Work.CLIP)], Priority.NORMAL)
    assert steps.ended.wait(SECONDS)
    assert steps.done == []
    assert steps.given_up == [("it failed inside a service", settings.max_tries)]


def test_units_of_a_cancelled_job_are_dropped(dispatcher: Dispatcher, settings: WorkerSettings) -> None:
    dispatcher.push(JOB, [Unit(Work.CLIP, index) for index in range(40)], Priority.NORMAL)
    dispatcher.push(JobId("acme", "job-2"), [Unit(Work.CLIP)], Priority.NORMAL)
    dispatcher.drop(JOB)
    assert len(dispatcher.backlogs[Queue.CLIPS]) == 1
    handed_to_celery = open_redis(settings).llen("lyra:celery:clips\x06\x163")
    assert handed_to_celery == 32 + 1  # the window of the job that was cancelled, and the unit that was behind it


def test_a_unit_that_celery_has_lost_is_queued_again_and_one_that_it_has_is_not(
    dispatcher: Dispatcher, settings: WorkerSettings
) -> None:
    unit = Unit(Work.CLIP)
    dispatcher.push(JOB, [unit], Priority.NORMAL)
    dispatcher.forget_lost(older_than_seconds=-1)
    assert dispatcher.push(JOB, [unit], Priority.NORMAL) == 0  # no worker has received it
    open_redis(settings).delete("lyra:celery:clips\x06\x163")
    dispatcher.forget_lost(older_than_seconds=60)
    assert dispatcher.push(JOB, [unit], Priority.NORMAL) == 0
    dispatcher.forget_lost(older_than_seconds=-1)
    assert dispatcher.push(JOB, [unit], Priority.NORMAL) == 1
