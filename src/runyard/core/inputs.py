"""What can happen to the engine: requests from the doors, reports from executors, the passing of time."""

from __future__ import annotations

from typing import Any

import msgspec

from runyard.core.record import JobRecord
from runyard.model.ids import RunKey
from runyard.model.job import JobSpec
from runyard.model.node import Node
from runyard.model.state import State


class _Input(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Known(msgspec.Struct, frozen=True):
    """An ended job that a dependency names: what the store knows of it."""

    job: int
    state: State
    started: bool


class NewJob(_Input, frozen=True):
    id: int
    spec: JobSpec
    kind: str
    origin: str
    owner: str


class Submit(_Input, frozen=True):
    """Several jobs in one step; they may depend on each other by name. Refused ones come back as `Refuse`."""

    jobs: list[NewJob]
    known: dict[str, Known] = {}
    """Ended jobs that dependencies of these name, by the text used."""


class Cancel(_Input, frozen=True):
    """Stop the job for good. Raises Conflict if it has ended, NotFound if the engine does not hold it."""

    job: int


class RestartJob(_Input, frozen=True):
    """Stop the present runs, if any, and start anew. `record` is given for a job that has ended."""

    job: int
    record: JobRecord | None = None
    idle: tuple[str, ...] | None = None
    """As in `Amend`."""


class SendSignal(_Input, frozen=True):
    """Raises Conflict if nothing of the job is running."""

    job: int
    signal: int


class Amend(_Input, frozen=True):
    """Change priority, hold, or what must be idle; None leaves it."""

    job: int
    priority: int | None = None
    hold: bool | None = None
    idle: tuple[str, ...] | None = None
    """Names or ids of the jobs that must be idle before this one starts, in place of those named so far: a front door
    may know dependencies of dependencies, which come and go."""


class Delete(_Input, frozen=True):
    """An ended job is removed from the store."""

    job: int


class RunStarted(_Input, frozen=True):
    run: RunKey
    pid: int
    at: float


class RunExited(_Input, frozen=True):
    """`exit_code` and `signal` both None: nobody could observe how it ended, or (`pid` 0) it never started."""

    run: RunKey
    at: float
    pid: int = 0
    exit_code: int | None = None
    signal: int | None = None
    timed_out: bool = False
    reason: str | None = None
    cpu_seconds: float | None = None
    max_rss: int | None = None


class NodeSynced(_Input, frozen=True):
    """A node is there, its old reports are delivered, and these runs are up on it."""

    node: Node
    live: frozenset[RunKey]
    rebooted: bool
    """The host was started anew since it was last seen: what was launched may have run."""


class NodeLost(_Input, frozen=True):
    """The node can't be reached. Its runs may go on."""

    node: str


class Note(_Input, frozen=True):
    """Facts for the record: each becomes one event, a type and its data."""

    facts: list[tuple[str, dict[str, Any]]]
    job: int = 0
    """The job that they concern; 0 if none."""


class Tick(_Input, frozen=True):
    """Time has passed: whatever is due by now happens."""


Input = (
    Submit
    | Cancel
    | RestartJob
    | SendSignal
    | Amend
    | Delete
    | RunStarted
    | RunExited
    | NodeSynced
    | NodeLost
    | Note
    | Tick
)
