"""What the native API answers, beside the nouns of `runyard.model.job`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from runyard.model.job import JobDoc, RunDoc
from runyard.model.state import State


class EventDoc(msgspec.Struct, frozen=True, kw_only=True):
    """One fact, as the native API shows it. `seq` is the cursor to go on from."""

    seq: int
    at: datetime
    type: str
    job: str | None = None
    """None for events about nodes."""
    state: State | None = None
    """The job's state after this event."""
    replica: int | None = None
    attempt: int | None = None
    """None for events about a whole job."""
    data: dict[str, Any] | None = None


class Amount(msgspec.Struct, frozen=True):
    """Bytes."""

    total: int
    free: int


class Indices(msgspec.Struct, frozen=True):
    """Names (indices) of cores or GPUs."""

    total: list[int]
    free: list[int]


class NodeDoc(msgspec.Struct, frozen=True, kw_only=True):
    """A machine on which runs happen."""

    name: str
    executor: str
    state: str
    """`up` or `down`."""
    cores: Indices
    gpus: Indices
    memory: Amount
    runs: int
    host: dict[str, Any] | None = None
    """Measurements of the whole machine, such as `cpu_percent`, `memory_used`, `load`."""


class JobUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What a job's processes use: CPU in percent of a core and in seconds, memory and I/O in bytes, GPUs."""

    job: str
    runs: list[dict[str, Any]]
    """Each run that is up: `replica`, `attempt`, `cpu_percent`, `cpu_seconds`, `memory`, and so on."""
    history: dict[str, list[float]]
    """Columns of equal length, oldest first: `at` (Unix seconds), `cpu_percent`, `memory`, and so on."""
    total: dict[str, float | None]
    """`cpu_seconds` and `memory_peak`, as far as they are known."""
    missing: str | None = None
    """Why there are no runs."""


class ScheduleDoc(msgspec.Struct, frozen=True, kw_only=True):
    """A cron job's schedule."""

    job: str
    name: str | None = None
    cron: str
    timezone: str
    next_fire_at: datetime | None = None


class VersionDoc(msgspec.Struct, frozen=True):
    version: str
    api: str


class Problem(msgspec.Struct, kw_only=True):
    """An RFC 9457 problem document, in the few members that are always read."""

    title: str = ""
    status: int = 0
    detail: str = ""
    code: str = ""


class JobPage(msgspec.Struct):
    items: list[JobDoc]
    next: str | None = None


class RunPage(msgspec.Struct):
    items: list[RunDoc]
    next: str | None = None


class EventPage(msgspec.Struct):
    items: list[EventDoc]
    next: int


class NodePage(msgspec.Struct):
    items: list[NodeDoc]


class SchedulePage(msgspec.Struct):
    items: list[ScheduleDoc]
    next: str | None = None


class FireTimes(msgspec.Struct):
    fire_times: list[datetime]


class BatchItem(msgspec.Struct):
    """The answer for one job of a bulk request: a job, or the problem with it."""

    status: int
    job: JobDoc | None = None
    problem: dict[str, Any] | None = None


class BatchAnswer(msgspec.Struct):
    items: list[BatchItem]
