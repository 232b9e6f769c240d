"""A worker lives on when Redis is lost while its pool processes are being replaced."""

import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from services.operations.local.process import LocalProcess, ProcessSpec, serves_metrics
from services.shared.jobs.dispatch import Dispatcher, Queue, QueueDown, make_celery, open_redis
from services.shared.jobs.kinds import Priority
from services.shared.jobs.layout import JobId
from services.shared.jobs.settings import JobSettings
from services.shared.jobs.state import Unit, Work
from services.shared.storage.settings import StoreSettings
from tests.job_stack import kill, until
from tests.servers import RedisServer, StartRedis, start_process, store_environment

PROCESSES = 2


class Worker:
    """A worker of answers with a Redis of its own."""

    def __init__(self, process: LocalProcess, redis: RedisServer) -> None:
        self.process = process
        self.redis = redis
        self._dispatcher = Dispatcher(open_redis(settings := JobSettings(redis_url=redis.url)), make_celery(settings))

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def pipes(self) -> int:
        """Pipes that the worker has open."""
        found = 0
        for each in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                found += str(each.readlink()).startswith("pipe:")
        return found

    def assert_works(self) -> None:
        """Its pool has all of its processes, and units are done: here one of a job that was deleted."""
        until(lambda: len(self.children()) == PROCESSES or not self.process.alive)
        until(self._queue_unit)
        until(lambda: len(self._dispatcher.backlogs[Queue.ANSWERS]) == 0 or not self.process.alive)
        assert self.process.alive, self.process.log_tail()

    def _queue_unit(self) -> bool:
        try:
            self._dispatcher.push(JobId("acme", secrets.token_hex(8)), [Unit(Work.FINISH)], Priority.NORMAL)
        except QueueDown:
            return False
        return True


StartWorker = Callable[[str], Worker]


@pytest.fixture
def start_worker(start_redis: StartRedis, store_settings: StoreSettings, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts a module as a worker."""
    with ExitStack() as cleanup:

        def start(module: str) -> Worker:
            redis = start_redis()
            environment = store_environment(store_settings) | {"LYRA_REDIS_URL": redis.url, "LYRA_HOME": str(tmp_path)}
            arguments = ("--queues", Queue.ANSWERS.value, "--concurrency", str(PROCESSES))
            spec = ProcessSpec("worker", module, arguments, serves_metrics, environment=environment)
            return Worker(start_process(spec, 0, tmp_path / "worker", cleanup), redis)

        yield start


def test_redis_lost_while_pool_processes_are_exiting_leaves_the_worker_alive(start_worker: StartWorker) -> None:
    worker = start_worker("tests.integration.jobs.exiting_worker")
    worker.assert_works()
    children, pipes = worker.children(), worker.pipes()
    for child in children:
        child.send_signal(signal.SIGUSR2)
    until(lambda: worker.pipes() == pipes - PROCESSES)  # the worker has stopped watching them
    worker.redis.process.kill()
    worker.redis.start_again()
    worker.assert_works()
    for child in children:
        kill(child)
    worker.assert_works()
    assert not set(children) & set(worker.children())


def test_redis_lost_just_after_pool_processes_were_killed_leaves_the_worker_alive(start_worker: StartWorker) -> None:
    worker = start_worker("services.worker")
    for milliseconds in (0, 1, 2, 5, 10, 20, 50, 200):
        for child in worker.children():
            kill(child)
        time.sleep(milliseconds / 1000)
        worker.redis.process.kill()
        worker.redis.start_again()
        worker.assert_works()
