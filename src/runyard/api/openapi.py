"""The API's description, OpenAPI 3.1. Made when asked for, from the routes and the documents' types.

`python -m runyard.api.openapi` prints it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec
from litestar import Litestar, Response, get
from litestar.openapi import OpenAPIConfig

import runyard
from runyard.api.access import PUBLIC
from runyard.api.context import AnyRequest
from runyard.api.health import HEALTH_ROUTES, Health, Version
from runyard.api.native import events, following, jobs, messages, native_router, nodes, projects, schedules
from runyard.api.problem import MEDIA_TYPE, Problem
from runyard.model.job import Explanation, JobDoc, JobSpec, RunDoc
from runyard.model.project import MemberList, ProjectDoc, ProjectList
from runyard.project.definition import Project
from runyard.service.series import SeriesList

_DOCUMENTS: tuple[type[msgspec.Struct], ...] = (
    JobSpec,
    JobDoc,
    RunDoc,
    Explanation,
    Problem,
    jobs.JobList,
    jobs.RunList,
    jobs.BatchResult,
    jobs.Amendment,
    jobs.SignalRequest,
    events.EventList,
    messages.MessageList,
    messages.MessagesTaken,
    SeriesList,
    nodes.NodeList,
    schedules.PreviewRequest,
    schedules.Preview,
    schedules.ScheduleList,
    Project,
    ProjectDoc,
    ProjectList,
    MemberList,
    projects.StartRequest,
    projects.AdvanceRequest,
    projects.ReportRequest,
    projects.ProjectMetrics,
    projects.ProjectFiles,
    Health,
    Version,
)


_WAYS_IN = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A token, or an access token."},
    "basic": {"type": "http", "scheme": "basic", "description": "Name and password, or name and token."},
}
#: What every route may say: the gate refuses foreign pages and large bodies before any of them is asked.
_REFUSAL = {
    "description": "It is refused; the document says why.",
    "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


@lru_cache(maxsize=1)
def openapi_document() -> dict[str, Any]:
    """The description of the native door and the health routes, as plain data."""
    config = OpenAPIConfig(
        title="Runyard",
        version=runyard.__version__,
        description="One job server for everything that runs on an AI or HPC box.",
    )
    described = Litestar(
        [native_router(), *HEALTH_ROUTES], openapi_config=config, logging_config=None
    ).openapi_schema.to_schema()
    # msgspec knows its own types best: defaults, bounds and descriptions come from there.
    _, components = msgspec.json.schema_components(_DOCUMENTS, ref_template="#/components/schemas/{name}")
    described.setdefault("components", {})["schemas"] = dict(sorted(components.items()))
    described["components"]["securitySchemes"] = _WAYS_IN
    # The first says that none is needed: so it is while accounts are off.
    described["security"] = [{}, *({name: []} for name in _WAYS_IN)]
    described["paths"] = dict(sorted(described["paths"].items()))
    for path, operations in described["paths"].items():
        for operation in operations.values():
            responses = operation["responses"]
            responses["default"] = _REFUSAL
            if "application/json" in responses.get("400", {}).get("content", ()):
                # Litestar's own document, which `problem` puts into our words.
                responses["400"] = _REFUSAL
        if path.endswith(("/events", "/messages")):
            content = operations["get"]["responses"]["200"]["content"]
            content |= {kind: {"schema": {"type": "string"}} for kind in (jobs.NDJSON, following.SSE)}
    described.pop("servers", None)
    return described


def openapi_text() -> str:
    """The description as it stands in docs/openapi.json."""
    return msgspec.json.format(msgspec.json.encode(openapi_document(), order="deterministic"), indent=2).decode() + "\n"


@get("/openapi.json", include_in_schema=False, opt=PUBLIC)
async def openapi_route(request: AnyRequest) -> Response[bytes]:
    return Response(msgspec.json.encode(openapi_document()), media_type="application/json")


if __name__ == "__main__":
    print(openapi_text(), end="")
