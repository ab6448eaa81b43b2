"""What `/k12ai/platform/stats` is asked, and the figures in K12AI's words (spec/k12ai.md, 1.9, 3.1 and 3.2). Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from runyard.core.record import JobRecord
from runyard.telemetry.container import NAME, OP, USER, UUID, Container
from runyard.telemetry.gpu import Gpu, GpuSample
from runyard.telemetry.history import UsagePoint
from runyard.telemetry.host import Disk, HostSample, Memory
from runyard.training.codes import Code
from runyard.training.reply import Refusal
from runyard.training.request import app_of, token_of

SECTIONS = ("cpus", "gpus", "disks", "containers", "services")
_MB = 1 << 20
_ALL = frozenset({"*", "all"})
_TEXTS = {"true": True, "1": True, "false": False, "0": False}


class Scope(NamedTuple):
    """Whose containers are shown; None means anybody's."""

    user: str | None = None
    uuid: str | None = None

    def takes(self, labels: Mapping[str, str]) -> bool:
        return (self.user is None or labels.get(USER) == self.user) and (
            self.uuid is None or labels.get(UUID) == self.uuid
        )


class Query(msgspec.Struct, frozen=True, kw_only=True):
    sections: frozenset[str]
    late: bool
    """In the form of 2020, which is answered in its own words where the two differ."""
    later: bool
    """Asynchronous: the answer comes as a message."""
    scope: Scope
    user: str
    uuid: str
    app: str
    """Prefix of the queue that an asynchronous answer goes to."""
    token: Any = ""


def read_query(body: dict[str, Any], app: str) -> Query:
    """`app` is the queue prefix of requests without `appId`. Raises Refusal."""
    late = "query" not in body and not body.keys().isdisjoint({"op", "service_params", "isasync", "user"})
    if body.get("op") not in (None, "query", "stats"):
        raise Refusal(Code.NOT_ALLOWED, f"op {shown(body['op'])} is not supported by stats; there is: query")
    user = caller_name(body)
    uuid = text_of(body, "service_uuid", "0")
    # Seed-shaped requests are for everything (3.1).
    scope = Scope()
    if late and isinstance(body.get("user"), str) and user not in _ALL:
        scope = Scope(user, None if uuid in _ALL or uuid in ("0", "") else uuid)
    return Query(
        sections=_sections(body),
        late=late,
        later=flag(body, "async") or flag(body, "isasync"),
        scope=scope,
        user=user,
        uuid=uuid,
        app=app_of(body, app),
        token=token_of(body),
    )


def caller_name(body: dict[str, Any]) -> str:
    """`user`, or the document's `username`; both may be missing."""
    for key in ("user", "username"):
        if body.get(key) is not None:
            return text_of(body, key, "")
    return "admin"


def text_of(body: dict[str, Any], key: str, default: str) -> str:
    value = body.get(key)
    if value is None:
        return default
    if not isinstance(value, str) or len(value) > 255:
        raise Refusal(Code.NOT_ALLOWED, f"{key}: must be a text of at most 255 characters")
    return value


def flag(body: dict[str, Any], key: str) -> bool:
    value = body.get(key)
    if value is None:
        return False
    known = _TEXTS.get(value.lower()) if isinstance(value, str) else value
    if known is None or not isinstance(known, bool | int) or known not in (0, 1):
        raise Refusal(Code.NOT_ALLOWED, f"{key}: must be true or false")
    return bool(known)


def object_of(body: dict[str, Any], *keys: str) -> tuple[str, dict[str, Any]] | None:
    """The first of the keys that is there, with the object it has, or the object in the JSON text it has."""
    for key in keys:
        value = body.get(key)
        if isinstance(value, str) and value.strip():
            try:
                value = msgspec.json.decode(value)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise Refusal(Code.KEY_MISSING, f"{key} is a text that is not JSON: {error}") from None
        if value is None or value == "":
            continue
        if not isinstance(value, dict):
            raise Refusal(Code.NOT_ALLOWED, f"{key}: must be an object, or a text that holds one")
        return key, value
    return None


def _sections(body: dict[str, Any]) -> frozenset[str]:
    found = object_of(body, "query", "service_params")
    if found is None or not found[1]:
        return frozenset(SECTIONS) - {"services"}
    key, flags = found
    # What is not named counts as wanted in `query`, and as not wanted in `service_params` (1.9).
    usual = key == "query"
    chosen = {name: flag(flags, name) for name in SECTIONS if flags.get(name) is not None}
    return frozenset(name for name in SECTIONS if chosen.get(name, usual and name != "services"))


# The answer -------------------------------------------------------------------------------------------------------


def cpu_fields(host: HostSample, memory: Memory) -> dict[str, Any]:
    return {
        "cpu_percent": host.cpu_percent,
        "cpu_percent_list": host.cpus,
        "cpu_memory_total": memory.total,
        "cpu_memory_usage": memory.used,
        "cpu_memory_free": memory.free,
        "cpu_memory_percent": memory.percent,
        "cpu_memory_total_MB": mib(memory.total),
        "cpu_memory_usage_MB": mib(memory.used),
        "cpu_memory_free_MB": mib(memory.free),
    }


def gpu_fields(gpu: Gpu) -> dict[str, Any]:
    return {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "gpu_percent": gpu.percent,
        "gpu_memory_total": gpu.memory_total,
        "gpu_memory_usage": gpu.memory_used,
        "gpu_memory_free": gpu.memory_free,
        "gpu_memory_percent": gpu.memory_percent,
        "gpu_memory_total_MB": mib(gpu.memory_total),
        "gpu_memory_usage_MB": mib(gpu.memory_used),
        "gpu_memory_free_MB": mib(gpu.memory_free),
    }


def disk_fields(disk: Disk) -> dict[str, Any]:
    return {"path": disk.path, "disk_total": disk.total, "disk_usage": disk.used, "disk_percent": disk.percent}


def container_fields(container: Container, gpus: GpuSample) -> dict[str, Any]:
    on_gpus = gpus.of(set(container.pids)) if gpus.processes else None
    return _load(
        container.id[:12],
        container.labels,
        container.cpu_percent,
        container.memory_used,
        container.memory_total,
        on_gpus.percent if on_gpus is not None else 0.0,
        on_gpus.memory_percent if on_gpus is not None else 0.0,
        on_gpus.memory if on_gpus is not None else 0,
    )


def job_fields(record: JobRecord, point: UsagePoint | None, host_memory: int) -> dict[str, Any]:
    """A job as if it were a container; `point` is None while nothing of it has been measured."""
    return _load(
        job_container(record.id),
        job_labels(record),
        point.cpu_percent if point is not None else 0.0,
        point.memory if point is not None else 0,
        record.spec.limits.memory or host_memory,
        point.gpu_percent if point is not None else 0.0,
        point.gpu_memory_percent if point is not None else 0.0,
        point.gpu_memory if point is not None else 0,
    )


def _load(
    key: str,
    labels: Mapping[str, str],
    cpu: float,
    used: int,
    total: int,
    gpu: float,
    gpu_memory_percent: float,
    gpu_memory: int,
) -> dict[str, Any]:
    return {
        "id": key,
        "op": labels.get(OP, ""),
        "user": labels.get(USER, ""),
        "service_uuid": labels.get(UUID, ""),
        "cpu_percent": cpu,
        "cpu_memory_total": total,
        "cpu_memory_usage": used,
        "cpu_memory_percent": round(100 * used / total, 2) if total else 0.0,
        "cpu_memory_total_MB": mib(total),
        "cpu_memory_usage_MB": mib(used),
        "gpu_percent": gpu,
        "gpu_memory_percent": gpu_memory_percent,
        "gpu_memory_usage": gpu_memory,
        "gpu_memory_usage_MB": mib(gpu_memory),
    }


def container_service(container: Container, gpus: GpuSample) -> dict[str, Any]:
    memory = gpus.of(set(container.pids)).memory
    return _service(container.id[:12], container.labels, container.pid, container.started_at, memory)


def job_service(record: JobRecord, pid: int, gpu_memory: int) -> dict[str, Any]:
    started = "" if record.started_at is None else datetime.fromtimestamp(record.started_at, UTC).isoformat()
    return _service(job_container(record.id), job_labels(record), pid, started.replace("+00:00", "Z"), gpu_memory)


def _service(key: str, labels: Mapping[str, str], pid: int, started: str, gpu_memory: int) -> dict[str, Any]:
    return {
        "id": key,
        "name": labels.get(NAME, ""),
        "op": labels.get(OP, ""),
        "user": labels.get(USER, ""),
        "service_uuid": labels.get(UUID, ""),
        "service_pid": pid,
        "service_starttime": started,
        "service_gpu_memory_usage_MB": mib(gpu_memory),
    }


@lru_cache(maxsize=4096)
def job_container(job: int) -> str:
    """The id that a job has among containers: twelve hexadecimal digits, the same at any time."""
    return hashlib.blake2s(str(job).encode(), digest_size=6).hexdigest()


def job_labels(record: JobRecord) -> dict[str, str]:
    """As a container's. A job that came by another door has an owner and a name instead."""
    labels = record.spec.labels
    if NAME in labels or OP in labels:
        return labels
    return {USER: record.owner, UUID: record.spec.name or str(record.id)}


def only_gpu(figures: dict[str, Any]) -> dict[str, Any]:
    """With the GPU of a host that has one in place of the list, as the releases of 2020 show it."""
    gpus = figures.get("gpus", [])
    return figures | {"gpus": gpus[0]} if len(gpus) == 1 else figures


def shown(value: Any) -> str:
    try:
        text = repr(value)
    except RecursionError:
        return "a value that is nested too deeply"
    return text if len(text) <= 100 else text[:100] + "…"


def mib(size: int) -> float:
    return round(size / _MB, 3)
