"""What the engine holds of a live job: the specification with its present state. Ended jobs leave memory."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from runyard.model.job import JobSpec
from runyard.model.node import Share
from runyard.model.state import ACTIVE, State


class Intent(StrEnum):
    """Why a job's runs are being stopped, and so what comes after."""

    CANCEL = "cancel"
    RESTART = "restart"
    REPLACE = "replace"


class Replica(msgspec.Struct, kw_only=True, array_like=True):
    """One replica of a job, with its present or last run. `attempt` is 0 before the first run.

    Once its run has ended the object does not change any more: the replica goes on with a copy.
    """

    state: State = State.PENDING
    attempt: int = 0
    ended_as: State | None = None
    """How the run ended, also while the replica waits to be started again."""
    restarts: int = 0
    """In a row, for the back-off."""
    due: float | None = None
    """Not to be started before (Unix seconds)."""
    pid: int | None = None
    shares: list[Share] = []
    queued_at: float | None = None
    launched_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    reason: str | None = None
    cpu_seconds: float | None = None
    max_rss: int | None = None


class Need(msgspec.Struct, array_like=True):
    """One unmet dependency. `job` is 0 while it goes by name alone (`idle`)."""

    ref: str
    condition: str
    job: int


class Live(msgspec.Struct, array_like=True):
    """The part of a record that only the engine reads back: stored as one value."""

    needs: list[Need]
    intent: Intent | None
    armed: bool
    armed_at: float | None
    next_fire: float | None
    backlog: int
    replicas: list[Replica]


class JobRecord(msgspec.Struct, kw_only=True):
    """A job in the engine. Times are Unix seconds."""

    id: int
    spec: JobSpec
    kind: str
    origin: str
    owner: str
    submitted_at: float
    state: State = State.PENDING
    reason: str | None = None
    priority: int = 0
    hold: bool = False
    started_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    restarts: int = 0
    """Over the whole life of the job."""
    version: int = 0
    """`seq` of the job's last event."""
    needs: list[Need] = []
    intent: Intent | None = None
    armed: bool = True
    """A cron job is armed from the moment it fires until its runs have ended; the others always are."""
    armed_at: float | None = None
    """When a start was asked for last, by submission, restart or schedule."""
    next_fire: float | None = None
    backlog: int = 0
    """Fire times that wait for the present run to end (`overlap = queue`, `missed = all`)."""
    replicas: list[Replica] = []
    tally: dict[State, int] = {}
    """How many replicas are in each state: kept by the reactor, never stored."""

    @property
    def active(self) -> bool:
        """Has any replica a process, or one about to be?"""
        return not self.tally.keys().isdisjoint(ACTIVE)

    @property
    def live(self) -> Live:
        return Live(self.needs, self.intent, self.armed, self.armed_at, self.next_fire, self.backlog, self.replicas)
