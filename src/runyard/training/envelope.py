"""The envelope around every asynchronous message, in the superset form (spec/k12ai.md, 1.6). Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from runyard.model.message import MAX_BODY
from runyard.training.codes import Code, text_of

VERSION = "0.1.0"
FRAMEWORK, PLATFORM = "framework", "platform"
DATETIME = "%Y%m%d%H%M%S"

_encoder = msgspec.json.Encoder()


class Sender(msgspec.Struct, frozen=True):
    """Whom a message is from and for: the same in all messages of a task."""

    op: str
    user: str
    uuid: str
    service: str
    app: str
    token: Any = ""
    tag: str = FRAMEWORK
    server: str = ""


def envelope(
    kind: str, sender: Sender, body: Any, data: Any, at: float, seq: int | None = None, form: str = DATETIME
) -> dict[str, Any]:
    """A message: `body` under the key `kind` as the document draws it, `data` in the later shape. `at` is Unix seconds,
    `form` that of `datetime` (strftime, local time)."""
    if _too_large(body) or _too_large(data):
        english, chinese = text_of(Code.TOO_LARGE)
        body = {"code": int(Code.TOO_LARGE), "descr": english}
        data = {"code": int(Code.TOO_LARGE), "message": {"en": english, "cn": chinese}}
    message = {
        "version": VERSION,
        "type": kind,
        "tag": sender.tag,
        "op": sender.op,
        "user": sender.user,
        "service_uuid": sender.uuid,
        "service_name": sender.service,
        "server": sender.server,
        "appId": sender.app,
        "token": sender.token,
        "timestamp": int(at * 1000),
        "datetime": datetime.fromtimestamp(at).strftime(form),
        kind: body,
        "data": data,
    }
    if seq is not None:
        message["seq"] = seq
    return message


def _too_large(value: Any) -> bool:
    # Every character is a byte or more.
    text = _encoder.encode(value)
    return len(text) > MAX_BODY and len(text.decode()) > MAX_BODY
