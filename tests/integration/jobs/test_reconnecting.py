"""A worker goes on when Redis is lost at a bad time for its pool of processes."""

import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
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

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Its main process does nothing in the meantime."""
        main = psutil.Process(self.process.pid)
        main.suspend()
        yield
        main.resume()

    def pipes(self) -> int:
        """Pipes that the worker has open."""
        found = 0
        for each in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                found += str(each.readlink()).startswith("pipe:")
        return found

    def logged(self, text: str) -> int:
        """How often the worker has logged a text."""
        return self.process.log_path.read_text().count(text)

    def assert_works(self) -> None:
        """Its pool has all of its processes, and units are done: here one of a job that was deleted."""
        until(lambda: len(self.children()) == PROCESSES or not self.process.alive)
        self.start_unit()

    def start_unit(self) -> None:
        """Queues a unit, and returns when the worker has started it."""
        until(self._queue_unit)
        until(lambda: len(self._dispatcher.backlogs[Queue.ANSWERS]) == 0 or not self.process.alive)
        assert self.process.alive, self.process.log_tail()

    def _queue_unit(self) -> bool:
        job = JobId("acme", secrets.token_hex(8))
        try:
            self._dispatcher.push(job, [Unit(Work.FINISH)], Priority.NORMAL)
        except QueueDown:
            return False
        return True


StartWorker = Callable[..., Worker]


@pytest.fixture
def start_worker(start_redis: StartRedis, store_settings: StoreSettings, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts a module as a worker, with more variables of its environment."""
    with ExitStack() as cleanup:

        def start(module: str, **variables: str) -> Worker:
            redis = start_redis()
            environment = store_environment(store_settings) | {"LYRA_REDIS_URL": redis.url, "LYRA_HOME": str(tmp_path)}
            environment |= variables
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


def test_redis_lost_while_units_cannot_be_acknowledged_leaves_the_worker_taking_units(
    start_worker: StartWorker,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent_store:  # units wait for it
        address = f"127.0.0.1:{silent_store.getsockname()[1]}"
        worker = start_worker("services.worker", LYRA_STORE_ENDPOINT=address)
        for _ in range(PROCESSES):
            worker.start_unit()
        with worker.frozen():  # so that it finds both dead at once
            worker.redis.process.kill()
            for child in worker.children():
                kill(child)
            until(lambda: all(child.status() == psutil.STATUS_ZOMBIE for child in worker.children()))
        until(lambda: worker.logged("Couldn't reject") == PROCESSES or worker.logged("Trying to re-establish") > 0)
        worker.redis.start_again()
        worker.assert_works()
