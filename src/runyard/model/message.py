"""Messages: what the program of a job has to say while it runs, and what the server says about it.

A message is not an event: events are facts about jobs that core decides, messages are data of the jobs themselves. They
have a table, a cursor and a feed of their own.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from runyard.model.check import refuse

Source = Literal["report", "stdout", "rule", "http", "server"]
"""How it came in: by `runyard.report`, a marked line of output, a rule about lines, the API; or the server says it."""

METRICS, ERROR, INFO, STATUS, LOG = "metrics", "error", "info", "status", "log"
#: Kinds that are never sampled: how it goes with the job, and what went wrong.
PRECIOUS = frozenset({ERROR, STATUS})
#: Characters of a message's body as JSON (spec 1.6).
MAX_BODY = 1_000_000
#: Messages in one request.
MAX_BATCH = 1000
#: Levels of objects and arrays in a body.
MAX_DEPTH = 32
MAX_RANK = 10_000_000
_KIND = re.compile(r"[a-z][a-z0-9_.-]{0,31}")


class NewMessage(msgspec.Struct, frozen=True, gc=False):
    """A message on its way in. The body of `metrics` has the form of `model.metrics`."""

    job: int
    kind: str
    body: dict[str, Any]
    at: float | None = None
    """Unix seconds; None means now."""
    source: Source = "server"
    rank: int | None = None
    """Which of the run's processes speaks (`RUNYARD_TASK_RANK`); None if nobody in particular."""


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A message that is on disk."""

    seq: int
    """Grows over all jobs, and is the resume cursor. Numbers may be missing: what retention has removed."""
    job: int
    kind: str
    at: float
    """Unix seconds."""
    body: dict[str, Any]
    source: Source = "server"
    rank: int | None = None


def check_kind(text: str, field: str = "kind") -> str:
    """Raises InvalidInput about `field`."""
    if not _KIND.fullmatch(text):
        raise refuse(field, text, "must be a word of 1 to 32 small letters, digits, `_`, `.`, `-`: metrics, error, …")
    return text


def depth(value: Any, most: int = MAX_DEPTH) -> int:
    """How many levels of objects and arrays there are; looks no deeper than `most` + 1."""
    if isinstance(value, dict):
        inner: Any = value.values()
    elif isinstance(value, list):
        inner = value
    else:
        return 0
    if most <= 0:
        return 1
    return 1 + max((depth(item, most - 1) for item in inner if isinstance(item, dict | list)), default=0)
