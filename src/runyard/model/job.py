"""What somebody asks to run: the job specification, and the job document that answers for it.

Start reading here. A `JobSpec` comes in by any front door and never changes; the engine keeps a job's state beside it
(`runyard.core.record`), each execution is a run (`RunDoc`), and every door shows the same job in its own words.

Units: durations are seconds, sizes are bytes, times are UTC. On the wire a duration may be a number or a text such as
`"1h30m"`, a size a number or a text such as `"512M"` (`runyard.model.quantity`).
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from runyard.model.flow import FLOW_KIND, Flow
from runyard.model.quantity import Duration, Size
from runyard.model.state import State


class Lifecycle(StrEnum):
    ONCE = "once"
    SERVICE = "service"
    CRON = "cron"


class Condition(StrEnum):
    """What must be true of the other job before this one may start."""

    FINISHED = "finished"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STARTED = "started"
    IDLE = "idle"
    """The other job has no process at present; an unknown name counts as idle."""


class RestartPolicy(StrEnum):
    NEVER = "never"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


class Overlap(StrEnum):
    """What a cron job does when it is due while its last run is still up."""

    SKIP = "skip"
    QUEUE = "queue"
    REPLACE = "replace"


class Missed(StrEnum):
    """What a cron job does about times that passed while nobody could start it."""

    SKIP = "skip"
    ONCE = "once"
    ALL = "all"


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of a specification: immutable, and strict about unknown fields."""


class Schedule(_Part, frozen=True):
    cron: str
    """Five fields, six with seconds first, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`."""
    timezone: str = "UTC"
    overlap: Overlap = Overlap.SKIP
    missed: Missed = Missed.ONCE


class Restart(_Part, frozen=True):
    policy: RestartPolicy = RestartPolicy.NEVER
    delay: Duration = 1.0
    """Wait before the first restart."""
    backoff: float = 2.0
    """Each further wait is this many times the last one."""
    max_delay: Duration = 60.0
    max: int | None = None
    """Restarts in a row before giving up; None means no end."""
    reset_after: Duration = 60.0
    """A run that was up this long clears the count."""


class Dependency(_Part, frozen=True):
    job: str
    """Id (decimal or F58) or name of the other job."""
    condition: Condition = Condition.SUCCEEDED


class Resources(_Part, frozen=True):
    """What a run reserves. A job that asks for nothing reserves nothing and starts at once."""

    nodes: int = 0
    """Spread over exactly this many nodes; 0 means any one node that fits."""
    tasks: int = 1
    """Processes of each run. They start and end together: what one of them runs is known by `RUNYARD_TASK_RANK`."""
    cores_per_task: int = 0
    gpus_per_task: int = 0
    memory: Size = 0
    """Per node."""
    exclusive: bool = False
    """Whole nodes, shared with nobody."""


class Stop(_Part, frozen=True):
    signal: str = "SIGTERM"
    grace: Duration = 10.0
    """Time between the signal and SIGKILL."""
    after_failure: Duration = 30.0
    """Of a run with several tasks: time that the others get to end by themselves when one has failed."""


class Limits(_Part, frozen=True):
    """Limits that the kernel enforces on each run. None leaves the agent's own limit."""

    cpu_time: int | None = None
    file_size: Size | None = None
    open_files: int | None = None
    processes: int | None = None
    address_space: Size | None = None
    core_size: Size | None = None
    stack: Size | None = None
    nice: int | None = None
    memory: Size | None = None
    """For the whole process tree; needs a writable cgroup v2, else it falls back to `address_space` per process."""
    cpus: float | None = None
    """CPU bandwidth in cores, for the whole process tree; needs a writable cgroup v2."""


class Output(_Part, frozen=True):
    """What becomes of what a run writes."""

    merge: bool = False
    """stdout and stderr in one file, as they come; there is no `stderr` then."""
    max_size: Size | None = None
    """Of each file, roughly: the oldest output goes first. Offsets stay what they are."""


class ReportRule(_Part, frozen=True):
    """Makes metrics out of lines of output."""

    pattern: str
    """A regular expression (RE2). Each named group is a metric; one named `step` says the step."""
    category: str | None = None
    """Such as `train` or `val`."""


class Report(_Part, frozen=True):
    """How the program's messages are found, beside `runyard.report`, which needs nothing said here."""

    lines: bool = True
    """Lines of stdout that begin with `@runyard` or `@k12ai` are messages."""
    rules: list[ReportRule] = []
    """For the lines of stdout and stderr."""
    tensorboard: str | None = None
    """A folder in which the program writes event files of TensorBoard; relative to `cwd`."""


class JobSpec(_Part, frozen=True):
    command: list[str] | None = None
    script: str | None = None
    """Text for `/bin/sh`."""
    flow: Flow | None = None
    """A graph. Exactly one of `command`, `script` and `flow` is given."""
    name: str | None = None
    env: dict[str, str] = {}
    cwd: str | None = None
    user: str | None = None
    group: str | None = None
    umask: str | None = None
    """Octal, such as `"022"`."""
    replicas: int = 1
    lifecycle: Lifecycle = Lifecycle.ONCE
    schedule: Schedule | None = None
    restart: Restart | None = None
    """None means the lifecycle's own: `always` for a service, `never` for the others."""
    after: list[str | Dependency] = []
    resources: Resources = Resources()
    time_limit: Duration | None = None
    """For each run."""
    stop: Stop = Stop()
    priority: int = 0
    hold: bool = False
    labels: dict[str, str] = {}
    limits: Limits = Limits()
    output: Output = Output()
    report: Report = msgspec.field(default_factory=Report)
    executor: str = "local"

    @property
    def argv(self) -> list[str]:
        """The program and its arguments, unless it is a flow, which the shell gives a host."""
        return self.command if self.command is not None else ["/bin/sh", "-c", self.script or "", "sh"]

    @property
    def kind(self) -> str:
        """`JobDoc.kind` of such a job, unless its front door has a word of its own."""
        return FLOW_KIND if self.flow is not None else KIND[self.lifecycle]

    @property
    def restart_rule(self) -> Restart:
        if self.restart is not None:
            return self.restart
        return _SERVICE_RESTART if self.lifecycle is Lifecycle.SERVICE else _NO_RESTART


_NO_RESTART = Restart()
_SERVICE_RESTART = Restart(policy=RestartPolicy.ALWAYS)

#: `JobDoc.kind` for each lifecycle; a flow is a `flow`, and front doors name their own (`project`, `task`).
KIND = {Lifecycle.ONCE: "batch", Lifecycle.SERVICE: "service", Lifecycle.CRON: "cron"}


class RunDoc(msgspec.Struct, kw_only=True):
    """One execution of one replica, as shown to clients."""

    replica: int
    attempt: int
    state: State
    reason: str | None = None
    node: str | None = None
    pid: int | None = None
    cores: list[int] = []
    gpus: list[int] = []
    started_at: datetime | None = None
    ended_at: datetime | None = None
    exit_code: int | None = None
    signal: str | None = None
    cpu_seconds: float | None = None
    max_rss: int | None = None
    """Bytes."""


class JobDoc(msgspec.Struct, kw_only=True):
    """A job, as shown to clients of the native API."""

    id: str
    f58: str
    name: str | None
    kind: str
    origin: str
    """The front door it came in by."""
    owner: str
    labels: dict[str, str]
    state: State
    reason: str | None
    priority: int
    hold: bool
    submitted_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    next_fire_at: datetime | None = None
    exit_code: int | None
    signal: str | None
    restarts: int = 0
    version: int
    """The `seq` of the job's last event: its ETag."""
    runs: list[RunDoc]
    """The present or last run of each replica; `/jobs/{id}/runs` lists the earlier ones."""
    spec: JobSpec


class Explanation(msgspec.Struct, kw_only=True):
    """Why a job is where it is (`GET /api/v1/jobs/{id}/why`)."""

    job: str
    state: State
    reason: str | None
    summary: str
    """One sentence for a person."""
    blockers: list[dict[str, Any]] = []
    """Who or what stands in the way: `{"kind": "job"|"node"|"time"|"hold"|"limit", …}`."""
    position: int | None = None
    """1-based place in the queue for resources."""
    expected_start: datetime | None = None
