"""The protocol's words on the wire: addresses in their three spellings, parameters, reply bodies. Pure.

Sources: the seed document tango-rest-api, and spec/tango.md 1.2 to 1.7. What real members do differently is taken in;
what is sent is what most of them understand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple
from urllib.parse import quote, unquote_plus, urlsplit

import msgspec

#: Bytes of a reply that are looked at, and characters that a token may have.
MAX_BODY, MAX_TOKEN = 4096, 50
#: Parameters of one request that are looked at.
MAX_PARAMETERS = 100

START, STOP, STATUS_REQUEST = "start", "stop", "status_request"
STATUS_REPORT, STATUS_UPDATE = "status_report", "status_update"
MEMBER_OPERATIONS = frozenset({START, STOP, STATUS_REQUEST})
MANAGER_OPERATIONS = frozenset({STATUS_REPORT, STATUS_UPDATE})

#: What a member says; the document's words, sent without quotes.
STARTING, FINISHED, ERROR = "starting", "finished", "error"
TEXT_PLAIN = "text/plain; charset=utf-8"


class MemberState(StrEnum):
    """The states of the document's diagram."""

    READY = "ready"
    STARTED = "started"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"
    COMPLETED = "completed"


class UrlStyle(StrEnum):
    """How calls to a member are spelled."""

    PATH = "path"
    """`/start?user_id=…`: what every real container understands."""
    QUERY = "query"
    """`/?start&user_id=…`: the document's letter."""
    AUTO = "auto"
    """The first; the second if the member does not know the first."""


class Kind(StrEnum):
    """What the outcome of a call means."""

    YES = "yes"
    """Accepted."""
    NO = "no"
    """Refused."""
    STATE = "state"
    EMPTY = "empty"
    """A member that did not recognise the call; to `stop`, one that says nothing about it."""
    NO_OPERATION = "no_operation"
    """It has no such route: another spelling may help."""
    GARBLED = "garbled"
    """Something that is no reply: what was known before stays."""
    CRASHED = "crashed"
    """5xx."""
    SILENT = "silent"
    """The request went out, and no whole answer came."""
    UNREACHABLE = "unreachable"
    """Nothing was sent: no connection could be made."""


class Reply(msgspec.Struct, frozen=True):
    """The outcome of one call to a member. `text` is for people, and short."""

    kind: Kind
    state: MemberState | None = None
    text: str = ""
    already: bool = False
    """Refused because it runs already."""


_YES = {
    START: frozenset({"starting", "started", "running", "success", "ok", "resumed"}),
    STOP: frozenset({"finished", "stopped", "stopping", "success", "ok", "completed"}),
}
_NO = {START: frozenset({"error", "failed", "fail"}), STOP: frozenset({"error", "failed"})}
_STATES = {
    **{str(state): state for state in MemberState},
    "starting": MemberState.STARTED,
    "finished": MemberState.COMPLETED,
    "success": MemberState.COMPLETED,
    "stopping": MemberState.RUNNING,
    "resumed": MemberState.RUNNING,
    "building": MemberState.RUNNING,
    "preparing": MemberState.RUNNING,
    "paused": MemberState.STOPPED,
}
_WORDS = frozenset({*_STATES, *_YES[START], *_YES[STOP], *_NO[START], "unknown"})
_FIELDS = ("status", "state", "result", "detail", "message")
#: What the frameworks answer for a route that they do not have.
_NO_ROUTE = frozenset({"not found", ""})


def read_reply(operation: str, status: int, body: bytes) -> Reply:
    """What a member's answer with this HTTP status and body means (spec 1.6 and 1.7)."""
    text = body[:MAX_BODY].decode("utf-8", "replace").removeprefix("\ufeff").strip()
    value = _object(text) if text.startswith("{") else None
    if status == 404:
        return _missing(operation, text, value)
    if status >= 500:
        return Reply(Kind.CRASHED, text=_shown(status, text))
    if status == 204 and operation != START:
        return Reply(Kind.STATE, MemberState.READY) if operation == STATUS_REQUEST else Reply(Kind.EMPTY)
    refused = status >= 400
    if value is not None:
        word, broken = _word_of(value)
        if broken:
            return _refusal(operation, status, word or text)
    elif text.startswith("{"):
        return Reply(Kind.GARBLED, text=_shown(status, text))
    else:
        word = _first_line(text)
    if operation == STATUS_REQUEST:
        state = _STATES.get(word)
        if state is not None:
            return Reply(Kind.STATE, state, word)
    elif refused:
        return _refusal(operation, status, word)
    elif word in _YES[operation]:
        return Reply(Kind.YES, text=word)
    elif word in _NO[operation]:
        return Reply(Kind.NO, text=_shown(status, text))
    if status == 200 and (word == "" or (word == "null" and operation != START)):
        # After `start`, `null` and 204 are what a framework makes of a call that was done and says nothing.
        return Reply(Kind.EMPTY, text=word)
    return Reply(Kind.GARBLED, text=_shown(status, text))


def is_whole(body: bytes) -> bool:
    """Is this already a reply, though the member has not ended its answer? Some do so hours later (spec 1.9)."""
    return len(body) <= MAX_TOKEN and _first_line(body.decode("utf-8", "replace").removeprefix("\ufeff")) in _WORDS


def _missing(operation: str, text: str, value: dict[str, Any] | None) -> Reply:
    said = _word_of(value)[0] if value is not None else ""
    if value is None or said in _NO_ROUTE:
        return Reply(Kind.NO_OPERATION, text=_shown(404, text))
    # A service that the member does not have: it knows the call, but not the project.
    if operation == STATUS_REQUEST:
        return Reply(Kind.STATE, MemberState.READY, said)
    return Reply(Kind.NO, text=_shown(404, said))


def _refusal(operation: str, status: int, text: str) -> Reply:
    if operation == STATUS_REQUEST:
        return Reply(Kind.GARBLED, text=_shown(status, text))
    return Reply(Kind.NO, text=_shown(status, text), already=status == 406)


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _word_of(value: dict[str, Any]) -> tuple[str, bool]:
    """The word in a JSON answer, and whether the object is an error."""
    present = [field for field in _FIELDS if field in value]
    word = _first_line(str(value[present[0]])) if present else ""
    code = value.get("status_code")
    wrong = isinstance(code, int) and not isinstance(code, bool) and code >= 400
    return word, wrong or present == ["detail"]


def _first_line(text: str) -> str:
    bare = text.strip().replace('"', "").strip().strip("'").strip()
    return bare.splitlines()[0].strip().lower() if bare else ""


def _shown(status: int, text: str) -> str:
    """An answer in words, short and printable."""
    line = " ".join(text.split())
    line = "".join(char if char.isprintable() else "�" for char in line)
    cut = line[:MAX_TOKEN] + ("…" if len(line) > MAX_TOKEN else "")
    return f"HTTP {status} {cut!r}" if status != 200 else repr(cut)


# Addresses --------------------------------------------------------------------------------------------------------


class Address(NamedTuple):
    host: str
    port: int
    tls: bool

    @property
    def header(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == (443 if self.tls else 80) else f"{name}:{self.port}"


def address_of(url: str) -> Address:
    """Where a URL leads. Raises ValueError if it is not one of http or https with a host."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL such as http://host:8888")
    if parts.username or parts.password:
        raise ValueError("must not hold a password: calls to members carry none")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Address(parts.hostname, port, parts.scheme == "https")


def target_of(operation: str, parameters: Mapping[str, str], style: UrlStyle) -> str:
    """Path and query of a call. The order of the parameters is kept: some members read them by position."""
    query = "&".join(f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in parameters.items())
    return f"/?{operation}&{query}" if style is UrlStyle.QUERY else f"/{operation}?{query}"


def identities(user: str, project: str) -> dict[str, str]:
    """The parameters of every call, the user's first; both empty for the check of readiness."""
    return {"user_id": user, "project_id": project}


def read_target(path: str, query: str, operations: Iterable[str]) -> tuple[str | None, dict[str, str]]:
    """The operation that a request names in any of the three spellings, or None, and its parameters.

    Path form `/start?…`, query form `/?start&…`, and the hybrid `/?start?…`; the path wins over the query. A name that
    comes twice counts the first time; both spellings of the ids (`userid`) are known.
    """
    named = path.strip("/")
    operation = named if named in operations else None
    pieces = query.split("&", MAX_PARAMETERS)[:MAX_PARAMETERS]
    found: dict[str, str] = {}
    for index, piece in enumerate(pieces):
        if index == 0 and "?" in piece:
            head, _, rest = piece.partition("?")
            if head.partition("=")[0] in operations:
                pieces[index : index + 1] = [head]
                pieces.insert(index + 1, rest)
                break
    for piece in pieces:
        key, _, value = piece.partition("=")
        key = unquote_plus(key).strip()
        if not key:
            continue
        if key in operations and not unquote_plus(value):
            if operation is None and not named:
                operation = key
            continue
        found.setdefault(ALIASES.get(key, key), unquote_plus(value))
    return operation, found


#: What some members call the ids.
ALIASES = {"userid": "user_id", "projectid": "project_id"}


def bare(text: str) -> str:
    """A value without the quotes that some members put around it; what means "none" is empty."""
    stripped = text.strip().strip("\"'").strip()
    return "" if stripped in ("None", "null", "undefined") else stripped


# Reports ----------------------------------------------------------------------------------------------------------

#: What a report's status means; None: nothing that moves a project.
_REPORTED: dict[str, MemberState | None] = {
    "success": MemberState.COMPLETED,
    "completed": MemberState.COMPLETED,
    "finished": MemberState.COMPLETED,
    "failed": MemberState.FAILED,
    "fail": MemberState.FAILED,
    "error": MemberState.FAILED,
    "stopped": MemberState.STOPPED,
    "started": MemberState.STARTED,
    "starting": MemberState.STARTED,
    "running": MemberState.RUNNING,
    "resumed": MemberState.RUNNING,
    "stopping": None,
    "ready": None,
}


class BadReport(Exception):
    """A report that can't be understood; says why."""


class Report(msgspec.Struct, frozen=True):
    """What a member reports: of which task, and how it stands."""

    container: str
    """As the member calls itself."""
    user: str
    project: str
    status: MemberState | None
    word: str


def read_report(parameters: Mapping[str, str]) -> Report:
    """The report in a request's parameters (spec 1.4). Raises BadReport."""
    given = {name: bare(parameters.get(name, "")) for name in ("container_id", "user_id", "project_id")}
    for name, value in given.items():
        if not value:
            raise BadReport(f"{name} is missing: a report says container_id, user_id, project_id and status")
        if len(value) > 255:
            raise BadReport(f"{name} is longer than 255 characters")
    word = bare(parameters.get("status") or parameters.get("result", "")).lower()
    if not word:
        raise BadReport("status is missing: say success or failed")
    if word not in _REPORTED:
        raise BadReport(f"the status {word[:50]!r} is unknown: say success or failed")
    return Report(given["container_id"], given["user_id"], given["project_id"], _REPORTED[word], word)
