"""Flows from files: which documents lie in a folder, and what is to become of the jobs that were made from them.

ModelBox loads a folder when its server starts (spec/modelbox.md, 2.3); `runyard flow watch` looks at one all the time.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from contextlib import suppress

import msgspec

from runyard.model.check import MAX_GRAPH, check_name
from runyard.model.errors import InvalidInput
from runyard.model.flow import Format, format_of

#: A file with this in its name is passed over.
DISABLED = "DISABLED_"
MAX_FILES = 10_000


class FlowFile(msgspec.Struct, frozen=True):
    """A file that is to be a job of the same name."""

    path: str
    """Absolute."""
    name: str
    digest: str
    """Changes with the content."""
    text: str
    format: Format
    error: str = ""
    """Why it can't be one, if it is clear already."""


class Known(msgspec.Struct, frozen=True):
    """A job that was made from a file."""

    path: str
    digest: str
    live: bool


class Plan(msgspec.Struct, frozen=True):
    """What to do, in this order."""

    end: list[str]
    """Paths whose jobs are to be ended and forgotten."""
    start: list[FlowFile]


def plan(files: Iterable[FlowFile], jobs: Iterable[Known], *, revive: bool, unread: Iterable[str] = ()) -> Plan:
    """What makes jobs and files agree again.

    A changed file's job is replaced, that of a file which is gone is ended. A job that has ended of itself is started
    again with `revive` only. `unread`: files and folders that could not be read; what is there may not be gone.
    """
    known = {job.path: job for job in jobs}
    end, start = [], []
    for file in files:
        job = known.pop(file.path, None)
        if job is not None and job.digest == file.digest and (job.live or not revive):
            continue
        if job is not None:
            end.append(job.path)
        start.append(file)
    places = [os.path.join(os.path.abspath(place), "") for place in unread]
    gone = [path for path in known if not any(f"{path}/".startswith(place) for place in places)]
    return Plan([*gone, *end], start)


def scan(folder: str, suffixes: tuple[str, ...] = ("",)) -> tuple[list[FlowFile], list[tuple[str, str]]]:
    """The files directly in a folder, in the order of their names, and what could not be read with the reason.

    `suffixes`: only files that end so, those of the first suffix first. Never raises OSError.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        return [], [(folder, f"the folder can't be read: {error.strerror}")]
    files: list[FlowFile] = []
    problems: list[tuple[str, str]] = []
    for name in [name for suffix in suffixes for name in names if name.endswith(suffix)]:
        path = os.path.join(folder, name)
        try:
            if DISABLED in name or not stat.S_ISREG(os.stat(path).st_mode):
                continue
            if len(files) == MAX_FILES:
                problems.append((folder, f"more than {MAX_FILES} files: the rest is left out"))
                break
            files.append(read(path))
        except FileNotFoundError:
            # It is gone again, or a link that leads nowhere.
            continue
        except (OSError, InvalidInput) as error:
            problems.append((path, getattr(error, "strerror", None) or str(error)))
    return files, problems


def signature(folder: str) -> object:
    """A value that changes when the files directly in a folder may have changed, or can be read no more."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        return error.errno
    found = []
    for name in names:
        # One may be gone again, or lead nowhere.
        with suppress(OSError):
            status = os.stat(os.path.join(folder, name))
            # The time of a change of any kind: a file may become readable, or be replaced by one as old and as large.
            found.append((name, status.st_ctime_ns, status.st_size, status.st_ino))
    return sorted(found)


def read(path: str) -> FlowFile:
    """One file. Raises OSError; InvalidInput if its name can't be a job's."""
    name = os.path.basename(path)
    check_name("file name", name)
    with open(path, "rb", opener=_regular) as file:
        data = file.read(MAX_GRAPH + 1)
    digest = hashlib.sha256(data).hexdigest()[:32]
    error = text = ""
    if len(data) > MAX_GRAPH:
        error = f"the file is larger than {MAX_GRAPH} bytes"
    else:
        try:
            text = data.decode()
        except UnicodeDecodeError as bad:
            error = f"the file is not UTF-8: byte {data[bad.start]:#04x} at offset {bad.start}"
    return FlowFile(os.path.abspath(path), name, digest, text, format_of(text, path), error)


def _regular(path: str, flags: int) -> int:
    """Opens without waiting: in a folder there may be a pipe under any name."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it is no regular file", path)
    return descriptor
