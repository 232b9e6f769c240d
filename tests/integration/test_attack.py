"""The quick attacks as one test each, on one stack; `make attack` tries harder and prints the results."""

from collections.abc import Iterator

import pytest

from tests.attack import kinds
from tests.attack.loopback import LeavesLoopback, check_loopback, loopback_only
from tests.attack.registry import ATTACKS, Attack, Outcome, Plan
from tests.attack.runner import run_one
from tests.attack.target import Target, running_target
from tests.attack.watcher import Watcher

PLAN = Plan(quick=True)
# Generous, as other tests run at the same time.
PATIENT_SECONDS = 30.0


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with running_target() as target:
        yield target


@pytest.fixture(scope="module")
def watcher(target: Target) -> Iterator[Watcher]:
    with Watcher(target) as watcher:
        yield watcher


@pytest.mark.parametrize(
    "each", [each for each in ATTACKS if each.quick], ids=lambda each: f"{each.kind}-{each.run.__name__.strip('_')}"
)
def test_the_stack_withstands(target: Target, watcher: Watcher, each: Attack) -> None:
    with loopback_only():
        row = run_one(target, watcher, each, PLAN, max_health_seconds=PATIENT_SECONDS)
    assert row.held, row.wrong


def test_every_kind_is_listed_and_has_attacks() -> None:
    assert {each.kind for each in ATTACKS} == set(kinds.NAMES)


def test_a_disallowed_answer_fails_the_attack() -> None:
    outcome = Outcome("400")
    outcome.add("400", ("400",))
    assert outcome.wrong == []
    outcome.add("500", ("400",), "POST /v1/jobs")
    assert outcome.wrong == ["500: POST /v1/jobs"]
    assert outcome.came_back == "400, 500"


def test_a_process_killed_by_an_attack_is_reported_and_restarted(target: Target, watcher: Watcher) -> None:
    def killing(target: Target, plan: Plan) -> Outcome:
        target.stack.kill("speech_synthesizer")
        outcome = Outcome("200")
        outcome.add("200", ("200",))
        return outcome

    row = run_one(target, watcher, Attack("media", "kills", killing, True, 4096.0), PLAN)
    assert not row.held
    assert row.died == ["speech_synthesizer"]
    assert target.stack.exited() == []


@pytest.mark.parametrize("host", ["10.0.0.1", "93.184.215.14", "::", "2001:db8::1", "0.0.0.0"])
def test_attacks_refuse_to_leave_loopback(host: str) -> None:
    with pytest.raises(LeavesLoopback):
        check_loopback(host)
