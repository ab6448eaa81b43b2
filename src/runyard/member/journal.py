"""What a member remembers over its own death: its tasks, and the reports that nobody has taken yet."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec

from runyard.member.ledger import Entry
from runyard.member.outbox import Message
from runyard.model.errors import ConfigError, Conflict


class Memory(msgspec.Struct):
    entries: list[Entry] = []
    reports: list[Message] = []


class Journal:
    """A JSON file that is written anew, in one piece, whenever something has changed."""

    def __init__(self, path: Path) -> None:
        """Raises Conflict if another member holds it, ConfigError if it can't be kept there."""
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"{path}: the state can't be kept there: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise Conflict(f"{path}: another member keeps its state there") from None

    def read(self) -> Memory:
        """What the last life wrote; nothing for the first one. Raises ConfigError."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Memory)
        except FileNotFoundError:
            return Memory()
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(f"{self._path}: this is no member's state ({error}); remove it to begin anew") from None

    def write(self, memory: Memory) -> None:
        """On disk when it returns. Raises OSError."""
        draft = self._path.with_name(self._path.name + ".new")
        with draft.open("wb") as file:
            file.write(msgspec.json.encode(memory))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)

    def close(self) -> None:
        os.close(self._lock)
