"""The operations of the doors, for the page that lists them."""

from __future__ import annotations

from functools import cache

import msgspec


class Group(msgspec.Struct, frozen=True):
    title: str
    operations: list[tuple[str, str, str]]
    """Method, path, and what it does."""


_FLUX = [
    ("GET", "/v1/jobs", "List jobs; with details=true full records, as an array with listing=true"),
    ("GET", "/v1/jobs/search", "Search jobs, as DataTables asks for it"),
    ("POST", "/v1/jobs/submit", "Submit a job"),
    ("GET", "/v1/jobs/{id}", "One job"),
    ("POST", "/v1/jobs/{id}/cancel", "Request the job's cancellation"),
    ("GET", "/v1/jobs/{id}/output", "The job's output, line by line"),
    ("GET", "/v1/jobs/{id}/output/stream", "The job's output as it comes"),
    ("GET", "/v1/jobs/{id}/events", "The job's events, as an array or as server-sent events"),
    ("GET", "/v1/events", "All events"),
    ("GET", "/v1/nodes", "List nodes"),
    ("POST", "/v1/service/stop", "Stop the service"),
    ("POST", "/v1/token", "An access token for a request that is signed with the shared secret"),
    ("POST", "/v1/login/access-token", "An access token for name and password (OAuth 2)"),
]
_K12AI = [
    (
        "POST",
        "/k12ai/framework/{task}",
        "Start or stop a task: train, evaluate, predict, or execute for all; schema, memstat",
    ),
    ("POST", "/k12ai/platform/stats", "How the host, its GPUs and containers are doing"),
    ("POST", "/k12ai/platform/control", "Stop a container"),
    ("GET", "/k12ai/private/popmsg", "Take messages out of a queue; with wait as a long poll, with peek they stay"),
    ("GET", "/k12ai/stream", "Messages as server-sent events"),
    ("GET", "/k12ai/jobs", "List tasks"),
    ("GET", "/k12ai/services", "List frameworks"),
]


@cache
def groups() -> list[Group]:
    """What there is, by door."""
    from runyard.api.openapi import openapi_document

    native = [
        (method.upper(), path, str(operation.get("summary", "")))
        for path, methods in openapi_document()["paths"].items()
        for method, operation in methods.items()
        if isinstance(operation, dict) and method in ("get", "post", "put", "patch", "delete")
    ]
    return [Group("Native", native), Group("Flux RESTful", _FLUX), Group("K12AI", _K12AI)]
