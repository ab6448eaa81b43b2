"""The event files of TensorBoard in a run's folder, as messages: read on from where they were left."""

from __future__ import annotations

import base64
import math
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path

from runyard.message.line import to_message
from runyard.model.errors import InvalidInput, TooLarge
from runyard.model.message import INFO, MAX_BODY, METRICS, NewMessage
from runyard.model.metrics import MAX_VALUES
from runyard.report import eventfile
from runyard.report.eventfile import Damaged, Point

#: Part of the name of each event file.
NAMED = "tfevents"
#: Files in one folder and those below it, levels of folders, whatever else lies there, and bytes read in one go.
MAX_FILES, MAX_LEVELS, MAX_ENTRIES, CHUNK = 100, 4, 10_000, 1024 * 1024 + 64
#: Put down for a file of which nothing more is read.
GIVEN_UP = -1
_CLOCKS = 1.0


class EventFiles:
    """Those below one folder. `read` is for one thread at a time."""

    def __init__(self, folder: Path, offsets: dict[str, int], since: float, user: str | None) -> None:
        """`offsets` says how far each file was read, by its path below the folder, and is kept up to date. Files that
        were not changed since `since` (Unix seconds) are another run's; with `user`, files must be this account's."""
        self._folder = folder
        self._offsets = offsets
        self._since = since - _CLOCKS
        self._owner: int | None = None
        if user is not None:
            with suppress(KeyError):
                self._owner = pwd.getpwnam(user).pw_uid

    def read(self, job: int, found: list[NewMessage], limit: int, now: float) -> bool:
        """Adds to `found`, and says whether there is more already. `now` is Unix seconds."""
        limit += len(found)
        for name in self._names():
            if len(found) >= limit:
                return True
            if self._offsets.get(name, 0) != GIVEN_UP and self._read_file(name, job, found, now):
                return True
        return False

    def _names(self) -> list[str]:
        names: list[str] = []
        root, entries = str(self._folder), 0
        for folder, folders, files in os.walk(root):
            if folder[len(root) :].count(os.sep) >= MAX_LEVELS:
                folders.clear()
            folders.sort()
            names += [os.path.relpath(os.path.join(folder, file), root) for file in sorted(files) if NAMED in file]
            entries += len(files) + len(folders)
            if len(names) >= MAX_FILES or entries > MAX_ENTRIES:
                break
        # A name that is no text can't be kept in mind.
        return [name for name in names[:MAX_FILES] if name.isprintable()]

    def _read_file(self, name: str, job: int, found: list[NewMessage], now: float) -> bool:
        try:
            fd = os.open(self._folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            status = os.fstat(fd)
            if not self._is_ours(name, status):
                return False
            offset = self._offsets.get(name, 0)
            if offset >= status.st_size:
                return False
            data = os.pread(fd, CHUNK, offset)
        except OSError:
            return False
        finally:
            os.close(fd)
        done = self._take(name, data, job, found, now)
        if done:
            self._offsets[name] = offset + done
        return self._offsets.get(name) != GIVEN_UP and done > 0 and offset + done < status.st_size

    def _is_ours(self, name: str, status: os.stat_result) -> bool:
        if not stat.S_ISREG(status.st_mode) or (self._owner is not None and status.st_uid != self._owner):
            return False
        return name in self._offsets or status.st_mtime >= self._since

    def _take(self, name: str, data: bytes, job: int, found: list[NewMessage], now: float) -> int:
        """How many bytes were used up."""
        done = 0
        group: dict[str, Point] = {}
        weight = step = 0
        try:
            for body, end in eventfile.records(data):
                done = end
                for point in [] if body is None else eventfile.points(body):
                    weight += _weight(point)
                    if point.tag in group or weight > MAX_BODY or step != point.step:
                        _say(group, job, found, now)
                        group, weight, step = {}, _weight(point), point.step
                    group[point.tag] = point
        except Damaged as problem:
            self._offsets[name] = GIVEN_UP
            text = f"{name}: {problem}; the rest of this event file is left out"
            found.append(NewMessage(job, INFO, {"code": "bad_events", "text": text[:1000]}, None, "report"))
            done = 0
        _say(group, job, found, now)
        return done


def _weight(point: Point) -> int:
    """Characters in the body as JSON, at most: so no message has more numbers, or more to say, than is taken."""
    return MAX_BODY // MAX_VALUES if point.image is None else 4000 + len(point.image) * 4 // 3


def _say(group: dict[str, Point], job: int, found: list[NewMessage], now: float) -> None:
    """One message for the values of one step, by tag."""
    if not group:
        return
    points = list(group.values())
    first = points[0]
    values = {point.tag[:255]: point.value for point in points if point.image is None}
    items = [_picture(point) for point in points if point.image is not None and len(point.image) < MAX_BODY * 2 // 3]
    body = {"values": values, "step": first.step} | ({"items": items} if items else {})
    with suppress(InvalidInput, TooLarge):
        raw = {"type": METRICS, "body": body, "at": first.at if 0 < first.at < math.inf else None}
        found.append(to_message(raw, job, now, "report"))


def _picture(point: Point) -> dict[str, object]:
    category, _, title = point.tag.rpartition("/")
    payload = base64.b64encode(point.image or b"").decode()
    data = {"title": title[:255] or "image", "payload": payload, "format": "base64string"}
    return {"type": "image", "category": category[:255] or "train", "data": data}
