"""What a benchmark ran on, and how much memory a stack takes."""

import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from services.local.stack import Stack

_LIBRARIES = ("torch", "onnxruntime", "grpcio", "fastapi")


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a stack's processes. PSS shares pages that several use among them; RSS counts those for each."""

    pss_mib: float
    rss_mib: float


def describe() -> dict[str, Any]:
    """Processor, cores, memory, system, versions. Nothing that names the machine."""
    frequency = psutil.cpu_freq()
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "mhz": round(frequency.max or frequency.current) if frequency else None,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "libraries": {name: version(name) for name in _LIBRARIES},
    }


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


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
