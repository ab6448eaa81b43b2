"""The eight words of this door for where a job stands (spec/modelbox.md, 3.1 and 3.2). Pure."""

from __future__ import annotations

from enum import StrEnum

from runyard.core.record import Intent, JobRecord
from runyard.flow.report import FlowState
from runyard.model.state import State


class Status(StrEnum):
    """`job_status`; the spelling is the original's."""

    CREATING = "CREATEING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    PENDING = "PENDING"
    DELETING = "DELETEING"
    UNKNOWN = "UNKNOWN"
    NOTEXIST = "NOTEXIST"


def status_of(record: JobRecord | None, flow: FlowState | None) -> Status:
    """Where a job stands. `flow` is what the flow itself says of its present run.

    A job that was cancelled, by whatever door, is no more: it counts as deleted.
    """
    if record is None or record.state is State.CANCELLED:
        return Status.NOTEXIST
    if record.state is State.STOPPING:
        return Status.DELETING if record.intent is Intent.CANCEL else Status.CREATING
    if record.state in (State.STARTING, State.RUNNING):
        # A flow may say that it runs before the agent says that it was started.
        return _OF_FLOW.get(flow, Status.CREATING) if flow is not None else Status.CREATING
    return _OF_JOB.get(record.state, Status.UNKNOWN)


#: A flow that ends says so a moment before its process is gone.
_OF_FLOW = {
    FlowState.CREATING: Status.CREATING,
    FlowState.RUNNING: Status.RUNNING,
    FlowState.STOPPING: Status.RUNNING,
    FlowState.ENDED: Status.SUCCEEDED,
    FlowState.FAILED: Status.FAILED,
}
_OF_JOB = {
    State.PENDING: Status.PENDING,
    State.SUCCEEDED: Status.SUCCEEDED,
    State.FAILED: Status.FAILED,
    State.TIMED_OUT: Status.FAILED,
}
