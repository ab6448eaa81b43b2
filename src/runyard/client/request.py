"""Every request of the native API as a value, and how its answer is read. Pure: both clients send what stands here."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import NoneType
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from runyard.client.document import (
    BatchAnswer,
    EventPage,
    FireTimes,
    JobPage,
    JobUsage,
    NodePage,
    RunPage,
    SchedulePage,
    VersionDoc,
)
from runyard.client.error import UnexpectedAnswer, from_answer
from runyard.model.errors import InvalidInput
from runyard.model.flow import FlowGraph, FlowStatus
from runyard.model.job import Explanation, JobDoc, JobSpec

API = "/api/v1"
DEFAULT_URL = "http://127.0.0.1:7070"
#: Jobs in one page, at most.
PAGE = 1000
#: Bytes of one bulk request; the server's own bound is 8 MiB unless configured otherwise.
BULK_BYTES = 4 * 1024 * 1024
#: Seconds that one long poll lasts, at most.
POLL = 30.0

T = TypeVar("T")
Spec = JobSpec | Mapping[str, Any]
Params = tuple[tuple[str, str], ...]


class Request(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One request. `repeatable`: sending it twice does no more than sending it once, so a lost answer is no harm."""

    method: str
    path: str
    answer: type[T]
    params: Params = ()
    headers: dict[str, str] = {}
    content: bytes | None = None
    repeatable: bool = False
    patience: float = 0.0
    """Seconds that the server may hold back the answer on purpose."""


def read(request: Request[T], url: str, status: int, content_type: str, body: bytes) -> T:
    """The decoded answer. Raises the RunyardError that a problem document stands for."""
    if not 200 <= status < 300:
        raise from_answer(url, status, content_type, body)
    if request.answer is NoneType:
        return None  # type: ignore[return-value]
    try:
        return msgspec.json.decode(body, type=request.answer)
    except msgspec.MsgspecError as error:
        raise UnexpectedAnswer(
            f"the answer to {request.method} {request.path} is not a {request.answer.__name__} ({error}); "
            "are client and server of the same version?"
        ) from error


def job_path(ref: str | int, action: str = "") -> str:
    """The path of a job, by id, F58 form or name."""
    text = str(ref)
    if text in ("", ".", ".."):
        raise InvalidInput(f"{text!r} names no job; give an id, its F58 form or a name")
    return f"{API}/jobs/{quote(text, safe='')}" + (f"/{action}" if action else "")


def _params(**values: Any) -> Params:
    """Query parameters in wire form; None is left out."""
    pairs: list[tuple[str, str]] = []
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, bool):
            value = "true" if value else "false"
        elif isinstance(value, datetime):
            if value.tzinfo is None:
                raise InvalidInput(f"{name}: {value} has no time zone; use for example datetime.now(UTC)")
            value = value.isoformat()
        elif isinstance(value, (list, tuple, set, frozenset)):
            value = ",".join(str(item) for item in value)
        pairs.append((name, str(value)))
    return tuple(pairs)


def spec_bytes(spec: Spec) -> bytes:
    """A specification as JSON. A mapping goes to the server as it is: the server's check is the only one."""
    return msgspec.json.encode(spec if isinstance(spec, JobSpec) else dict(spec))


def new_key() -> str:
    """A fresh idempotency key."""
    return uuid.uuid4().hex


# Jobs -------------------------------------------------------------------------------------------------------------


def submit(spec: Spec, idempotency_key: str | None = None) -> Request[JobDoc]:
    return Request(
        method="POST",
        path=f"{API}/jobs",
        answer=JobDoc,
        headers={"Content-Type": "application/json", "Idempotency-Key": idempotency_key or new_key()},
        content=spec_bytes(spec),
        repeatable=True,
    )


def submit_bulk(lines: Sequence[bytes]) -> Request[BatchAnswer]:
    return Request(
        method="POST",
        path=f"{API}/jobs:batch",
        answer=BatchAnswer,
        headers={"Content-Type": "application/x-ndjson", "Idempotency-Key": new_key()},
        content=b"\n".join(lines) + b"\n",
        repeatable=True,
        patience=POLL,
    )


def bulks(specs: Iterable[Spec], chunk: int) -> Iterator[list[bytes]]:
    """Encoded specifications in groups of at most `chunk` jobs and about `BULK_BYTES` bytes."""
    if chunk < 1:
        raise InvalidInput(f"chunk must be at least 1, got {chunk}")
    group: list[bytes] = []
    size = 0
    for spec in specs:
        line = spec_bytes(spec)
        if group and (len(group) == chunk or size + len(line) > BULK_BYTES):
            yield group
            group, size = [], 0
        group.append(line)
        size += len(line) + 1
    if group:
        yield group


def jobs(
    *,
    state: Iterable[str] | str | None = None,
    kind: str | None = None,
    origin: str | None = None,
    owner: str | None = None,
    label: Mapping[str, str] | None = None,
    q: str | None = None,
    since: datetime | float | str | None = None,
    name: str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> Request[JobPage]:
    """One page. `limit` is how many are still wanted."""
    states = state if state is None or isinstance(state, str) else tuple(state)
    params = _params(state=states, kind=kind, origin=origin, owner=owner, q=q, since=since, name=name)
    params += tuple(("label", f"{key}={value}") for key, value in (label or {}).items())
    params += _params(limit=PAGE if limit is None else min(PAGE, limit), cursor=cursor)
    return Request(method="GET", path=f"{API}/jobs", answer=JobPage, params=params, repeatable=True)


def job(ref: str | int) -> Request[JobDoc]:
    return Request(method="GET", path=job_path(ref), answer=JobDoc, repeatable=True)


def amend(
    ref: str | int, *, priority: int | None = None, hold: bool | None = None, version: int | None = None
) -> Request[JobDoc]:
    change = {key: value for key, value in (("priority", priority), ("hold", hold)) if value is not None}
    if not change:
        raise InvalidInput("nothing to change; give priority, hold or both")
    headers = {"Content-Type": "application/json"} | ({"If-Match": f'"{version}"'} if version is not None else {})
    return Request(
        method="PATCH",
        path=job_path(ref),
        answer=JobDoc,
        headers=headers,
        content=msgspec.json.encode(change),
        repeatable=version is None,
    )


def _action(ref: str | int, name: str, body: Mapping[str, Any], *, repeatable: bool) -> Request[JobDoc]:
    return Request(
        method="POST",
        path=job_path(ref, name),
        answer=JobDoc,
        headers={"Content-Type": "application/json"},
        content=msgspec.json.encode(body),
        repeatable=repeatable,
    )


def cancel(ref: str | int) -> Request[JobDoc]:
    return _action(ref, "cancel", {}, repeatable=False)


def restart(ref: str | int) -> Request[JobDoc]:
    return _action(ref, "restart", {}, repeatable=False)


def signal(ref: str | int, name: str) -> Request[JobDoc]:
    return _action(ref, "signal", {"signal": name}, repeatable=False)


def delete(ref: str | int) -> Request[None]:
    return Request(method="DELETE", path=job_path(ref), answer=NoneType)


def wait(ref: str | int, seconds: float) -> Request[JobDoc]:
    return Request(
        method="GET",
        path=job_path(ref, "wait"),
        answer=JobDoc,
        params=_params(timeout=round(seconds, 3)),
        repeatable=True,
        patience=seconds,
    )


def why(ref: str | int) -> Request[Explanation]:
    return Request(method="GET", path=job_path(ref, "why"), answer=Explanation, repeatable=True)


def runs(ref: str | int, *, limit: int | None = None, cursor: str | None = None) -> Request[RunPage]:
    params = _params(limit=PAGE if limit is None else min(PAGE, limit), cursor=cursor)
    return Request(method="GET", path=job_path(ref, "runs"), answer=RunPage, params=params, repeatable=True)


# Streams ----------------------------------------------------------------------------------------------------------


def logs(
    ref: str | int,
    *,
    stream: str,
    replica: int,
    attempt: int | None,
    offset: int | None = None,
    tail: int | None = None,
    follow: bool = False,
    search: str | None = None,
) -> Request[bytes]:
    if stream not in ("stdout", "stderr"):
        raise InvalidInput(f'{stream!r} is not a stream; use "stdout" or "stderr"')
    params = _params(
        stream=stream, replica=replica, attempt=attempt, offset=offset, tail=tail, follow=follow or None, search=search
    )
    return Request(
        method="GET",
        path=job_path(ref, "logs"),
        answer=bytes,
        params=params,
        # A compressed stream would arrive late and make offsets meaningless.
        headers={"Accept-Encoding": "identity"},
        # How far the lines that were found reach into the output is not known: a search can't go on in the middle.
        repeatable=search is None,
    )


def events(
    *,
    after: int | str | None = None,
    job: str | int | None = None,
    types: Iterable[str] | str | None = None,
    state: Iterable[str] | str | None = None,
    limit: int | None = None,
    wait: float = 0.0,
) -> Request[EventPage]:
    """One page; with `wait` the server holds an empty one back for so many seconds."""
    return Request(
        method="GET",
        path=f"{API}/events",
        answer=EventPage,
        params=_event_params(after, job, types, state) + _params(limit=limit, wait=wait or None),
        repeatable=True,
        patience=wait,
    )


def event_stream(
    *,
    after: int | str,
    job: str | int | None = None,
    types: Iterable[str] | str | None = None,
    state: Iterable[str] | str | None = None,
) -> Request[bytes]:
    return Request(
        method="GET",
        path=f"{API}/events",
        answer=bytes,
        params=_event_params(after, job, types, state),
        headers={"Accept": "application/x-ndjson", "Accept-Encoding": "identity"},
        repeatable=True,
    )


def _event_params(
    after: int | str | None,
    job: str | int | None,
    types: Iterable[str] | str | None,
    state: Iterable[str] | str | None,
) -> Params:
    def listed(value: Iterable[str] | str | None) -> tuple[str, ...] | str | None:
        return value if value is None or isinstance(value, str) else tuple(value)

    return _params(after=after, job=job, type=listed(types), state=listed(state))


# Flows ------------------------------------------------------------------------------------------------------------


def submit_flow(spec: Spec, idempotency_key: str | None = None) -> Request[JobDoc]:
    return Request(
        method="POST",
        path=f"{API}/flows",
        answer=JobDoc,
        headers={"Content-Type": "application/json", "Idempotency-Key": idempotency_key or new_key()},
        content=spec_bytes(spec),
        repeatable=True,
        patience=POLL,
    )


def check_flow(spec: Spec) -> Request[FlowGraph]:
    return Request(
        method="POST",
        path=f"{API}/flows",
        answer=FlowGraph,
        params=_params(check=True),
        headers={"Content-Type": "application/json"},
        content=spec_bytes(spec),
        repeatable=True,
        patience=POLL,
    )


def _flow(ref: str | int, what: str, answer: type[T]) -> Request[T]:
    path = job_path(ref, what).replace("/jobs/", "/flows/", 1)
    return Request(method="GET", path=path, answer=answer, repeatable=True, patience=POLL)


def flow_graph(ref: str | int) -> Request[FlowGraph]:
    return _flow(ref, "graph", FlowGraph)


def flow_status(ref: str | int) -> Request[FlowStatus]:
    return _flow(ref, "statistics", FlowStatus)


# Everything else --------------------------------------------------------------------------------------------------


def usage(ref: str | int, since: float | None) -> Request[JobUsage]:
    params = _params(since=since)
    return Request(method="GET", path=job_path(ref, "usage"), answer=JobUsage, params=params, repeatable=True)


def nodes() -> Request[NodePage]:
    return Request(method="GET", path=f"{API}/nodes", answer=NodePage, repeatable=True)


def schedules(cursor: str | None = None) -> Request[SchedulePage]:
    params = _params(cursor=cursor)
    return Request(method="GET", path=f"{API}/schedules", answer=SchedulePage, params=params, repeatable=True)


def preview(cron: str, timezone: str, count: int) -> Request[FireTimes]:
    return Request(
        method="POST",
        path=f"{API}/schedules:preview",
        answer=FireTimes,
        headers={"Content-Type": "application/json"},
        content=msgspec.json.encode({"cron": cron, "timezone": timezone, "count": count}),
        repeatable=True,
    )


def version() -> Request[VersionDoc]:
    return Request(method="GET", path="/version", answer=VersionDoc, repeatable=True)
