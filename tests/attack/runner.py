"""Runs attacks one after the other and judges them by what came back, and by how other clients fared."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from services.operations.local.stack import GATEWAY
from tests.attack.registry import Attack, Outcome, Plan
from tests.attack.target import Target
from tests.attack.watcher import Sample, Watcher, Window

# The bystander's share of successful requests, and the longest that /healthz may take; generous, for a busy machine.
MIN_ANSWERED = 0.9
MAX_HEALTH_SECONDS = 5.0
SAMPLED_SECONDS = 60.0  # memory over time is kept for attacks longer than this
MAX_GROWTH_MIB = 3 * 1024.0


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table."""

    kind: str
    what: str
    tried: int
    expected: str
    came_back: str
    held: bool
    seconds: float
    health_seconds: float
    bystander: str
    growth_mib: float
    gateway_mib: float
    files: int
    died: list[str]
    wrong: list[str] = field(default_factory=list)
    note: str = ""
    samples: list[Sample] = field(default_factory=list)


def run(target: Target, attacks: Sequence[Attack], plan: Plan) -> Iterator[Row]:
    """Yields a row for each attack. Processes killed by an attack are restarted before the next one.

    Raises:
        TooMuchMemory: The stack exceeded its memory limit; the attacks end.
    """
    with Watcher(target) as watcher:
        for each in attacks:
            yield run_one(target, watcher, each, plan)


def run_one(
    target: Target, watcher: Watcher, each: Attack, plan: Plan, max_health_seconds: float = MAX_HEALTH_SECONDS
) -> Row:
    """Raises TooMuchMemory."""
    watcher.begin()
    began = time.monotonic()
    try:
        outcome = each.run(target, plan)
    except Exception as error:  # an attack that fails has found something, too
        outcome = Outcome("an answer to everything", wrong=[f"{type(error).__name__}: {error}"])
    seconds = time.monotonic() - began
    window = watcher.end()
    watcher.restart_dead()
    return _judged(each, outcome, window, seconds, max_health_seconds)


def _judged(each: Attack, outcome: Outcome, window: Window, seconds: float, max_health_seconds: float) -> Row:
    good, asked = window.answered
    gateway_mib = window.peak_mib(GATEWAY)
    each.judge(outcome, window)
    outcome.require(outcome.tried > 0, "nothing was tried")
    outcome.require(not window.died, f"died: {', '.join(window.died)}")
    outcome.require(asked == 0 or good / asked >= MIN_ANSWERED, f"the bystander was answered {window.bystander}")
    outcome.require(
        window.worst_health_seconds <= max_health_seconds, f"/healthz took {window.worst_health_seconds:.1f} s"
    )
    outcome.require(
        gateway_mib <= each.max_gateway_mib, f"the gateway took {gateway_mib:g} MiB of {each.max_gateway_mib:g}"
    )
    outcome.require(window.growth_mib <= MAX_GROWTH_MIB, f"the stack grew by {window.growth_mib:.0f} MiB")
    return Row(
        kind=each.kind,
        what=each.what,
        tried=outcome.tried,
        expected=outcome.expected,
        came_back=outcome.came_back,
        held=not outcome.wrong,
        seconds=round(seconds, 2),
        health_seconds=round(window.worst_health_seconds, 3),
        bystander=f"{good} of {asked}",
        growth_mib=round(window.growth_mib, 1),
        gateway_mib=gateway_mib,
        files=max((sample.files.get(GATEWAY, 0) for sample in window.samples), default=0),
        died=window.died,
        wrong=outcome.violations(),
        note=outcome.note,
        samples=window.samples if window.samples[-1].seconds > SAMPLED_SECONDS else [],
    )
