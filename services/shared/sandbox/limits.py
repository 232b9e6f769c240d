"""Resource limits of a decoding process: memory, time, no files; the first to go when memory runs out."""

import math
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

from services.shared.parents import exit_with_parent

_OPEN_FILES = 16
_PAGES = Path("/proc/self/statm")
_ADJUSTMENT = Path("/proc/self/oom_score_adj")
_MAX_ADJUSTMENT = "1000"
# Assumed if it is unknown how much a process has mapped.
_MAPPED_BYTES = 2**30


def limit_permanently(*, parent: int, memory_bytes: int) -> None:
    """Limits a new child, before it receives a file.

    Args:
        parent: Process id of the zygote; the child dies with it.
        memory_bytes: Memory it may allocate beyond what it starts with.
    """
    exit_with_parent(parent)
    with suppress(OSError):  # not on every system
        _ADJUSTMENT.write_text(_MAX_ADJUSTMENT)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _lower(resource.RLIMIT_AS, _mapped_bytes() + memory_bytes)


def limit_seconds(seconds: float) -> None:
    """Limits the processor time of all threads together from now on; SIGXCPU ends what exceeds it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime + seconds), slack=1)


def _lower(limit: int, value: int, slack: int = 0) -> None:
    """Lowers the soft limit to `value`, and the hard limit, at which SIGKILL follows, to `slack` more."""
    _, hard = resource.getrlimit(limit)
    if hard != resource.RLIM_INFINITY:
        value, slack = min(value, hard), min(slack, hard - min(value, hard))
    try:
        resource.setrlimit(limit, (value, value + slack))
    except (OSError, ValueError):
        if sys.platform == "linux":  # others do not support every limit
            raise


def _mapped_bytes() -> int:
    try:
        return int(_PAGES.read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return _MAPPED_BYTES
