"""What the engine asks of the shell. An `Event` among the commands means: append it, and save the job that it names."""

from __future__ import annotations

import msgspec

from runyard.core.record import JobRecord, Replica
from runyard.model.errors import RunyardError
from runyard.model.event import Event
from runyard.model.ids import RunKey
from runyard.model.node import Share


class StartRun(msgspec.Struct, frozen=True, gc=False):
    """Launch the run on the first of its shares' nodes. May be repeated for a run that was never started."""

    run: RunKey
    record: JobRecord
    shares: list[Share]


class StopRun(msgspec.Struct, frozen=True, gc=False):
    """Ask the run to end: `signal`, then SIGKILL after `grace` seconds. May be repeated."""

    run: RunKey
    node: str
    signal: int
    grace: float


class SignalRun(msgspec.Struct, frozen=True, gc=False):
    run: RunKey
    node: str
    signal: int


class Refuse(msgspec.Struct, frozen=True):
    """A job of a `Submit` was not taken."""

    job: int
    error: RunyardError


class Forget(msgspec.Struct, frozen=True):
    """The job has ended and has left the engine's memory; `record` is its last form."""

    record: JobRecord


class SaveRun(msgspec.Struct, frozen=True, gc=False):
    """The run of this replica has changed: save it and its job, whose state may have stayed the same."""

    job: int
    index: int
    replica: Replica


Command = Event | SaveRun | StartRun | StopRun | SignalRun | Refuse | Forget
