"""How much memory the program takes, in the words of spec 1.7 (`memstat`)."""

from __future__ import annotations

import os
import resource
import sys
from typing import Any

_MB = 1024 * 1024


def memstat() -> dict[str, Any]:
    """MiB of this process and of the host; the peaks are in KiB, as the kernel tells them. GPUs by torch, if the
    program uses it."""
    found: dict[str, Any] = {
        "app_cpu_memory_usage_MB": _resident(),
        "app_gpu_memory_usage_MB": 0.0,
        "sys_cpu_memory_free_MB": _available(),
        "sys_gpu_memory_free_MB": [],
        "peak_cpu_self_ru_maxrss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "peak_cpu_children_ru_maxrss": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
    }
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None and cuda.is_available() and cuda.is_initialized():
        for gpu in range(cuda.device_count()):
            found["sys_gpu_memory_free_MB"].append(_mb(cuda.mem_get_info(gpu)[0]))
            for what in ("memory_reserved", "memory_allocated", "max_memory_reserved", "max_memory_allocated"):
                found[f"peak_gpu_{gpu}_{what}_MB"] = _mb(getattr(cuda, what)(gpu))
            found["app_gpu_memory_usage_MB"] += found[f"peak_gpu_{gpu}_memory_reserved_MB"]
    return found


def _resident() -> float:
    try:
        with open("/proc/self/statm", "rb") as file:
            return _mb(int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE"))
    except (OSError, ValueError, IndexError):
        return 0.0


def _available() -> float:
    try:
        with open("/proc/meminfo", "rb") as file:
            for line in file:
                if line.startswith(b"MemAvailable:"):
                    return _mb(int(line.split()[1]) * 1024)
    except (OSError, ValueError, IndexError):
        pass
    return 0.0


def _mb(size: int) -> float:
    return round(size / _MB, 3)
