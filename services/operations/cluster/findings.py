"""What a check found: what is there, what is missing, how to mend it."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """How a check went."""

    GOOD = "good"
    WARNING = "warning"
    MISSING = "missing"
    UNKNOWN = "not checked"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    Attributes:
        check: What was looked at, as in "GPUs".
        state: MISSING means that the release cannot run as it is.
        found: What is there.
        missing: What is not, or why it was not checked; empty where all is good.
        mend: Commands to type, or what to set; in order.
    """

    check: str
    state: State
    found: str
    missing: str = ""
    mend: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"state": self.state.value, "mend": list(self.mend)}


def good(check: str, found: str) -> Finding:
    return Finding(check, State.GOOD, found)


def warning(check: str, found: str, missing: str, *mend: str) -> Finding:
    return Finding(check, State.WARNING, found, missing, mend)


def missing(check: str, found: str, what: str, *mend: str) -> Finding:
    return Finding(check, State.MISSING, found, what, mend)


def unknown(check: str, why: str, *mend: str) -> Finding:
    return Finding(check, State.UNKNOWN, "", why, mend)
