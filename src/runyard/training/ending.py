"""How a task has ended: from what was wished, what the program has said, and how its process ended (spec 4.1). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from runyard.model.message import ERROR, STATUS, Message
from runyard.model.signals import signal_name
from runyard.model.state import State
from runyard.training import failure
from runyard.training.codes import Code, is_failure
from runyard.training.task import WISHES, Task, is_told

_FINISHED = frozenset({"finished", "finish"})
_FAILED = frozenset({"crash", "error"})
_OTHER = {
    "stopped": Code.STOPPED,
    "stop": Code.STOPPED,
    "paused": Code.PAUSED,
    "robbed": Code.ROBBED,
}
#: What goes along with a status.
FACTS = ("uptime", "memstat", "environ", "resource")
_NO_MEMORY = ("more memory than its limit", "out of memory")


class Claim(msgspec.Struct, frozen=True):
    """What a program says of its own end. The first claim counts, and is not passed on: the server tells the end."""

    code: int
    at: float
    word: str
    body: dict[str, Any]


class End(msgspec.Struct, frozen=True, kw_only=True):
    """How the job of a task ended."""

    state: State
    started: bool
    exit_code: int | None = None
    signal: int | None = None
    reason: str | None = None
    log: list[str] = []
    """The last lines of output, if it went wrong."""


class Ending(msgspec.Struct, frozen=True):
    """The terminal message: its code, its status, and what else is in it."""

    code: int
    word: str
    more: dict[str, Any] = {}


def status_word(body: dict[str, Any]) -> str:
    """The status in a report, wherever it stands; empty without."""
    expand = body.get("expand")
    for place in (body, expand if isinstance(expand, dict) else {}):
        if isinstance(word := place.get("status"), str):
            return word
    return ""


def claim_of(message: Message, vision: bool = False) -> Claim | None:
    """The end that a program claims with this message, if it does."""
    if message.kind not in (ERROR, STATUS) or is_told(message):
        return None
    body, word = message.body, status_word(message.body)
    if word in _FINISHED or (not word and body.get("code") == Code.FINISHED):
        return Claim(Code.FINISHED, message.at, "finished", body)
    if word in _OTHER:
        return Claim(_OTHER[word], message.at, word, body)
    if word in _FAILED or (message.kind == ERROR and not word and _is_failure(body)):
        detail = failure.detail_of(body)
        return Claim(failure.code_in(body, detail, vision), message.at, word or "error", body)
    return None


def is_running(body: dict[str, Any]) -> bool:
    """Whether a program says that it runs."""
    word = status_word(body)
    return word == "running" or (not word and body.get("code") == Code.RUNNING)


def told_once(messages: Sequence[Message]) -> list[Message]:
    """Without what a program says of its state in as many words as the server."""
    told = {message.body.get("code") for message in messages if is_told(message)}

    def again(message: Message) -> bool:
        if message.kind not in (ERROR, STATUS) or is_told(message):
            return False
        claim = claim_of(message)
        return (claim is not None and claim.code in told) or (Code.RUNNING in told and is_running(message.body))

    return [message for message in messages if not again(message)]


def _is_failure(body: dict[str, Any]) -> bool:
    code = body.get("code")
    if isinstance(code, int) and not isinstance(code, bool):
        return is_failure(code)
    # An error without a code or a status, which says what happened.
    return bool(body)


def ending(task: Task, end: End, claim: Claim | None) -> Ending:
    """The one ending of a task. A claim made before anybody wished an end goes first; then the wish; then the claim;
    then the exit status."""
    if end.state is State.TIMED_OUT and claim is not None and claim.word in _OTHER:
        # All that it knows is that it got SIGTERM.
        claim = None
    wished = task.wanted is not None or end.state is State.CANCELLED
    if claim is not None and (not wished or claim.at < task.wanted_at):
        return _claimed(claim)
    if task.wanted is not None:
        code = WISHES[task.wanted]
        return Ending(code, {Code.STOPPED: "stopped", Code.PAUSED: "paused", Code.ROBBED: "robbed"}[code])
    if end.state is State.CANCELLED:
        return Ending(Code.STOPPED, "stopped")
    if end.state is State.SUCCEEDED:
        return Ending(Code.FINISHED, "finished")
    return _unclaimed(end)


def _claimed(claim: Claim) -> Ending:
    body = claim.body
    expand = body.get("expand")
    more: dict[str, Any] = {}
    for place in (body, expand if isinstance(expand, dict) else {}):
        more |= {key: place[key] for key in FACTS if key in place}
    if not is_failure(claim.code):
        return Ending(claim.code, claim.word, more)
    detail = failure.detail_of(body)
    if detail:
        more["detail"] = detail
    message = body.get("message")
    more["message"] = message if isinstance(message, str) and message else detail.get("exc_text", "")
    return Ending(claim.code, "crash" if claim.word == "crash" else "error", more)


def _unclaimed(end: End) -> Ending:
    if not end.started:
        return Ending(Code.START_FAILED, "error", {"message": end.reason or "the program could not be started"})
    text = end.reason or ""
    if any(mark in text.lower() for mark in _NO_MEMORY):
        return Ending(Code.OUT_OF_MEMORY, "crash", _exit(end, "MemoryError", text))
    if end.state is State.TIMED_OUT:
        return Ending(Code.TASK_OTHER, "crash", _exit(end, "TimeoutError", text or "time limit exceeded"))
    if end.signal is not None:
        return Ending(Code.TASK_OTHER, "crash", _exit(end, "Signal", text or f"ended by {signal_name(end.signal)}"))
    if end.exit_code is not None:
        return Ending(Code.TASK_OTHER, "crash", _exit(end, "SystemExit", text or f"exit code {end.exit_code}"))
    return Ending(Code.TASK_OTHER, "crash", _exit(end, "UnknownExit", text or "nobody could observe how it ended"))


def _exit(end: End, name: str, text: str) -> dict[str, Any]:
    detail: dict[str, Any] = {"exc_type": name, "exc_text": text, "traceback": []}
    if end.exit_code is not None:
        detail["exit_code"] = end.exit_code
    if end.signal is not None:
        detail["signal"] = signal_name(end.signal)
    if end.log:
        detail["log"] = end.log
    return {"message": text, "detail": detail}
