"""The queue of threads waiting for a decoder: bounded, and tenants take turns."""

import threading

import pytest

from services.shared.sandbox.cancellation import Cancellation, Cancelled
from services.shared.sandbox.queueing import ThreadFairQueue
from services.shared.service_errors import Overloaded


class Waiters:
    """Threads that request a slot; `order` is the order in which they got one."""

    def __init__(self, queue: ThreadFairQueue) -> None:
        self.queue = queue
        self.order: list[str] = []
        self.errors: dict[str, Exception] = {}
        self.threads: list[threading.Thread] = []

    def add(self, name: str, tenant: str, cancellation: Cancellation | None = None) -> None:
        """Starts a thread. Returns once it waits for a slot."""
        before = self.queue.waiting, len(self.errors)
        thread = threading.Thread(target=self._run, args=(name, tenant, cancellation or Cancellation()), daemon=True)
        self.threads.append(thread)
        thread.start()
        while (self.queue.waiting, len(self.errors)) == before and thread.is_alive():
            thread.join(0.001)

    def _run(self, name: str, tenant: str, cancellation: Cancellation) -> None:
        try:
            with self.queue.slot(tenant, cancellation):
                self.order.append(name)
        except (Overloaded, Cancelled) as error:
            self.errors[name] = error

    def join(self) -> None:
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()


def test_tenants_take_turns_regardless_of_their_number_of_files() -> None:
    queue = ThreadFairQueue(running_limit=1, waiting_limit=10)
    waiters = Waiters(queue)
    with queue.slot("first", Cancellation()):
        for name in ("a1", "a2", "a3"):
            waiters.add(name, "a")
        waiters.add("b1", "b")
    waiters.join()
    assert waiters.order == ["a1", "b1", "a2", "a3"]


def test_a_full_queue_of_one_tenant_makes_room_for_another() -> None:
    queue = ThreadFairQueue(running_limit=1, waiting_limit=3)
    waiters = Waiters(queue)
    with queue.slot("first", Cancellation()):
        for name in ("a1", "a2", "a3"):
            waiters.add(name, "a")
        with (
            pytest.raises(Overloaded, match="3 files wait to be decoded, the limit is 3"),
            queue.slot("a", Cancellation()),
        ):
            pass
        waiters.add("b1", "b")
        assert queue.waiting == 3
    waiters.join()
    assert waiters.order == ["a1", "b1", "a2"]
    assert list(waiters.errors) == ["a3"]
    assert "3 files wait to be decoded, the limit is 3" in str(waiters.errors["a3"])


def test_a_cancelled_thread_leaves_the_queue() -> None:
    queue = ThreadFairQueue(running_limit=1, waiting_limit=3)
    waiters, cancellation = Waiters(queue), Cancellation()
    with queue.slot("first", Cancellation()):
        waiters.add("a1", "a", cancellation)
        waiters.add("b1", "b")
        cancellation.cancel()
        waiters.threads[0].join(30)
        assert queue.waiting == 1
    waiters.join()
    assert waiters.order == ["b1"]
    assert isinstance(waiters.errors["a1"], Cancelled)
    assert queue.running == 0


def test_no_more_run_than_the_limit_allows() -> None:
    queue = ThreadFairQueue(running_limit=2, waiting_limit=0)
    with queue.slot("a", Cancellation()), queue.slot("a", Cancellation()):
        assert queue.running == 2
        with pytest.raises(Overloaded), queue.slot("b", Cancellation()):
            pass
    with queue.slot("b", Cancellation()):
        assert queue.running == 1
