"""What a coordinator knows, what it hears, and what it asks for. Times are Unix seconds."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from runyard.model.state import State
from runyard.project.wire import MemberState, Reply


class Phase(StrEnum):
    """Where a step, or a whole project, stands. The document's states, and those between two of them."""

    READY = "ready"
    WAITING = "waiting"
    """It is its turn; its member is busy with another project, or a job that it needs has not ended."""
    STARTING = "starting"
    """`start` is called, or about to be."""
    STARTED = "started"
    RUNNING = "running"
    STOPPING = "stopping"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"
    SKIPPED = "skipped"
    """Its conditions are not met, or it was optional and failed."""


#: A member may be at work.
ACTIVE = frozenset({Phase.STARTING, Phase.STARTED, Phase.RUNNING, Phase.STOPPING})
#: What the document calls each phase.
SHOWN = {
    Phase.WAITING: MemberState.READY,
    Phase.STARTING: MemberState.STARTED,
    Phase.STOPPING: MemberState.RUNNING,
    Phase.SKIPPED: MemberState.READY,
}


def shown(phase: Phase) -> MemberState:
    """The state of the document's diagram that stands for a phase."""
    return SHOWN.get(phase) or MemberState(phase)


class StepState(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is kept of a step. `run` counts its starts: members know no such number, so it stays here."""

    phase: Phase = Phase.READY
    run: int = 0
    reason: str | None = None
    failures: int = 0
    """In a row."""
    begun_at: float | None = None
    ended_at: float | None = None
    deadline: float | None = None
    then: Phase | None = None
    """What a step that is stopping becomes."""
    job: int | None = None
    """Of a local step."""
    previous: int | None = None
    """The job of a local step's earlier run, if it may still be up."""
    by_poll: bool = False
    """It completed by what was polled, not by a report."""
    lost: bool = False
    """It failed because nothing was heard of the member any more."""


class ProjectState(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is kept of a project, beside its definition."""

    attempt: int = 0
    """Of the project's job; 0 before the first start."""
    phase: Phase = Phase.READY
    reason: str | None = None
    then: Phase | None = None
    """What a project that is stopping becomes."""
    deadline: float | None = None
    timed_out: bool = False
    begun: bool = False
    """Members may hold something of an earlier attempt."""
    steps: dict[str, StepState] = {}


# Inputs -----------------------------------------------------------------------------------------------------------


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Begin(_Message, frozen=True):
    """The project's job has been started. Steps that have completed in an unfinished attempt are not done again."""

    attempt: int


class Recover(_Message, frozen=True):
    """The server is back: nothing is known of calls that were under way."""


class Advance(_Message, frozen=True):
    """A person wants the next step, or that of a container. Raises Conflict."""

    container: str | None = None


class Halt(_Message, frozen=True):
    """The project is to be stopped."""

    reason: str


class Granted(_Message, frozen=True):
    """The step may be started: its member is free, its jobs have ended."""

    container: str
    run: int


class Denied(_Message, frozen=True):
    """The step can never be started."""

    container: str
    run: int
    reason: str


class StartReply(_Message, frozen=True):
    container: str
    run: int
    reply: Reply


class StopReply(_Message, frozen=True):
    container: str
    run: int
    reply: Reply


class Beat(_Message, frozen=True):
    """The answer to `status_request`, or that there was none."""

    container: str
    run: int
    reply: Reply


class Reported(_Message, frozen=True):
    """A member's `status_report`. None is a status that moves nothing."""

    container: str
    status: MemberState | None
    word: str


class JobTaken(_Message, frozen=True):
    """The job of a local step is submitted."""

    container: str
    run: int
    job: int


class JobMoved(_Message, frozen=True):
    """The job of a local step has changed its state."""

    container: str
    run: int
    state: State
    reason: str | None


class Tick(_Message, frozen=True):
    """Time has passed."""


Input = (
    Begin
    | Recover
    | Advance
    | Halt
    | Granted
    | Denied
    | StartReply
    | StopReply
    | Beat
    | Reported
    | JobTaken
    | JobMoved
    | Tick
)

# Effects ----------------------------------------------------------------------------------------------------------


class Acquire(_Message, frozen=True):
    """Say `Granted` when the step's member is free and the jobs that it needs have ended. May be repeated."""

    container: str
    run: int


class Release(_Message, frozen=True):
    """The step's member is free again."""

    container: str


class CallStart(_Message, frozen=True):
    container: str
    run: int


class CallStop(_Message, frozen=True):
    container: str
    run: int


class CallStatus(_Message, frozen=True):
    container: str
    run: int


class SubmitJob(_Message, frozen=True):
    """Submit the local step's job; `JobTaken` belongs into the same transaction."""

    container: str
    run: int
    previous: int | None = None
    """A job of an earlier run of this step, which has to have ended first."""


class CancelJob(_Message, frozen=True):
    container: str
    job: int


class WatchJob(_Message, frozen=True):
    """Say `JobMoved` as it stands, and whenever it moves."""

    container: str
    run: int
    job: int


class Begun(_Message, frozen=True):
    """The project's run has begun."""


class Finish(_Message, frozen=True):
    """The project's run is over."""


class Note(_Message, frozen=True):
    """Something for the project's events, and its log: the state has changed, and must be kept."""

    type: str
    data: dict[str, Any]


class Remark(_Message, frozen=True):
    """Something for the project's log alone."""

    text: str
    container: str | None = None


Effect = (
    Acquire
    | Release
    | CallStart
    | CallStop
    | CallStatus
    | SubmitJob
    | CancelJob
    | WatchJob
    | Begun
    | Finish
    | Note
    | Remark
)
