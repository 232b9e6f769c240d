"""Results of checks: what was found, what is missing, how to fix it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """Outcome of a check."""

    GOOD = "good"
    WARNING = "warning"
    MISSING = "missing"
    UNKNOWN = "not checked"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    Attributes:
        check: Subject of the check, as in "GPUs".
        state: MISSING means that the release cannot run.
        found: What exists.
        missing: What does not, or why it was not checked; empty if all is well.
        remedies: Commands to run or values to set, in order.
    """

    check: str
    state: State
    found: str
    missing: str = ""
    remedies: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As in the output of `--json`, whose keys are stable."""
        return {
            "check": self.check,
            "state": self.state.value,
            "found": self.found,
            "missing": self.missing,
            "mend": list(self.remedies),
        }


def good(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, State.GOOD, found)


def warning(check: str, found: str, missing: str, *remedies: str) -> Finding:
    """The release runs, but something needs attention."""
    return Finding(check, State.WARNING, found, missing, remedies)


def missing(check: str, found: str, what: str, *remedies: str) -> Finding:
    """The release cannot run."""
    return Finding(check, State.MISSING, found, what, remedies)


def unknown(check: str, reason: str, *remedies: str) -> Finding:
    """It could not be checked."""
    return Finding(check, State.UNKNOWN, "", reason, remedies)
