"""Jobs: submit, list, show, act."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from litestar import Response, delete, get, patch, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.params import FromQuery, HeaderParameter, PathParameter, QueryParameter

from runyard.api.access import caller_of, find_own, find_seen, owner_filter, permitted
from runyard.api.answer import JsonAnswer
from runyard.api.context import AnyRequest, context_of, json_object
from runyard.api.problem import problem_body, refusal
from runyard.model.check import build_spec, decode_spec, explain_json, refuse
from runyard.model.errors import InvalidInput, RunyardError, TooLarge
from runyard.model.ids import MAX_ID
from runyard.model.job import Explanation, JobDoc, JobSpec, RunDoc
from runyard.model.signals import signal_number
from runyard.model.state import State
from runyard.service.service import Answer, Replay
from runyard.store.batch import Batch
from runyard.store.listing import Filter

MAX_LIMIT = 1000
MAX_WAIT = 300.0
NDJSON = "application/x-ndjson"

_encoder = msgspec.json.Encoder()

Ref = Annotated[str, PathParameter(description="Decimal id, F58 id, or name.")]
Limit = Annotated[int, QueryParameter(ge=1, le=MAX_LIMIT, description="Items of a page at most.")]
Cursor = Annotated[str | None, QueryParameter(description="`next` of the page before.")]


class JobList(msgspec.Struct, kw_only=True):
    items: list[JobDoc]
    next: str | None
    """`cursor` of the next page; null at the end. A page may be short, or empty, and yet not be the last."""


class RunList(msgspec.Struct, kw_only=True):
    items: list[RunDoc]
    next: str | None


class BatchItem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What became of one job of a bulk request: `job` with status 201, or `problem`."""

    status: int
    job: JobDoc | msgspec.UnsetType = msgspec.UNSET
    problem: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class BatchResult(msgspec.Struct):
    items: list[BatchItem]


class Amendment(msgspec.Struct, kw_only=True):
    priority: int | None = None
    hold: bool | None = None


class SignalRequest(msgspec.Struct, kw_only=True):
    signal: str


_schema = msgspec.json.schema_components
_SPEC_FIELDS = [field.name for field in msgspec.structs.fields(JobSpec)]


@dataclass
class SpecBody(Operation):
    """The handlers read raw bodies, so that bad ones get answers that teach; this says what they take."""

    def __post_init__(self) -> None:
        self.request_body = RequestBody({"application/json": OpenAPIMediaType(_ref(JobSpec))}, required=True)


@dataclass
class _BatchBody(Operation):
    def __post_init__(self) -> None:
        array = Schema(type="array", items=_ref(JobSpec))  # type: ignore[arg-type]
        lines = Schema(type="string", description="One job specification on each line.")  # type: ignore[arg-type]
        self.request_body = RequestBody(
            {"application/json": OpenAPIMediaType(array), NDJSON: OpenAPIMediaType(lines)}, required=True
        )


@dataclass
class _AmendmentBody(Operation):
    def __post_init__(self) -> None:
        self.request_body = RequestBody({"application/json": OpenAPIMediaType(_ref(Amendment))}, required=True)


@dataclass
class _SignalBody(Operation):
    def __post_init__(self) -> None:
        self.request_body = RequestBody({"application/json": OpenAPIMediaType(_ref(SignalRequest))}, required=True)


def _ref(struct: type[msgspec.Struct]) -> Any:
    from litestar.openapi.spec import Reference

    return Reference(f"#/components/schemas/{struct.__name__}")


def says(struct: Any, text: str) -> ResponseSpec:
    return ResponseSpec(struct, description=text, generate_examples=False)


_REFUSED = refusal("The request is refused.")
_MISSING = refusal("There is no such job.")
_WRONG_STATE = refusal("The job's state does not allow this.")


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response[bytes]:
    return JsonAnswer(_encoder.encode(value), status, headers)


def _job(doc: JobDoc, status: int = 200) -> Response[bytes]:
    return _json(doc, status, {"ETag": f'"{doc.version}"'})


@post(
    "/jobs",
    operation_class=SpecBody,
    responses={201: says(JobDoc, "The job is stored, durably."), 400: _REFUSED, 409: _WRONG_STATE, 429: _REFUSED},
    summary="Submit a job",
)
async def submit_job(
    request: AnyRequest,
    idempotency_key: Annotated[str | None, HeaderParameter(name="Idempotency-Key", max_length=255)] = None,
) -> Response[bytes]:
    """Takes one job. With an `Idempotency-Key`, a repeated request gets the first one's answer."""
    context, caller = context_of(request), caller_of(request)
    caller.must_submit()
    body = await request.body()
    specs = await permitted(request, [decode_spec(body)])

    async def act(keep: Callable[[Batch, Answer], None]) -> Answer:
        def render(outcomes: list[JobDoc | RunyardError]) -> Answer:
            (outcome,) = outcomes
            if isinstance(outcome, RunyardError):
                raise outcome
            return Answer(201, _encoder.encode(outcome))

        return await context.service.submit(specs, render, origin="native", owner=caller.name, keep=keep)

    answer = await context.service.once(replay(idempotency_key, caller.name, b"job", body), act)
    return answered(answer)


@post(
    "/jobs:batch",
    status_code=200,
    operation_class=_BatchBody,
    responses={
        200: says(BatchResult, "What became of each job, in order."),
        400: _REFUSED,
        409: _WRONG_STATE,
        413: _REFUSED,
    },
    summary="Submit many jobs",
)
async def submit_batch(
    request: AnyRequest,
    idempotency_key: Annotated[str | None, HeaderParameter(name="Idempotency-Key", max_length=255)] = None,
) -> Response[bytes]:
    """Takes many jobs in one transaction, as a JSON array or as one JSON object a line. A refused job does not stop the
    others; jobs may depend on each other by name."""
    context, caller = context_of(request), caller_of(request)
    caller.must_submit()
    body = await request.body()
    lines = request.headers.get("content-type", "").partition(";")[0].strip().lower() == NDJSON
    # Ten thousand specifications, and explanations of what is wrong with them, take seconds.
    specs = await permitted(request, await asyncio.to_thread(_specs, body, lines, context.max_batch))

    async def act(keep: Callable[[Batch, Answer], None]) -> Answer:
        def render(outcomes: list[JobDoc | RunyardError]) -> Answer:
            return Answer(200, _encoder.encode(BatchResult([_batch_item(outcome) for outcome in outcomes])))

        return await context.service.submit(specs, render, origin="native", owner=caller.name, keep=keep)

    answer = await context.service.once(replay(idempotency_key, caller.name, b"batch", body), act)
    return answered(answer)


def _specs(body: bytes, lines: bool, most: int) -> list[JobSpec | RunyardError]:
    parts: list[bytes] | list[msgspec.Raw]
    if lines:
        parts = [line for line in body.split(b"\n") if line.strip()]
    else:
        try:
            parts = msgspec.json.decode(body, type=list[msgspec.Raw])
        except msgspec.ValidationError:
            raise InvalidInput(f"the body must be a JSON array of jobs; one a line is {NDJSON}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise explain_json(body, error) from None
    if not parts:
        raise InvalidInput("the body has no job in it")
    if len(parts) > most:
        raise TooLarge(f"{len(parts)} jobs in one request, at most {most} are taken ([limits] max_batch)", limit=most)
    specs: list[JobSpec | RunyardError] = []
    for part in parts:
        try:
            specs.append(decode_spec(part))
        except RunyardError as error:
            specs.append(error)
    return specs


def _batch_item(outcome: JobDoc | RunyardError) -> BatchItem:
    if isinstance(outcome, RunyardError):
        return BatchItem(status=outcome.status, problem=problem_body(outcome))
    return BatchItem(status=201, job=outcome)


def replay(key: str | None, owner: str, route: bytes, body: bytes) -> Replay | None:
    # The route counts: one line of NDJSON is also a job.
    return None if key is None else Replay(key, owner, hashlib.sha256(route + b" " + body).digest())


def answered(answer: Answer) -> Response[bytes]:
    headers = {"Idempotency-Replayed": "true"} if answer.replayed else {}
    if answer.status == 201:
        head = msgspec.json.decode(answer.body, type=_Head)
        headers |= {"Location": f"/api/v1/jobs/{head.id}", "ETag": f'"{head.version}"'}
    return JsonAnswer(answer.body, answer.status, headers)


class _Head(msgspec.Struct):
    id: str
    version: int


@get("/jobs", responses={200: says(JobList, "A page, newest first."), 400: _REFUSED}, summary="List jobs")
async def list_jobs(
    request: AnyRequest,
    state_filter: Annotated[
        str | None, QueryParameter(name="state", description="States, separated by commas.")
    ] = None,
    kind: FromQuery[str | None] = None,
    origin: FromQuery[str | None] = None,
    owner: FromQuery[str | None] = None,
    name: FromQuery[str | None] = None,
    label: Annotated[
        list[str] | None, QueryParameter(description="`key=value`; may be repeated, all must hold.")
    ] = None,
    q: Annotated[str | None, QueryParameter(description="Part of the name or command.", max_length=500)] = None,
    since: Annotated[
        str | None, QueryParameter(description="Submitted then or later: RFC 3339, or Unix seconds.")
    ] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Response[bytes]:
    """Jobs, newest first. All conditions must hold."""
    wanted = Filter(
        states=parse_states(state_filter),
        kind=kind,
        origin=origin,
        owner=owner_filter(caller_of(request), owner),
        name=name,
        labels=_labels(label or []),
        q=q,
        since=_moment("since", since),
        before=_cursor(cursor),
        limit=limit,
    )
    items, following = await context_of(request).service.list_jobs(wanted)
    return _json(JobList(items=items, next=None if following is None else str(following)))


def parse_states(text: str | None) -> frozenset[State]:
    """The states in a list separated by commas. Raises InvalidInput."""
    try:
        return frozenset(State(word.strip()) for word in text.split(",")) if text else frozenset()
    except ValueError:
        raise refuse("state", text, f"must be some of {', '.join(State)}, separated by commas") from None


def _labels(texts: list[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise refuse("label", text, "must be written key=value")
        labels[key] = value
    return labels


def _moment(field: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        try:
            # One that can't be a date is no time either.
            return datetime.fromtimestamp(float(text), UTC).timestamp()
        except ValueError:
            # A `+` that was not escaped in the address has become a space.
            moment = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, OSError):
        raise refuse(field, text, "must be a time: RFC 3339, or Unix seconds") from None


def _cursor(text: str | None) -> int | None:
    return None if text is None else _whole(text, text)


def _whole(text: str, cursor: str) -> int:
    """A number that the store can hold."""
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= MAX_ID):
        raise refuse("cursor", cursor, "must be the `next` of an earlier page")
    return int(text)


@get(
    "/jobs/{ref:str}",
    responses={200: says(JobDoc, "The job."), 304: says(None, "It is as you know it."), 404: _MISSING},
    summary="Show a job",
)
async def show_job(
    request: AnyRequest,
    ref: Ref,
    if_none_match: Annotated[str | None, HeaderParameter(name="If-None-Match")] = None,
) -> Response[bytes]:
    """The job with the present or last run of each replica."""
    service = context_of(request).service
    record = await find_seen(request, ref)
    if if_none_match is not None and f'"{record.version}"' in if_none_match:
        return Response(b"", status_code=304, headers={"ETag": f'"{record.version}"'})
    return _job(service.document(record))


@patch(
    "/jobs/{ref:str}",
    operation_class=_AmendmentBody,
    responses={200: says(JobDoc, "The job."), 400: _REFUSED, 404: _MISSING, 409: _WRONG_STATE, 412: _WRONG_STATE},
    summary="Change priority or hold",
)
async def amend_job(
    request: AnyRequest,
    ref: Ref,
    if_match: Annotated[str | None, HeaderParameter(name="If-Match")] = None,
) -> Response[bytes]:
    """Changes what may be changed of a live job. With `If-Match`, only if it is still that version."""
    service = context_of(request).service
    fields = json_object(await request.body(), frozenset({"priority", "hold"}))
    if not fields:
        raise InvalidInput("nothing to change: give priority, hold, or both")
    priority, hold = fields.get("priority"), fields.get("hold")
    if priority is not None and (not isinstance(priority, int) or isinstance(priority, bool)):
        raise refuse("priority", priority, "must be a whole number")
    if hold is not None and not isinstance(hold, bool):
        raise refuse("hold", hold, "must be true or false")
    if priority is not None:
        build_spec({"command": ["-"], "priority": priority})
    version = None
    if if_match is not None and if_match.strip() != "*":
        text = if_match.strip().removeprefix("W/").strip('"')
        version = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    return _job(await service.amend(await find_own(request, ref), priority, hold, version))


@delete(
    "/jobs/{ref:str}",
    responses={204: says(None, "It is gone."), 404: _MISSING, 409: _WRONG_STATE},
    summary="Delete an ended job",
)
async def delete_job(request: AnyRequest, ref: Ref) -> None:
    """Removes an ended job with its runs and its output. Its events stay."""
    service = context_of(request).service
    record = await find_own(request, ref)
    # Its owner, who follows its events, is to see this one, too.
    context_of(request).remember_owner(record)
    await service.delete(record)


@post(
    "/jobs/{ref:str}/cancel",
    status_code=200,
    responses={200: says(JobDoc, "It is cancelled, or stopping."), 404: _MISSING, 409: _WRONG_STATE},
    summary="Cancel a job",
)
async def cancel_job(request: AnyRequest, ref: Ref) -> Response[bytes]:
    """Ends the job for good: its stop signal, then SIGKILL after its grace."""
    service = context_of(request).service
    json_object(await request.body(), frozenset())
    return _job(await service.cancel(await find_own(request, ref)))


@post(
    "/jobs/{ref:str}/restart",
    status_code=200,
    responses={200: says(JobDoc, "It starts anew."), 404: _MISSING, 409: _WRONG_STATE},
    summary="Restart a job",
)
async def restart_job(request: AnyRequest, ref: Ref) -> Response[bytes]:
    """Stops what runs of the job, and starts it anew. An ended job is brought back."""
    service = context_of(request).service
    json_object(await request.body(), frozenset())
    return _job(await service.restart(await find_own(request, ref)))


@post(
    "/jobs/{ref:str}/signal",
    status_code=200,
    operation_class=_SignalBody,
    responses={200: says(JobDoc, "It is sent."), 400: _REFUSED, 404: _MISSING, 409: _WRONG_STATE},
    summary="Send a signal",
)
async def signal_job(request: AnyRequest, ref: Ref) -> Response[bytes]:
    """Sends a signal to the process group of every run that is up."""
    service = context_of(request).service
    fields = json_object(await request.body(), frozenset({"signal"}))
    text = fields.get("signal")
    number = signal_number(text) if isinstance(text, str | int) and not isinstance(text, bool) else None
    if number is None:
        raise refuse("signal", text, 'must name a signal, for example "SIGUSR1"')
    return _job(await service.signal(await find_own(request, ref), number))


@get(
    "/jobs/{ref:str}/wait",
    responses={200: says(JobDoc, "The job: ended, or as it is at the end of the time."), 404: _MISSING},
    summary="Wait for a job's end",
)
async def wait_job(
    request: AnyRequest, ref: Ref, timeout: Annotated[float, QueryParameter(ge=0, le=MAX_WAIT)] = 30.0
) -> Response[bytes]:
    """Answers when the job has ended, or after `timeout` seconds."""
    service = context_of(request).service
    return _job(await service.wait(await find_seen(request, ref), timeout))


@get("/jobs/{ref:str}/why", responses={200: says(Explanation, "Why."), 404: _MISSING}, summary="Explain a job's state")
async def explain_job(request: AnyRequest, ref: Ref) -> Response[bytes]:
    """Why the job is where it is: what it waits for, who holds that, its position, and its likely start."""
    service = context_of(request).service
    return _json(service.why(await find_seen(request, ref), owner_filter(caller_of(request), None)))


@get(
    "/jobs/{ref:str}/runs", responses={200: says(RunList, "Newest first."), 404: _MISSING}, summary="List a job's runs"
)
async def list_runs(request: AnyRequest, ref: Ref, limit: Limit = 100, cursor: Cursor = None) -> Response[bytes]:
    """Every run that the job has had, newest first."""
    service = context_of(request).service
    before: tuple[int, int] | None = None
    if cursor is not None:
        attempt, _, replica = cursor.partition(".")
        before = _whole(attempt, cursor), _whole(replica, cursor)
    runs, following = await service.runs(await find_seen(request, ref), limit, before)
    return _json(RunList(items=runs, next=None if following is None else f"{following[0]}.{following[1]}"))


JOB_ROUTES = [
    submit_job,
    submit_batch,
    list_jobs,
    show_job,
    amend_job,
    delete_job,
    cancel_job,
    restart_job,
    signal_job,
    wait_job,
    explain_job,
    list_runs,
]
