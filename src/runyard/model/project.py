"""Projects, as shown to clients. What they are made of is in `runyard.project.definition`."""

from __future__ import annotations

from datetime import datetime

import msgspec

from runyard.model.state import State


class StepDoc(msgspec.Struct, kw_only=True):
    """A step, as shown to clients."""

    container: str
    status: str
    """In the words of the protocol: `ready`, `started`, `running`, `stopped`, `failed`, `completed`."""
    phase: str
    """More exactly: also `waiting`, `starting`, `stopping`, `skipped`."""
    reason: str | None
    kind: str
    """`remote`, `local`, or `person` where nobody but a person does it."""
    url: str | None
    job: str | None
    """Of a local step."""
    after: list[str]
    optional: bool
    run: int
    """How often it was started."""
    waits_for: str | None
    reachable: bool | None
    missed_beats: int
    started_at: datetime | None
    ended_at: datetime | None


class ProjectDoc(msgspec.Struct, kw_only=True):
    """A project, as shown to clients."""

    id: str
    """Of its job."""
    name: str
    user_id: str
    project_id: str
    """What members call it."""
    description: str
    project_type: str
    target: str
    owner: str
    status: str
    """In the words of the protocol."""
    phase: str
    reason: str | None
    state: State
    """Of its job."""
    container: str | None
    """The step that is at work, or came last."""
    waits_for: list[str]
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    folder: str
    steps: list[StepDoc]


class Readiness(msgspec.Struct, kw_only=True):
    """What a member said to `status_request` with empty ids."""

    container: str
    kind: str
    url: str | None
    ready: bool
    said: str


class ProjectList(msgspec.Struct, kw_only=True):
    items: list[ProjectDoc]
    next: str | None
    """`cursor` of the next page; null at the end."""


class MemberList(msgspec.Struct):
    items: list[Readiness]
