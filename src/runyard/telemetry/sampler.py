"""All that is measured on this host, in sections that are sampled only while somebody asks for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from runyard.model.ids import RunKey
from runyard.settings import Telemetry as Settings
from runyard.telemetry.container import Container
from runyard.telemetry.docker import Docker
from runyard.telemetry.gpu import GpuSample, Nvml
from runyard.telemetry.history import History, Row, UsagePoint, row
from runyard.telemetry.host import Disk, HostMeter, HostSample, Memory, disks
from runyard.telemetry.lane import Lane
from runyard.telemetry.runs import RunFigures, RunMeter, Target
from runyard.telemetry.section import Degraded, Section


class RunSample(msgspec.Struct, frozen=True):
    runs: dict[RunKey, RunFigures] = {}
    jobs: dict[int, UsagePoint] = {}
    """The same, added up by job."""


class Telemetry:
    """One for each server. All methods are for the event loop's thread."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        targets: Callable[[], list[Target]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`folder`: whose file system counts as the server's; `targets` names the runs that are up on this host."""
        self.settings = settings
        self.history = History(settings.points)
        self.docker = Docker(settings.docker)
        self._targets = targets
        self._clock = clock
        self._host_meter = HostMeter(folder)
        self._run_meter = RunMeter()
        self._nvml = Nvml()
        # What may hang has a thread of its own.
        self._lane, self._gpu_lane, self._disk_lane = Lane("telemetry"), Lane("telemetry-gpu"), Lane("telemetry-disk")
        timing = (settings.interval, settings.linger)
        self.host: Section[tuple[HostSample, Memory] | None] = Section("host", self._take_host, None, *timing)
        self.disks: Section[list[Disk]] = Section("disks", self._take_disks, [], *timing)
        self.gpus: Section[GpuSample] = Section("gpus", self._take_gpus, GpuSample(), *timing)
        self.runs: Section[RunSample] = Section("runs", self._take_runs, RunSample(), *timing)
        self.containers: Section[list[Container]] = Section("containers", self._take_containers, [], *timing)

    @property
    def sections(self) -> tuple[Section[object], ...]:
        return (self.host, self.disks, self.gpus, self.runs, self.containers)  # type: ignore[return-value]

    @property
    def reasons(self) -> dict[str, str]:
        """By section: why it has nothing, or nothing new."""
        return {section.name: section.reason for section in self.sections if section.reason is not None}

    async def in_background(self) -> None:
        """Samples what runs use while nobody asks, until cancelled."""
        pause = self.settings.background
        if not pause:
            return
        while True:
            await asyncio.sleep(pause)
            if self._targets():
                await self.runs.refresh()

    async def close(self) -> None:
        for section in self.sections:
            section.close()
        await self.docker.close()

    async def _take_host(self) -> tuple[HostSample, Memory]:
        return await self._lane.run(self._host_meter.take)

    async def _take_disks(self) -> list[Disk]:
        return await self._disk_lane.run(disks)

    async def _take_gpus(self) -> GpuSample:
        if not self.settings.gpus:
            raise Degraded("[telemetry] gpus is false")
        return await self._gpu_lane.run(self._nvml.take)

    async def _take_containers(self) -> list[Container]:
        self.gpus.kick()
        return await self.docker.containers(gpu_pids=bool(self.gpus.peek().processes))

    async def _take_runs(self) -> RunSample:
        targets = self._targets()
        self.gpus.kick()
        gpus = self.gpus.peek()

        def take() -> tuple[RunSample, dict[int, Row]]:
            # With thousands of runs this takes a while: the loop has better things to do.
            runs = self._run_meter.take(targets)
            jobs = usage(runs, gpus, round(self._clock(), 3))
            return RunSample(runs, jobs), {job: row(point) for job, point in jobs.items()}

        sample, rows = await self._lane.run(take)
        self.history.add(rows)
        return sample


def usage(figures: dict[RunKey, RunFigures], gpus: GpuSample, at: float) -> dict[int, UsagePoint]:
    """What each job uses: its runs' figures together. Pure."""
    jobs: dict[int, list[RunFigures]] = {}
    for run, found in figures.items():
        jobs.setdefault(run.job, []).append(found)
    return {job: total(runs, gpus, at) for job, runs in jobs.items()}


def total(runs: list[RunFigures], gpus: GpuSample, at: float) -> UsagePoint:
    """Several runs' figures as one."""
    on_gpus = gpus.of({pid for run in runs for pid in run.pids}) if gpus.processes else None
    return UsagePoint(
        at=at,
        cpu_percent=round(sum(run.cpu_percent for run in runs), 2),
        cpu_seconds=round(sum(run.cpu_seconds for run in runs), 2),
        memory=sum(run.memory for run in runs),
        io_read=sum(run.io_read for run in runs),
        io_write=sum(run.io_write for run in runs),
        processes=sum(run.processes for run in runs),
        gpu_percent=on_gpus.percent if on_gpus is not None else 0.0,
        gpu_memory=on_gpus.memory if on_gpus is not None else 0,
        gpu_memory_percent=on_gpus.memory_percent if on_gpus is not None else 0.0,
    )
