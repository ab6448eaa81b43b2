"""A project in the server's memory: its definition, its coordinator, and what is under way for it."""

from __future__ import annotations

import asyncio
from collections import deque

from runyard.model.ids import RunKey
from runyard.project.coordinator import Coordinator
from runyard.project.definition import Project
from runyard.project.member import Member
from runyard.project.state import Effect, ProjectState
from runyard.project.steps import Timing


class Live:
    """One project with its coordinator."""

    def __init__(self, job: int, definition: Project, owner: str, state: ProjectState, timing: Timing) -> None:
        self.job = job
        self.project = definition
        self.owner = owner
        self.coordinator = Coordinator(definition, state, timing)
        self.members: dict[str, Member] = {}
        self.waits: dict[str, str] = {}
        """The jobs that steps which are waiting need, in words."""
        self.timer: asyncio.TimerHandle | None = None
        self.queue: deque[tuple[list[Effect], asyncio.Future[None] | None]] = deque()
        self.working = False

    @property
    def state(self) -> ProjectState:
        return self.coordinator.state

    @property
    def wire_id(self) -> str:
        """What members call the project."""
        return self.project.project_id or str(self.job)

    @property
    def run(self) -> RunKey:
        return RunKey(self.job, 0, self.state.attempt)
