"""The states of a job and the transitions between them, as data (design, section 2)."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a job, or a single run, stands."""

    PENDING = "pending"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


LIVE = frozenset({State.PENDING, State.STARTING, State.RUNNING, State.STOPPING})
ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.TIMED_OUT})
#: States in which at least one process may exist.
ACTIVE = frozenset({State.STARTING, State.RUNNING, State.STOPPING})

#: Legal job transitions. An ended job leaves its state only by `restart`, which makes it pending again.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.PENDING: frozenset({State.STARTING}) | ENDED,
    State.STARTING: frozenset({State.RUNNING, State.STOPPING, State.PENDING}) | ENDED,
    State.RUNNING: frozenset({State.PENDING, State.STARTING, State.STOPPING}) | ENDED,
    State.STOPPING: frozenset({State.PENDING, State.STARTING}) | ENDED,
    **{ended: frozenset({State.PENDING}) for ended in ENDED},
}

#: A stable small number for each state: what the store writes.
CODE: dict[State, int] = {state: number for number, state in enumerate(State)}
BY_CODE: dict[int, State] = {number: state for state, number in CODE.items()}


class Why(StrEnum):
    """Why a job is pending."""

    HELD = "held"
    DEPENDENCY = "dependency"
    SCHEDULE = "schedule"
    RESOURCES = "resources"
    BACKOFF = "backoff"
