"""A description of the machine, for reports and benchmark results."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

LIBRARIES = ("torch", "onnxruntime", "grpcio", "fastapi")


def describe() -> dict[str, Any]:
    """Processor, cores, memory, system and library versions; nothing that identifies the machine."""
    frequency = psutil.cpu_freq()
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "mhz": round(frequency.max or frequency.current) if frequency else None,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
