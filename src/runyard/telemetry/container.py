"""What the Docker Engine says about a container, as figures. Pure; the documents are those of its API, version 1.41."""

from __future__ import annotations

from typing import Any

import msgspec

#: Labels of K12AI's containers (spec/k12ai.md, 3.2).
LABEL = "k12ai.service."
NAME, OP, USER, UUID = f"{LABEL}name", f"{LABEL}op", f"{LABEL}user", f"{LABEL}uuid"


class Container(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    """In full."""
    labels: dict[str, str]
    cpu_percent: float = 0.0
    """Of one core, so it may pass 100."""
    memory_total: int = 0
    """Its limit, or what the host has."""
    memory_used: int = 0
    pid: int = 0
    started_at: str = ""
    """RFC 3339, as Docker writes it."""
    pids: list[int] = []
    """On the host; known only while there are GPUs in use."""

    @property
    def memory_percent(self) -> float:
        return round(100 * self.memory_used / self.memory_total, 2) if self.memory_total else 0.0


class CpuTimes(msgspec.Struct, frozen=True):
    """Nanoseconds: of the container, and of all cores of the host."""

    container: int
    system: int


def cpu_times(stats: Any) -> CpuTimes | None:
    """Out of `cpu_stats` or `precpu_stats`; None if it is not told (the first sample of a container)."""
    if not isinstance(stats, dict):
        return None
    usage = stats.get("cpu_usage")
    total = usage.get("total_usage") if isinstance(usage, dict) else None
    system = stats.get("system_cpu_usage")
    if not isinstance(total, int) or not isinstance(system, int) or not system:
        return None
    return CpuTimes(total, system)


def cpu_percent(before: CpuTimes | None, now: CpuTimes | None, cores: int) -> float:
    """The share of one core; 0 where nothing has passed, or the counters were reset."""
    if before is None or now is None:
        return 0.0
    used, passed = now.container - before.container, now.system - before.system
    return round(100 * used / passed * cores, 2) if used > 0 and passed > 0 else 0.0


def cores(stats: Any) -> int:
    """How many cores the container sees: `online_cpus`, which old daemons do not tell."""
    found = stats.get("cpu_stats") if isinstance(stats, dict) else None
    if not isinstance(found, dict):
        return 1
    online = found.get("online_cpus")
    usage = found.get("cpu_usage")
    each = usage.get("percpu_usage") if isinstance(usage, dict) else None
    return online if isinstance(online, int) and online > 0 else len(each) if isinstance(each, list) and each else 1


def memory(stats: Any) -> tuple[int, int]:
    """Bytes: limit and usage. Both are 0 of a container that has just ended."""
    found = stats.get("memory_stats") if isinstance(stats, dict) else None
    limit, usage = (found.get(name) if isinstance(found, dict) else 0 for name in ("limit", "usage"))
    return limit if isinstance(limit, int) else 0, usage if isinstance(usage, int) else 0


def top_pids(answer: Any) -> list[int]:
    """Pids of a container's processes, on the host: texts there, whole numbers here."""
    if not isinstance(answer, dict) or not isinstance(answer.get("Titles"), list):
        return []
    titles = answer["Titles"]
    place = titles.index("PID") if "PID" in titles else 0
    rows = answer.get("Processes") or []
    return [int(row[place]) for row in rows if len(row) > place and str(row[place]).isdigit()]
