"""The state of this host: processor, memory, disk, load."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import psutil

#: Seconds for which a sample is good enough.
FRESH = 1.0


class HostSample(msgspec.Struct, frozen=True, kw_only=True):
    cpu_percent: float
    """Busy share of all cores since the sample before, 0 to 100."""
    load: tuple[float, float, float]
    """Over 1, 5 and 15 minutes."""
    memory_total: int
    memory_used: int
    disk_total: int
    """Of the file system with the data folder."""
    disk_free: int


class HostSampler:
    """Takes samples when asked, at most one every `FRESH` seconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._taken = 0.0
        psutil.cpu_percent()
        self._sample = self._take()

    def sample(self) -> HostSample:
        if time.monotonic() - self._taken > FRESH:
            self._sample = self._take()
        return self._sample

    def _take(self) -> HostSample:
        self._taken = time.monotonic()
        memory = psutil.virtual_memory()
        disk = os.statvfs(self._folder)
        return HostSample(
            cpu_percent=psutil.cpu_percent(),
            load=os.getloadavg(),
            memory_total=memory.total,
            memory_used=memory.total - memory.available,
            disk_total=disk.f_blocks * disk.f_frsize,
            disk_free=disk.f_bavail * disk.f_frsize,
        )
