"""What a member has still to say to the project manager, in order, and when it tries next. Pure.

Source: spec/tango.md 1.4 (delivery: back-off for at least a minute, since the manager may be restarting).
"""

from __future__ import annotations

from collections import deque

import msgspec

#: Reports that are kept, and updates: telemetry gives way first.
MAX_REPORTS, MAX_UPDATES = 10_000, 1000
#: Seconds until the first new try, and at most; and the age at which a message is given up.
FIRST, LONGEST, MAX_AGE = 0.1, 15.0, 86_400.0


class Message(msgspec.Struct, frozen=True):
    """A `status_report`, or with `content` a `status_update`."""

    user: str
    project: str
    word: str
    """The status, or the update's kind."""
    at: float
    """When it was said, in Unix seconds."""
    content: str | None = None
    """JSON."""


class Outbox:
    """Messages go out one by one: a later one never overtakes an earlier one."""

    def __init__(self, first: float = FIRST, longest: float = LONGEST) -> None:
        self._first, self._longest = first, longest
        self._waiting: deque[Message] = deque()
        self._tries = 0
        self._not_before = 0.0

    def put(self, message: Message) -> bool:
        """False if there is no room for it."""
        most = MAX_REPORTS if message.content is None else MAX_UPDATES
        if len(self._waiting) >= most:
            return False
        self._waiting.append(message)
        return True

    def next(self, now: float) -> tuple[Message | None, float]:
        """The message to send now; else None, and the moment at which to ask again (infinity: when one is put)."""
        while self._waiting and now - self._waiting[0].at > MAX_AGE:
            self._waiting.popleft()
            self._tries, self._not_before = 0, 0.0
        if not self._waiting:
            return None, float("inf")
        if now < self._not_before:
            return None, self._not_before
        return self._waiting[0], now

    def delivered(self) -> None:
        """The first one is done with: taken, or refused for good."""
        self._waiting.popleft()
        self._tries, self._not_before = 0, 0.0

    def failed(self, now: float) -> float:
        """The first one could not be delivered; the seconds until the next try."""
        pause = min(self._longest, self._first * (1 << min(self._tries, 20)))
        self._tries += 1
        self._not_before = now + pause
        return pause

    def reports(self) -> list[Message]:
        """What must not be lost."""
        return [message for message in self._waiting if message.content is None]

    def __len__(self) -> int:
        return len(self._waiting)
