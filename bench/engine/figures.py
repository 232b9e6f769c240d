"""What every row reports: medians with their spread, and ratios beside the targets that they have to reach."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import psutil

ROOT = Path(__file__).parent.parent.parent

Figures = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        repeats: Measurements of each figure, after one that does not count.
        threads: CPU threads of each side.
        before: Commit to compare with over HTTP; empty for none.
        quick: Whether one short measurement of each figure is enough.
    """

    repeats: int
    threads: int
    before: str
    quick: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio and its bound: `at_least` or at most `bound`."""

    what: str
    ratio: float
    bound: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        return self.ratio >= self.bound if self.at_least else self.ratio <= self.bound

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": round(self.ratio, 3), "met": self.met}

    def line(self) -> str:
        bound = f"at {'least' if self.at_least else 'most'} {self.bound:g}"
        return f"{'met ' if self.met else 'open'} {self.what}: {self.ratio:.2f} x ({bound})"


def summary(values: Iterable[float]) -> dict[str, Any]:
    """Median, extremes and all values."""
    rounded = [round(value, 4) for value in values]
    return {"median": round(median(rounded), 4), "min": min(rounded), "max": max(rounded), "all": rounded}


def take_turns(ways: Mapping[str, Callable[[int], T]], repeats: int, *, warm_up: bool = True) -> dict[str, list[T]]:
    """Calls each way `repeats` times with the number of the repeat; to warm up, with -1 before that.

    Every other repeat goes through the ways backwards, so that none always meets a warmer machine.
    """
    found: dict[str, list[T]] = {name: [] for name in ways}
    for repeat in range(-1 if warm_up else 0, repeats):
        for name in list(ways) if repeat % 2 else list(reversed(list(ways))):
            result = ways[name](repeat)
            if repeat >= 0:
                found[name].append(result)
                print(f"  {name} {repeat + 1} of {repeats}: {result}"[:120], file=sys.stderr)
    return found


class OtherLoad:
    """Cores that processes other than this one and its children keep busy: how quiet the machine is while it measures.

    Children count once they have ended.
    """

    def __init__(self) -> None:
        self._start = self._now()

    def cores(self) -> float:
        """Mean since this object was made."""
        wall, busy, own = (now - then for now, then in zip(self._now(), self._start, strict=True))
        return round(max(busy - own, 0.0) / wall, 2)

    @staticmethod
    def _now() -> tuple[float, float, float]:
        machine = psutil.cpu_times()
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        own = sum(usage.ru_utime + usage.ru_stime for usage in usages)
        return time.monotonic(), machine.user + machine.nice + machine.system, own


def p95(values: Sequence[float]) -> float:
    """95th percentile, the value itself rather than one between two."""
    return sorted(values)[min(len(values) - 1, int(0.95 * len(values)))]


def commit(tree: Path = ROOT) -> str:
    """Abbreviated commit of a checkout, with a `+` if its files differ from it."""
    name = git("rev-parse", "--short", "HEAD", tree=tree)
    return name + ("+" if git("status", "--porcelain", "--untracked-files=no", tree=tree) else "")


def git(*arguments: str, tree: Path = ROOT) -> str:
    """Output of a git command. Raises SystemExit with git's own words."""
    result = subprocess.run(["git", "-C", str(tree), *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"git {' '.join(arguments)}: {result.stderr.strip()}")
    return result.stdout.strip()


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment without limits on threads, which every side sets itself."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    return kept | variables
