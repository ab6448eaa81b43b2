"""Reports as text: lines of JSON in a run's report file, and marked lines in its output.

A report is `{"type": "metrics", "body": {…}}`, with `at` (Unix seconds) and `rank` if the program likes. The body may
also stand under the name of the type, or under `data`, as K12AI's programs write it. Pure.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from runyard.model.check import explain_json, refuse
from runyard.model.errors import InvalidInput, TooLarge
from runyard.model.message import MAX_BODY, MAX_DEPTH, MAX_RANK, METRICS, NewMessage, Source, check_kind, depth
from runyard.model.metrics import metrics_body

#: What a line of output begins with that is a report.
MARKS = (b"@runyard ", b"@k12ai ")
#: Bytes of a line: a body of `MAX_BODY` characters, each of up to four bytes, and what stands around it.
MAX_LINE = 4 * MAX_BODY + 4096
_KNOWN = frozenset({"type", "kind", "body", "data", "at", "rank"})
#: Later than the server's clock says by more than this is taken for a wrong clock.
_AHEAD = 60.0

_decoder = msgspec.json.Decoder()


def is_marked(line: bytes) -> bool:
    """Whether a line of output is a report."""
    return line.startswith(MARKS)


def read_marked(line: bytes, job: int, now: float, rank: int | None = None) -> NewMessage:
    """The message in a marked line. Raises InvalidInput, TooLarge: then it is output like any other line."""
    _, _, text = line.partition(b" ")
    return read_report(text, job, now, "stdout", rank)


def read_report(text: bytes, job: int, now: float, source: Source, rank: int | None = None) -> NewMessage:
    """The message in a line of JSON. `now` is Unix seconds. Raises InvalidInput, TooLarge."""
    if len(text) > MAX_LINE:
        raise _too_large(len(text))
    return to_message(decode(text), job, now, source, rank)


def decode(text: bytes) -> Any:
    """JSON, with `NaN` and `Infinity` as Python and others write them. Raises InvalidInput."""
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if b"NaN" in text or b"Infinity" in text:
            try:
                found = json.loads(text)
                # Half of a surrogate pair is no character here either.
                msgspec.json.encode(found)
                return found
            except (ValueError, RecursionError):
                pass
        raise explain_json(text, error) from None


def to_message(raw: Any, job: int, now: float, source: Source, rank: int | None = None) -> NewMessage:
    """The checked message in plain data. Raises InvalidInput, and TooLarge for a body beyond `MAX_BODY` characters."""
    if not isinstance(raw, dict):
        raise InvalidInput(f"a message is an object with `type` and `body`, not {type(raw).__name__}")
    kind = raw.get("type", raw.get("kind"))
    if not isinstance(kind, str):
        raise refuse("type", kind, "a message needs a type: metrics, error, info, log, …")
    check_kind(kind)
    known = _KNOWN | {kind}
    for key in raw:
        if key not in known:
            raise refuse(key, key, f"unknown field; a message has {', '.join(sorted(known))}")
    body = next((raw[key] for key in ("body", kind, "data") if key in raw), None)
    if depth(body) > MAX_DEPTH:
        raise refuse("body", kind, f"at most {MAX_DEPTH} levels of objects and lists")
    return NewMessage(job, kind, _body(kind, body), _time(raw.get("at"), now), source, _rank(raw.get("rank"), rank))


def body_bytes(body: dict[str, Any]) -> bytes:
    """The body as JSON; what is no number becomes null. Raises TooLarge, InvalidInput."""
    try:
        text = msgspec.json.encode(body)
    except (ValueError, TypeError, RecursionError) as error:
        # Half of a surrogate pair, for one.
        raise InvalidInput(f"body: can't be written as JSON: {error}") from None
    # Characters, not bytes: no shorter text has so many.
    if len(text) > MAX_BODY and (size := len(text.decode())) > MAX_BODY:
        raise _too_large(size)
    return text


def _body(kind: str, body: Any) -> dict[str, Any]:
    if kind == METRICS:
        return metrics_body(body)
    if isinstance(body, dict):
        return body
    if body is None:
        return {}
    # A text is the shortest log or piece of news.
    if isinstance(body, str):
        return {"text": body}
    raise refuse("body", type(body).__name__, "must be an object, or a text")


def _time(at: Any, now: float) -> float:
    if at is None:
        return now
    if isinstance(at, bool) or not isinstance(at, int | float) or not 0 <= at < math.inf:
        raise refuse("at", at, "must be Unix time in seconds")
    return float(min(at, now + _AHEAD))


def _rank(given: Any, known: int | None) -> int | None:
    if known is not None or given is None:
        return known
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= MAX_RANK:
        raise refuse("rank", given, f"must be a number from 0 to {MAX_RANK}")
    return given


def _too_large(size: int) -> TooLarge:
    return TooLarge(
        f"the body of a message has {size} characters, at most {MAX_BODY} are taken: "
        "write large things to files, and say where they lie",
        limit=MAX_BODY,
    )
