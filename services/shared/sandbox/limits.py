"""What a process that decodes may take: memory, time, no files; where memory is short, it goes first."""

import math
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

from services.shared.parents import end_with_parent

_OPEN_FILES = 16
_PAGES = Path("/proc/self/statm")
_ADJUSTMENT = Path("/proc/self/oom_score_adj")
_FIRST_TO_GO = "1000"
# Where it is not known what a process has mapped already.
_MAPPED_BYTES = 2**30


def limit_for_good(*, parent: int, memory_bytes: int) -> None:
    """Limits of a new child, before it hears of any file.

    Args:
        parent: Process id of the zygote; the child ends with it.
        memory_bytes: Memory it may take beyond what it begins with.
    """
    end_with_parent(parent)
    with suppress(OSError):  # not on every system
        _ADJUSTMENT.write_text(_FIRST_TO_GO)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _lower(resource.RLIMIT_AS, _mapped_bytes() + memory_bytes)


def limit_seconds(seconds: float) -> None:
    """Processor time from now on, all threads together: what takes more is ended by SIGXCPU."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime + seconds), slack=1)


def _lower(limit: int, value: int, slack: int = 0) -> None:
    """Sets a limit; `slack` is what the hard one, which ends a process by SIGKILL, is above it."""
    _, hard = resource.getrlimit(limit)
    if hard != resource.RLIM_INFINITY:
        value, slack = min(value, hard), min(slack, hard - min(value, hard))
    try:
        resource.setrlimit(limit, (value, value + slack))
    except (OSError, ValueError):
        if sys.platform == "linux":  # others do not know every limit
            raise


def _mapped_bytes() -> int:
    try:
        return int(_PAGES.read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return _MAPPED_BYTES
