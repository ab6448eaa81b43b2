"""The state of this host: processors, memory, load, disks."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import psutil


class HostSample(msgspec.Struct, frozen=True, kw_only=True):
    cpu_percent: float
    """Busy share of all cores since the sample before, 0 to 100."""
    cpus: list[float] = []
    """The same for each logical core."""
    load: tuple[float, float, float]
    """Over 1, 5 and 15 minutes."""
    memory_total: int
    memory_used: int
    """Not to be had by anybody: what is used, without what the kernel would give back."""
    memory_free: int = 0
    """To be had without swapping."""
    disk_total: int
    """Of the file system with the data folder."""
    disk_free: int


class Memory(msgspec.Struct, frozen=True):
    """As psutil counts: `used` and `percent` differ by what is shared and cached."""

    total: int
    used: int
    free: int
    percent: float


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    total: int
    used: int
    percent: float


class HostMeter:
    """Takes samples; each one's shares are those since the one before. Not for two threads at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before = psutil.cpu_times(percpu=True)

    def take(self) -> tuple[HostSample, Memory]:
        now = psutil.cpu_times(percpu=True)
        shares = [busy(*times) for times in zip(self._before, now, strict=False)]
        self._before = now
        memory = psutil.virtual_memory()
        disk = os.statvfs(self._folder)
        sample = HostSample(
            cpu_percent=round(sum(shares) / len(shares), 1) if shares else 0.0,
            cpus=[round(share, 1) for share in shares],
            load=os.getloadavg(),
            memory_total=memory.total,
            memory_used=memory.total - memory.available,
            memory_free=memory.available,
            disk_total=disk.f_blocks * disk.f_frsize,
            disk_free=disk.f_bavail * disk.f_frsize,
        )
        return sample, Memory(memory.total, memory.used, memory.available, memory.percent)


def busy(before: tuple[float, ...], now: tuple[float, ...]) -> float:
    """The busy share of one core between two readings of its times, 0 to 100. Pure.

    Linux counts a guest's time in the user's as well, and may set times back a little.
    """
    user, nice, system, idle, iowait, *rest = (max(0.0, b - a) for a, b in zip(before, now, strict=True))
    working = user + nice + system + sum(rest[:3])
    total = working + idle + iowait
    return min(100.0, 100.0 * working / total) if total > 0 else 0.0


def disks() -> list[Disk]:
    """Each file system on a disk, once. Those that can't be asked are left out."""
    found: dict[str, Disk] = {}
    for partition in psutil.disk_partitions():
        if partition.device in found:
            continue
        try:
            usage = psutil.disk_usage(partition.mountpoint)
        except OSError:
            continue
        found[partition.device] = Disk(
            path=partition.mountpoint, total=usage.total, used=usage.used, percent=usage.percent
        )
    return list(found.values())
