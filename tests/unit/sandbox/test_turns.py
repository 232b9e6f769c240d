"""Files that wait to be decoded: bounded, and tenants take turns."""

import threading

import pytest

from services.shared.sandbox.turns import Cancellation, Cancelled, Turns
from services.shared.service_errors import Overloaded


class Waiters:
    """Threads that want a turn; `order` is who got one."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.order: list[str] = []
        self.errors: dict[str, Exception] = {}
        self.threads: list[threading.Thread] = []

    def add(self, name: str, tenant: str, cancellation: Cancellation | None = None) -> None:
        """Returns once the thread waits."""
        before = len(self.turns._lines.get(tenant, ()))
        thread = threading.Thread(target=self._want, args=(name, tenant, cancellation or Cancellation()), daemon=True)
        self.threads.append(thread)
        thread.start()
        while len(self.turns._lines.get(tenant, ())) == before and thread.is_alive():
            thread.join(0.001)

    def _want(self, name: str, tenant: str, cancellation: Cancellation) -> None:
        try:
            with self.turns.turn(tenant, cancellation):
                self.order.append(name)
        except (Overloaded, Cancelled) as error:
            self.errors[name] = error

    def join(self) -> None:
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()


def test_tenants_take_turns_and_nobody_waits_behind_a_crowd() -> None:
    turns = Turns(running_limit=1, waiting_limit=10)
    waiters = Waiters(turns)
    with turns.turn("first", Cancellation()):
        for name in ("a1", "a2", "a3"):
            waiters.add(name, "a")
        waiters.add("b1", "b")
    waiters.join()
    assert waiters.order == ["a1", "b1", "a2", "a3"]


def test_no_more_wait_than_may_and_the_tenant_that_has_most_makes_room() -> None:
    turns = Turns(running_limit=1, waiting_limit=3)
    waiters = Waiters(turns)
    with turns.turn("first", Cancellation()):
        for name in ("a1", "a2", "a3"):
            waiters.add(name, "a")
        with (
            pytest.raises(Overloaded, match="3 files wait to be decoded, the limit is 3"),
            turns.turn("a", Cancellation()),
        ):
            pass
        waiters.add("b1", "b")
        assert turns.waiting == 3
    waiters.join()
    assert waiters.order == ["a1", "b1", "a2"]
    assert list(waiters.errors) == ["a3"]


def test_who_gives_up_leaves_the_line_and_its_turn_to_others() -> None:
    turns = Turns(running_limit=1, waiting_limit=3)
    waiters, cancellation = Waiters(turns), Cancellation()
    with turns.turn("first", Cancellation()):
        waiters.add("a1", "a", cancellation)
        waiters.add("b1", "b")
        cancellation.cancel()
        waiters.threads[0].join(30)
        assert turns.waiting == 1
    waiters.join()
    assert waiters.order == ["b1"]
    assert isinstance(waiters.errors["a1"], Cancelled)
    assert turns.running == 0


def test_as_many_go_on_as_may() -> None:
    turns = Turns(running_limit=2, waiting_limit=0)
    with turns.turn("a", Cancellation()), turns.turn("a", Cancellation()):
        assert turns.running == 2
        with pytest.raises(Overloaded), turns.turn("b", Cancellation()):
            pass
    with turns.turn("b", Cancellation()):
        assert turns.running == 1
