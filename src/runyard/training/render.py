"""A stored message as K12AI's clients get it: its type, both shapes of its body (spec 1.6 to 1.10). Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from runyard.model import metrics
from runyard.model.message import ERROR, LOG, METRICS, STATUS, Message
from runyard.training import failure
from runyard.training.codes import Code, text_of
from runyard.training.ending import FACTS, claim_of, is_running, status_word
from runyard.training.envelope import DATETIME, envelope
from runyard.training.task import Task, is_told

RUNLOG, INFO = "runlog", "info"
#: Kinds of stored messages that can become messages of a type.
KINDS: dict[str, tuple[str, ...]] = {ERROR: (ERROR, STATUS), RUNLOG: (LOG, RUNLOG), INFO: (INFO, STATUS)}
#: The status type of 2019, by code.
_OLD = {
    Code.STARTING: "starting",
    Code.RUNNING: "running",
    Code.FINISHED: "finish",
    Code.STOPPED: "manual",
    Code.PAUSED: "manual",
    Code.ROBBED: "manual",
}


class Manner(msgspec.Struct, frozen=True):
    """How messages look on this server."""

    server: str = ""
    datetime_format: str = DATETIME
    emit_status: bool = False


class Rendered(msgspec.Struct, frozen=True):
    """A message for K12AI's clients. Its queue is named by application and type."""

    seq: int
    at: float
    type: str
    app: str
    body: dict[str, Any]


def kinds_of(types: frozenset[str]) -> frozenset[str]:
    """The kinds of stored messages to look at for these types; none means all."""
    return frozenset(kind for name in types for kind in KINDS.get(name, (STATUS,) if name == STATUS else (name,)))


def render(message: Message, task: Task, manner: Manner) -> list[Rendered]:
    """What this message of a task is for clients: mostly one; none, if it is not for them."""
    return [
        Rendered(
            message.seq,
            message.at,
            kind,
            task.app,
            envelope(
                kind, task.sender(manner.server), body, data, message.at, message.seq, form=manner.datetime_format
            ),
        )
        for kind, body, data in _parts(message, task, manner)
    ]


def _parts(message: Message, task: Task, manner: Manner) -> list[tuple[str, Any, Any]]:
    body, kind = message.body, message.kind
    if is_told(message):
        parts = [_status(body["code"], body)]
        if manner.emit_status and body["code"] != Code.WARNING:
            parts.append(_old_status(body["code"]))
        return parts
    if kind == METRICS:
        return [(METRICS, metrics.flat(body), metrics.late(body, task.phase, message.seq))]
    if kind in (ERROR, STATUS):
        return _said(message, task)
    if kind in (LOG, RUNLOG):
        line = {"imshow": body["imshow"]} if "imshow" in body else {"log": body.get("log", body.get("text", ""))}
        return [(RUNLOG, line, line)]
    return [(kind, body, body)]


def _said(message: Message, task: Task) -> list[tuple[str, Any, Any]]:
    """What the program itself says of its state. Its end is told by the server."""
    if claim_of(message) is not None:
        return []
    body, word = message.body, status_word(message.body)
    if is_running(body):
        return [_own(Code.RUNNING, "running", body)] if task.says_running else []
    if word == "warning" or (not word and body.get("code") == Code.WARNING):
        return [_own(Code.WARNING, "warning", body)]
    if word in ("starting", "monitor", ""):
        return []
    return [(INFO, body, body)]


def _own(code: int, word: str, body: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """A status in the program's own words, which may be of any form."""
    return _status(code, {**body, "status": word, "detail": failure.detail_of(body)})


def _status(code: int, body: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Both shapes of a message of type `error`."""
    english, chinese = text_of(code)
    detail = failure.outward(body.get("detail") or {})
    expand = {"status": body["status"]}
    expand |= {key: body[key] for key in FACTS if key in body}
    seed: dict[str, Any] = {"code": int(code), "descr": english, "message": body.get("message") or body["status"]}
    if detail:
        seed["detail"] = failure.seed_part(detail)
    if detail or body.get("message"):
        text = body.get("message", "")
        expand["errinfo"] = failure.errinfo_of(detail) or {"err_code": int(code), "err_text": text}
    data = {"code": int(code), "message": {"en": english, "cn": chinese}, "expand": expand}
    return ERROR, seed, data


def _old_status(code: int) -> tuple[str, dict[str, Any], dict[str, Any]]:
    word = _OLD.get(Code(code), "error") if code in set(Code) else "error"
    body = {"value": word, "way": "docker"} if word in ("starting", "running") else {"value": "exit", "way": word}
    return STATUS, body, body
