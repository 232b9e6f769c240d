"""The machine of a benchmark, and the memory of a stack."""

from dataclasses import asdict, dataclass

import psutil

from model_core.machine import describe
from services.operations.local.stack import Stack

__all__ = ["Memory", "describe", "memory_by_process", "stack_memory"]


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a stack's processes. PSS divides shared pages among their users; RSS counts them for each."""

    pss_mib: float
    rss_mib: float


def stack_memory(stack: Stack) -> Memory:
    """Memory of all processes of the stack together."""
    pss = rss = 0
    for process in stack.processes.values():
        info = psutil.Process(process.pid).memory_full_info()
        pss += info.pss
        rss += info.rss
    return Memory(round(pss / 2**20, 1), round(rss / 2**20, 1))


def memory_by_process(stack: Stack) -> dict[str, dict[str, float]]:
    """Memory of each process, by name."""
    found = {}
    for name, process in stack.processes.items():
        info = psutil.Process(process.pid).memory_full_info()
        found[name] = asdict(Memory(round(info.pss / 2**20, 1), round(info.rss / 2**20, 1)))
    return found
