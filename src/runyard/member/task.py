"""A task as the code sees it that does it: whose project, where its files are, and whether it shall end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Stopped(Exception):
    """The task has ended because it was told to, or because it gave up without having failed."""


class Task:
    """One run of one project's task. Safe to use from several threads."""

    def __init__(
        self,
        container: str,
        user_id: str,
        project_id: str,
        run: int,
        shared: Path | None,
        folder: Path | None,
        inputs: Mapping[str, str],
        pm: str,
        update: Callable[[str, Any], None],
    ) -> None:
        self.container = container
        self.user_id = user_id
        self.project_id = project_id
        self.run = run
        """Counts the starts of this project."""
        self.inputs = dict(inputs)
        """The parameters of `start` behind the ids."""
        self.pm = pm
        """Address of the project manager."""
        self._shared, self._folder = shared, folder
        self._update = update
        self._stop = threading.Event()

    @property
    def shared(self) -> Path:
        """The folder that all members share. Raises ValueError if none was given."""
        if self._shared is None:
            raise ValueError("this member knows no shared folder: give `shared`, or TANGO_SHARED")
        return self._shared

    @property
    def folder(self) -> Path:
        """The project's part of the shared folder; it exists. Raises ValueError if none was given."""
        if self._folder is None:
            raise ValueError("this member knows no shared folder: give `shared`, or TANGO_SHARED")
        return self._folder

    @property
    def stopping(self) -> bool:
        """It shall end."""
        return self._stop.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Waits so long, or until it shall end; True if it shall."""
        return self._stop.wait(seconds)

    def check(self) -> None:
        """Raises Stopped if it shall end: for loops."""
        if self._stop.is_set():
            raise Stopped("told to stop")

    def update(self, kind: str, content: Any) -> None:
        """Tells the project manager how it goes (`status_update`, spec/tango.md 1.5), such as
        `update("train_loss", {"epoch": 1, "total": 0.3})`. Content is whatever JSON can say, in 64 KiB. Raises
        TypeError, ValueError."""
        self._update(kind, content)

    def environment(self) -> dict[str, str]:
        """The same, for programs: as steps that the project manager runs itself have it."""
        given = {
            "TANGO_USER_ID": self.user_id,
            "TANGO_PROJECT_ID": self.project_id,
            "TANGO_CONTAINER": self.container,
            "TANGO_PM_URL": self.pm,
        }
        if self._shared is not None and self._folder is not None:
            given |= {"TANGO_PROJECT_DIR": str(self._folder), "TANGO_SHARED": str(self._shared)}
        return given | {f"TANGO_INPUT_{name.upper()}": value for name, value in self.inputs.items()}

    def tell(self) -> None:
        """From the member: it shall end."""
        self._stop.set()
