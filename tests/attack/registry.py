"""What an attack is: a function that tries one thing many times and reports what came back."""

import random
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.attack.target import Target
    from tests.attack.watcher import Window

_SHOWN = 5  # violations that are listed; the others are counted


@dataclass(frozen=True, slots=True)
class Plan:
    """How hard to try.

    Attributes:
        quick: Whether to run fewer tries, as `make test` does.
        seed: Random seed.
        minutes: Duration of the mixed load.
    """

    quick: bool = False
    seed: int = 0
    minutes: float = 10.0

    def count(self, full: int, quick: int) -> int:
        """How many times to try something."""
        return quick if self.quick else full

    def random(self, name: str) -> random.Random:
        """A generator for one attack, so that it does the same whatever else runs."""
        return random.Random(f"{self.seed}:{name}")


@dataclass(slots=True)
class Outcome:
    """Answers by kind ("400", "refused", "INVALID_ARGUMENT"), and those that are violations."""

    expected: str
    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    note: str = ""

    @property
    def tried(self) -> int:
        return self.answers.total()

    @property
    def came_back(self) -> str:
        return ", ".join(f"{answer} x{count}" if count > 1 else answer for answer, count in self.answers.most_common(8))

    def add(self, answer: str, allowed: Collection[str], about: object = "") -> None:
        """Counts an answer; one that is not `allowed` is recorded with the input that caused it."""
        self.answers[answer] += 1
        if answer not in allowed:
            self.wrong.append(f"{answer}: {about}" if about else answer)

    def require(self, holds: bool, otherwise: str) -> None:
        """Records a violation unless `holds`."""
        if not holds:
            self.wrong.append(otherwise)

    def violations(self) -> list[str]:
        """The first violations, and how many more there were."""
        more = len(self.wrong) - _SHOWN
        return [each[:600] for each in self.wrong[:_SHOWN]] + ([f"... and {more} more"] if more > 0 else [])


Run = Callable[["Target", Plan], Outcome]
# Inspects the measurements of the attack, and adds violations to the outcome.
Judge = Callable[[Outcome, "Window"], None]


def no_further_conditions(outcome: Outcome, window: "Window") -> None:
    """The judge of attacks without conditions of their own."""


@dataclass(frozen=True, slots=True)
class Attack:
    """A row of the table.

    Attributes:
        kind: Name of its module.
        what: What is tried, in words.
        quick: Whether `make test` runs it too.
        max_gateway_mib: Memory that the gateway may use meanwhile.
        judge: Checks further conditions.
    """

    kind: str
    what: str
    run: Run
    quick: bool
    max_gateway_mib: float
    judge: Judge = no_further_conditions


ATTACKS: list[Attack] = []


def attack(
    what: str, *, quick: bool = True, max_gateway_mib: float = 1024.0, judge: Judge = no_further_conditions
) -> Callable[[Run], Run]:
    """Registers a function as an attack."""

    def register(run: Run) -> Run:
        ATTACKS.append(Attack(run.__module__.rpartition(".")[2], what, run, quick, max_gateway_mib, judge))
        return run

    return register
