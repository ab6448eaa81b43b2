"""Schedules: the cron jobs, and a preview of an expression's fire times."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from litestar import Response, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, Operation, Reference, RequestBody

from runyard.api.access import caller_of
from runyard.api.context import AnyRequest, context_of, json_object
from runyard.api.problem import refusal
from runyard.model.check import refuse
from runyard.model.state import State


class PreviewRequest(msgspec.Struct, kw_only=True):
    cron: str
    timezone: str = "UTC"
    count: int = 5


class Preview(msgspec.Struct):
    fire_times: list[datetime]


class ScheduleDoc(msgspec.Struct, kw_only=True):
    job: str
    name: str | None
    cron: str
    timezone: str
    overlap: str
    missed: str
    state: State
    hold: bool
    next_fire_at: datetime | None


class ScheduleList(msgspec.Struct, kw_only=True):
    items: list[ScheduleDoc]
    next: str | None = None


@dataclass
class _PreviewBody(Operation):
    def __post_init__(self) -> None:
        reference = Reference("#/components/schemas/PreviewRequest")
        self.request_body = RequestBody({"application/json": OpenAPIMediaType(reference)}, required=True)


@get(
    "/schedules",
    responses={200: ResponseSpec(ScheduleList, description="All of them.", generate_examples=False)},
    summary="List schedules",
)
async def list_schedules(request: AnyRequest) -> Response[bytes]:
    """The live cron jobs, those first that fire first."""
    items = []
    caller = caller_of(request)
    for record in context_of(request).service.schedules():
        if not caller.may_see(record.owner):
            continue
        schedule = record.spec.schedule
        assert schedule is not None
        items.append(
            ScheduleDoc(
                job=str(record.id),
                name=record.spec.name,
                cron=schedule.cron,
                timezone=schedule.timezone,
                overlap=schedule.overlap,
                missed=schedule.missed,
                state=record.state,
                hold=record.hold,
                next_fire_at=None if record.next_fire is None else datetime.fromtimestamp(record.next_fire, UTC),
            )
        )
    return Response(msgspec.json.encode(ScheduleList(items=items)), media_type="application/json")


@post(
    "/schedules:preview",
    status_code=200,
    operation_class=_PreviewBody,
    responses={
        200: ResponseSpec(Preview, description="The next fire times.", generate_examples=False),
        400: refusal("The expression is wrong; says where."),
    },
    summary="Preview fire times",
)
async def preview_schedule(request: AnyRequest) -> Response[bytes]:
    """The next times that a cron expression names, daylight saving included."""
    fields = json_object(await request.body(), frozenset({"cron", "timezone", "count"}))
    expression, timezone, count = fields.get("cron"), fields.get("timezone", "UTC"), fields.get("count", 5)
    if not isinstance(expression, str) or not expression.strip() or len(expression) > 1000:
        raise refuse("cron", expression, 'must be a cron expression, for example "*/5 * * * *"')
    if not isinstance(timezone, str):
        raise refuse("timezone", timezone, "must be the name of a time zone")
    if not isinstance(count, int) or isinstance(count, bool):
        raise refuse("count", count, "must be a whole number")
    # A thousand rare times take half a second to find.
    moments = await asyncio.to_thread(context_of(request).service.preview, expression, timezone, count)
    body = Preview([datetime.fromtimestamp(moment, UTC) for moment in moments])
    return Response(msgspec.json.encode(body), media_type="application/json")


SCHEDULE_ROUTES = [list_schedules, preview_schedule]
