"""The figures of host, GPUs and jobs in Prometheus's format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from runyard.telemetry.gpu import Gpu
from runyard.telemetry.history import UsagePoint
from runyard.telemetry.host import Disk, HostSample

#: By measure of a job: what it says.
_JOB = {
    "cpu_ratio": "Share of one core that the job's processes use; it may pass 1",
    "cpu_seconds": "CPU time of the job's runs that are up",
    "memory_bytes": "Resident memory of the job's processes",
    "io_read_bytes": "Fetched from storage by the job's processes",
    "io_written_bytes": "Sent to storage by the job's processes",
    "processes": "Processes of the job",
    "gpu_ratio": "Share of one GPU that the job's processes use; it may pass 1",
    "gpu_memory_bytes": "GPU memory of the job's processes",
}


class Exposition(Collector):
    """One scrape: what was sampled last."""

    def __init__(
        self,
        host: HostSample | None,
        disks: Iterable[Disk],
        gpus: Iterable[Gpu],
        jobs: Mapping[int, UsagePoint],
        names: Mapping[int, str],
        missing: Mapping[str, bool],
    ) -> None:
        """`names` of jobs, as far as they have one; `missing`: by section, whether there are no figures of it."""
        self._host = host
        self._disks = disks
        self._gpus = gpus
        self._jobs = jobs
        self._names = names
        self._missing = missing

    def render(self) -> bytes:
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "runyard_telemetry_up", "1 if that part of the figures can be had on this host", labels=["section"]
        )
        for section, missing in self._missing.items():
            up.add_metric([section], float(not missing))
        yield up
        if self._host is not None:
            yield from _host(self._host)
        disk = GaugeMetricFamily("runyard_disk_bytes", "Of each file system on a disk", labels=["path", "kind"])
        for each in self._disks:
            disk.add_metric([each.path, "total"], each.total)
            disk.add_metric([each.path, "used"], each.used)
        yield disk
        yield from _gpus(list(self._gpus))
        yield from self._of_jobs()

    def _of_jobs(self) -> Iterator[Metric]:
        families = {
            name: GaugeMetricFamily(f"runyard_job_{name}", text, labels=["job", "name"]) for name, text in _JOB.items()
        }
        for job, point in self._jobs.items():
            labels = [str(job), self._names.get(job, "")]
            figures = {
                "cpu_ratio": point.cpu_percent / 100,
                "cpu_seconds": point.cpu_seconds,
                "memory_bytes": point.memory,
                "io_read_bytes": point.io_read,
                "io_written_bytes": point.io_write,
                "processes": point.processes,
                "gpu_ratio": point.gpu_percent / 100,
                "gpu_memory_bytes": point.gpu_memory,
            }
            for name, value in figures.items():
                families[name].add_metric(labels, value)
        yield from families.values()


def _host(host: HostSample) -> Iterator[Metric]:
    cores = GaugeMetricFamily("runyard_host_cpu_ratio", "Busy share of each core", labels=["core"])
    for core, percent in enumerate(host.cpus):
        cores.add_metric([str(core)], percent / 100)
    yield cores
    load = GaugeMetricFamily("runyard_host_load", "Load average", labels=["minutes"])
    for minutes, value in zip(("1", "5", "15"), host.load, strict=True):
        load.add_metric([minutes], value)
    yield load
    memory = GaugeMetricFamily("runyard_host_memory_bytes", "Memory of the host", labels=["kind"])
    memory.add_metric(["total"], host.memory_total)
    memory.add_metric(["used"], host.memory_used)
    yield memory


def _gpus(gpus: list[Gpu]) -> Iterator[Metric]:
    labels = ["gpu", "uuid", "name"]
    busy = GaugeMetricFamily("runyard_gpu_ratio", "Share of the time in which a kernel was running", labels=labels)
    memory = GaugeMetricFamily("runyard_gpu_memory_bytes", "Memory of each GPU", labels=[*labels, "kind"])
    heat = GaugeMetricFamily("runyard_gpu_temperature_celsius", "Temperature of each GPU", labels=labels)
    power = GaugeMetricFamily("runyard_gpu_power_watts", "Power drawn by each GPU", labels=labels)
    for gpu in gpus:
        whose = [str(gpu.index), gpu.uuid, gpu.name]
        busy.add_metric(whose, gpu.percent / 100)
        memory.add_metric([*whose, "total"], gpu.memory_total)
        memory.add_metric([*whose, "used"], gpu.memory_used)
        if gpu.temperature is not None:
            heat.add_metric(whose, gpu.temperature)
        if gpu.power is not None:
            power.add_metric(whose, gpu.power)
    yield from (busy, memory, heat, power)


def busiest(jobs: Mapping[int, UsagePoint], most: int) -> dict[int, UsagePoint]:
    """Those that use most of the processors, and of the memory among equals."""
    ranked = sorted(jobs.items(), key=lambda item: (item[1].cpu_percent, item[1].memory), reverse=True)
    return dict(ranked[:most])
