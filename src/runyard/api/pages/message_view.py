"""What a job's page shows of the job's messages: lines, errors with their tracebacks, and the newest of its pictures,
matrices and texts. Bodies are what programs like to send: whatever does not fit is shown as JSON. Pure."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from runyard.api.pages.view import moment
from runyard.model.message import ERROR, Message

#: Characters of a text, of a cell; frames of a traceback; rows and columns of a matrix.
MAX_TEXT, MAX_CELL, MAX_FRAMES, MAX_ROWS = 2000, 200, 100, 100
#: Shades of a matrix.
SHADES = 10
_FORMS = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))


class Frame(msgspec.Struct):
    file: str
    line: str
    function: str
    source: str


class Line(msgspec.Struct, kw_only=True):
    """One message."""

    seq: int
    at: str
    kind: str
    rank: str
    text: str
    bad: bool
    error: str
    """Class and text of an exception; empty if there is none."""
    frames: list[Frame]
    picture: bool
    """The message is a picture itself: what user code shows."""


class Cell(msgspec.Struct):
    text: str
    shade: int
    """0 for the smallest number of the matrix, `SHADES` - 1 for the largest."""


class Matrix(msgspec.Struct):
    title: str
    labels: list[str]
    rows: list[list[Cell]]
    note: str
    """Why there are no rows."""


class Picture(msgspec.Struct):
    title: str
    seq: int
    place: int
    """The how-manieth object of its message."""
    link: str
    """Where it lies, if it is somewhere else."""


class Text(msgspec.Struct):
    title: str
    text: str


class Widgets(msgspec.Struct):
    """The newest of each title."""

    texts: list[Text] = []
    matrices: list[Matrix] = []
    pictures: list[Picture] = []


def line(message: Message) -> Line:
    body = message.body
    detail = body.get("detail")
    detail = detail if isinstance(detail, dict) else {}
    raised = ": ".join(_text(detail[key], MAX_TEXT) for key in ("exc_type", "exc_text") if detail.get(key))
    frames = detail.get("traceback")
    shown = [_frame(frame) for frame in frames[:MAX_FRAMES]] if isinstance(frames, list) else []
    if not shown and detail.get("filename"):
        shown = [_frame(detail)]
    return Line(
        seq=message.seq,
        at=moment(message.at),
        kind=message.kind,
        rank="" if message.rank is None else str(message.rank),
        text=_words(message, raised),
        bad=message.kind == ERROR and body.get("status") != "warning",
        error=raised,
        frames=shown,
        picture="imshow" in body,
    )


def has_widgets(message: Message) -> bool:
    return bool(_items(message))


def widgets(messages: Iterable[Message]) -> Widgets:
    """Of metrics messages, newest first."""
    found: dict[tuple[str, str], Text | Matrix | Picture] = {}
    for message in messages:
        for place, item in enumerate(_items(message)):
            kind, data = str(item.get("type")), item["data"]
            title = _text(data.get("title", ""), MAX_CELL)
            if (kind, title) not in found and (made := _widget(kind, title, data, message.seq, place)) is not None:
                found[kind, title] = made
    shown = [found[key] for key in sorted(found)]
    return Widgets(
        [one for one in shown if isinstance(one, Text)],
        [one for one in shown if isinstance(one, Matrix)],
        [one for one in shown if isinstance(one, Picture)],
    )


def picture(message: Message, place: int) -> tuple[bytes, str] | None:
    """Bytes and media type of a picture in a message; None if there is no such picture."""
    items = _items(message)
    if "imshow" in message.body and place == 0:
        payload, form = message.body["imshow"], message.body.get("format")
    elif 0 <= place < len(items) and items[place].get("type") == "image":
        data = items[place]["data"]
        payload, form = data.get("payload"), data.get("format")
    else:
        return None
    if not isinstance(payload, str):
        return None
    if form == "svg":
        return payload.encode("utf-8", "replace"), "image/svg+xml"
    try:
        content = base64.b64decode(payload.rpartition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        return None
    media_type = next((media_type for head, media_type in _FORMS if content.startswith(head)), None)
    return None if media_type is None else (content, media_type)


def _items(message: Message) -> list[dict[str, Any]]:
    items = message.body.get("items")
    if not isinstance(items, list):
        return []
    return [item for item in items if isinstance(item, dict) and isinstance(item.get("data"), dict)]


def _widget(kind: str, title: str, data: Mapping[str, Any], seq: int, place: int) -> Text | Matrix | Picture | None:
    payload = data.get("payload")
    if kind == "text":
        return Text(title, _text(payload, MAX_TEXT))
    if kind == "matrix":
        return _matrix(title, payload, data.get("labels"))
    if kind == "image" and isinstance(payload, str):
        return Picture(title, seq, place, payload[:MAX_TEXT] if data.get("format") == "url" else "")
    return None


def _matrix(title: str, payload: Any, labels: Any) -> Matrix:
    if not isinstance(payload, list) or not all(isinstance(row, list) for row in payload):
        return Matrix(title, [], [], "no rows of numbers")
    width = max(map(len, payload), default=0)
    if len(payload) > MAX_ROWS or width > MAX_ROWS:
        return Matrix(title, [], [], f"{len(payload)} rows of {width} numbers: more than are shown here")
    numbers = [value for row in payload for value in row if _is_number(value)]
    low, high = min(numbers, default=0), max(numbers, default=0)
    rows = [[Cell(_number(value), _shade(value, low, high)) for value in row] for row in payload]
    named = [_text(label, MAX_CELL) for label in labels] if isinstance(labels, list) else []
    return Matrix(title, named if len(named) == len(rows) == width else [], rows, "")


def _shade(value: Any, low: float, high: float) -> int:
    if not _is_number(value) or high <= low:
        return 0
    # Few large numbers must not hide the small ones: those are the mistakes in a confusion matrix.
    return min(SHADES - 1, math.ceil(math.sqrt((value - low) / (high - low)) * (SHADES - 1)))


def _is_number(value: Any) -> bool:
    # So that the difference of two is one as well.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1 << 1022


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return _text(value, MAX_CELL)


def _frame(raw: Any) -> Frame:
    frame = raw if isinstance(raw, dict) else {}
    source = frame.get("source") or frame.get("souce") or ""
    words = [frame.get(key, "") for key in ("filename", "linenum", "funcname")]
    return Frame(*(_text(word, 500) for word in (*words, source)))


def _words(message: Message, raised: str) -> str:
    """What it says, in a line or a few."""
    body = message.body
    if "prediction" in body:
        return _text(f"{body.get('index', '')}: {body['prediction']}", MAX_TEXT)
    if "imshow" in body:
        return ""
    parts = [body[key] for key in ("status", "code", "text", "log") if body.get(key) not in (None, "")]
    said = body.get("message")
    if isinstance(said, str | int | float) and str(said) not in raised:
        parts.append(said)
    return _text(" ".join(str(part) for part in parts), MAX_TEXT) if parts or raised else _text(body, MAX_TEXT)


def _text(value: Any, most: int) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode("utf-8", "replace")
    return text if len(text) <= most else text[: most - 1] + "…"
