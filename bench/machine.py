"""What a benchmark ran on, and how much memory a stack takes."""

from dataclasses import asdict, dataclass

import psutil

from model_core.machine import describe
from services.operations.local.stack import Stack

__all__ = ["Memory", "describe", "memory_by_process", "stack_memory"]


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a stack's processes. PSS shares pages that several use among them; RSS counts those for each."""

    pss_mib: float
    rss_mib: float


def stack_memory(stack: Stack) -> Memory:
    """What all processes of the stack take together."""
    pss = rss = 0
    for process in stack.processes.values():
        info = psutil.Process(process.pid).memory_full_info()
        pss += info.pss
        rss += info.rss
    return Memory(round(pss / 2**20, 1), round(rss / 2**20, 1))


def memory_by_process(stack: Stack) -> dict[str, dict[str, float]]:
    """Memory of each process, by its name."""
    found = {}
    for name, process in stack.processes.items():
        info = psutil.Process(process.pid).memory_full_info()
        found[name] = asdict(Memory(round(info.pss / 2**20, 1), round(info.rss / 2**20, 1)))
    return found
