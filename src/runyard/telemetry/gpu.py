"""NVIDIA GPUs by NVML. No GPU, driver or library are normal cases; a counter that a device lacks is 0 or None."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from runyard.telemetry.section import Degraded

T = TypeVar("T")

LIBRARY = "libnvidia-ml.so.1"
#: Seconds until a library or driver that was missing is looked for again.
RETRY = 30.0


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    uuid: str
    name: str
    percent: float
    """Share of the time in which a kernel was running; 0 where it is not counted (MIG)."""
    memory_total: int
    memory_used: int
    """Without what the driver reserves, where it tells the two apart, as `nvidia-smi` shows it."""
    memory_free: int
    temperature: int | None = None
    """Degrees Celsius."""
    power: float | None = None
    """Watts."""

    @property
    def memory_percent(self) -> float:
        return round(100 * self.memory_used / self.memory_total, 2) if self.memory_total else 0.0


class GpuProcess(msgspec.Struct, frozen=True, kw_only=True):
    """What one process has of one GPU."""

    pid: int
    gpu: int
    """Index."""
    memory: int
    percent: float
    """Of the multiprocessors."""
    memory_percent: float
    """Of the time in which device memory was read or written."""


class GpuSample(msgspec.Struct, frozen=True):
    gpus: list[Gpu] = []
    processes: list[GpuProcess] = []

    def of(self, pids: set[int]) -> Usage:
        """What these processes have of all GPUs together."""
        mine = [process for process in self.processes if process.pid in pids]
        return Usage(
            round(sum(process.percent for process in mine), 2),
            round(sum(process.memory_percent for process in mine), 2),
            sum(process.memory for process in mine),
        )


class Usage(msgspec.Struct, frozen=True):
    """Of GPUs, by a set of processes: percents may pass 100, memory is in bytes."""

    percent: float = 0.0
    memory_percent: float = 0.0
    memory: int = 0


class Nvml:
    """The library, loaded when it is first asked. For one thread at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._api: Any = None
        self._missing: tuple[float, str] | None = None
        self._seen: dict[int, int] = {}
        """By device: NVML's time (microseconds) of the last figures about processes."""

    def take(self) -> GpuSample:
        """Raises Degraded if GPUs can't be asked on this host."""
        api = self._ready()
        gpus: list[Gpu] = []
        processes: list[GpuProcess] = []
        try:
            count = api.nvmlDeviceGetCount()
        except api.NVMLError as error:
            # The driver was unloaded or exchanged below us: begin anew next time.
            self._forget(f"the NVIDIA driver does not answer: {error}")
        for index in range(count):
            try:
                handle = api.nvmlDeviceGetHandleByIndex(index)
                gpus.append(self._gpu(api, index, handle))
            except api.NVMLError:
                # One that has fallen off the bus: the others go on.
                continue
            processes += self._processes(api, index, handle)
        return GpuSample(gpus, processes)

    def close(self) -> None:
        if self._api is not None:
            self._api.nvmlShutdown()
            self._api = None

    def _ready(self) -> Any:
        if self._api is not None:
            return self._api
        if self._missing is not None and self._clock() - self._missing[0] < RETRY:
            raise Degraded(self._missing[1])
        try:
            # The binding takes a fifth of a second to import: only where there is something to bind.
            ctypes.CDLL(LIBRARY)
        except OSError:
            self._forget(f"there is no NVIDIA driver on this host ({LIBRARY} can't be loaded)")
        import pynvml

        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            self._forget(f"the NVIDIA driver does not answer: {error}")
        self._api, self._missing = pynvml, None
        return pynvml

    def _forget(self, reason: str) -> None:
        self._api = None
        self._missing = (self._clock(), reason)
        raise Degraded(reason)

    def _gpu(self, api: Any, index: int, handle: Any) -> Gpu:
        try:
            memory = api.nvmlDeviceGetMemoryInfo(handle, version=api.nvmlMemory_v2)
        except api.NVMLError:
            # A driver before 510 counts what it reserves as used.
            memory = api.nvmlDeviceGetMemoryInfo(handle)
        power = _or_none(api, lambda: api.nvmlDeviceGetPowerUsage(handle))
        return Gpu(
            index=index,
            uuid=_text(_or_none(api, lambda: api.nvmlDeviceGetUUID(handle)) or ""),
            name=_text(_or_none(api, lambda: api.nvmlDeviceGetName(handle)) or ""),
            percent=float(_or_none(api, lambda: api.nvmlDeviceGetUtilizationRates(handle).gpu) or 0),
            memory_total=memory.total,
            memory_used=memory.used,
            memory_free=memory.free,
            temperature=_or_none(api, lambda: api.nvmlDeviceGetTemperature(handle, api.NVML_TEMPERATURE_GPU)),
            power=None if power is None else power / 1000,
        )

    def _processes(self, api: Any, index: int, handle: Any) -> list[GpuProcess]:
        running = _or_none(api, lambda: api.nvmlDeviceGetComputeRunningProcesses(handle)) or []
        if not running:
            return []
        since = self._seen.get(index, 0)
        # NOT_FOUND says that there are no figures since then.
        samples = _or_none(api, lambda: api.nvmlDeviceGetProcessUtilization(handle, since)) or []
        # A process may be named twice, and a pid of 0 is an empty place.
        newest = {
            sample.pid: sample for sample in sorted(samples, key=lambda sample: int(sample.timeStamp)) if sample.pid
        }
        self._seen[index] = max((int(sample.timeStamp) for sample in newest.values()), default=since)
        memory: dict[int, int] = {}
        for process in running:
            # A MIG device names a process once for each instance; where it is not told how much, it is None.
            memory[int(process.pid)] = memory.get(int(process.pid), 0) + int(process.usedGpuMemory or 0)
        return [
            GpuProcess(
                pid=pid,
                gpu=index,
                memory=used,
                percent=float(newest[pid].smUtil) if pid in newest else 0.0,
                memory_percent=float(newest[pid].memUtil) if pid in newest else 0.0,
            )
            for pid, used in memory.items()
        ]


def _or_none(api: Any, ask: Callable[[], T]) -> T | None:
    """None where the device does not have that counter, or has lost it."""
    try:
        return ask()
    except api.NVMLError:
        return None


def _text(name: str | bytes) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name
