"""Events: facts that are appended once and never changed. Their `seq` is the resume cursor of every reader."""

from __future__ import annotations

from typing import Any

import msgspec

from runyard.model.state import State

#: Every type an event can have. `job.<state>` marks a job's transition into that state.
EVENT_TYPES = (
    "job.submitted",
    *(f"job.{state}" for state in State),
    "job.restarted",
    "job.amended",
    "job.fired",
    "job.missed",
    "job.deleted",
    "run.started",
    "run.exited",
    "node.up",
    "node.down",
    "project.moved",
    "project.step",
    "project.advanced",
    "project.readiness",
    "project.metrics",
    "auth.login",
    "auth.refused",
    "auth.admin",
    "user.added",
    "user.changed",
    "user.removed",
    "token.created",
    "token.revoked",
)
#: What only admins get to see: who logs in, who is refused, who changes accounts.
AUDIT = ("auth.", "user.", "token.")


class Event(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One fact. `job` is 0 for events about nodes and accounts; `attempt` is 0 for events about a whole job."""

    seq: int
    at: float
    """Unix seconds."""
    type: str
    job: int
    state: State | None
    """The job's state after this event."""
    replica: int
    attempt: int
    data: dict[str, Any] | None
