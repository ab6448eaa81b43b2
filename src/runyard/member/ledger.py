"""A member's tasks and their states: what it answers, and when it starts and stops something. Pure.

Source: the state diagram of the seed document; spec/tango.md 1.3 and 2.1.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from runyard.project.wire import MemberState

LIVE = frozenset({MemberState.STARTED, MemberState.RUNNING})
#: Ended tasks that are remembered, of the newest projects.
MAX_ENDED = 1000


class Entry(msgspec.Struct):
    """The newest run of one project's task."""

    user: str
    project: str
    state: MemberState = MemberState.STARTED
    stopping: bool = False
    """It was asked to end."""
    run: int = 1
    """Counts the starts of this project."""
    reason: str = ""
    """Why it failed."""

    @property
    def live(self) -> bool:
        return self.state in LIVE


class Stop(Enum):
    """What a `stop` comes to."""

    UNKNOWN = "unknown"
    """The member never saw that project: `error`."""
    OVER = "over"
    """It has ended before, or was told already: `finished`."""
    TELL = "tell"
    """It is at work: somebody must tell it."""


class Ledger:
    """By user and project. The shell holds a lock around each call."""

    def __init__(self, concurrency: int = 1) -> None:
        """`concurrency` is how many projects may be at work at once."""
        self._concurrency = concurrency
        self._entries: dict[tuple[str, str], Entry] = {}

    def start(self, user: str, project: str) -> Entry | None:
        """A new run, in the state `started`; None if that project is at work, or there is no place for another."""
        before = self._entries.get((user, project))
        if (before is not None and before.live) or len(self.live()) >= self._concurrency:
            return None
        entry = Entry(user, project, run=before.run + 1 if before is not None else 1)
        # Behind the others: the oldest are forgotten first.
        self._entries.pop((user, project), None)
        self._entries[user, project] = entry
        self._forget()
        return entry

    def stop(self, user: str, project: str) -> tuple[Stop, Entry | None]:
        entry = self._entries.get((user, project))
        if entry is None:
            return Stop.UNKNOWN, None
        if not entry.live or entry.stopping:
            return Stop.OVER, entry
        entry.stopping = True
        return Stop.TELL, entry

    def running(self, entry: Entry) -> bool:
        """Its work begins; False if it was told to stop before, and must not."""
        if entry.stopping:
            return False
        entry.state = MemberState.RUNNING
        return True

    def ended(self, entry: Entry, state: MemberState, reason: str = "") -> MemberState:
        """The state in which it has ended: one that was told to stop has stopped, whatever it made of that."""
        entry.state = MemberState.STOPPED if entry.stopping else state
        entry.reason = reason if entry.state is MemberState.FAILED else ""
        return entry.state

    def state(self, user: str, project: str) -> MemberState:
        """How a project stands; of one that was never started, and without ids: ready. Changes nothing."""
        entry = self._entries.get((user, project))
        return MemberState.READY if entry is None else entry.state

    def find(self, user: str, project: str) -> Entry | None:
        return self._entries.get((user, project))

    def live(self) -> list[Entry]:
        return [entry for entry in self._entries.values() if entry.live]

    def entries(self) -> list[Entry]:
        """Oldest start first."""
        return list(self._entries.values())

    def restore(self, entries: list[Entry]) -> list[Entry]:
        """Takes over what an earlier life wrote down; those that were at work have failed, and are returned."""
        lost = []
        for entry in entries:
            self._entries[entry.user, entry.project] = entry
            if entry.live:
                self.ended(entry, MemberState.FAILED, "the member was restarted")
                lost.append(entry)
        return lost

    def _forget(self) -> None:
        for key in [key for key, entry in self._entries.items() if not entry.live][
            : max(0, len(self._entries) - MAX_ENDED)
        ]:
            del self._entries[key]
