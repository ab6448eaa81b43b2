"""The door and its description agree: the committed document is what the code says, and the server keeps to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CheckContext, CheckFunction
from schemathesis.core.failures import Failure
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from runyard.api.openapi import openapi_text
from tests.system.server import Server

Case = schemathesis.Case[Any]

COMMITTED = Path(__file__).parents[2] / "docs" / "openapi.json"

schema = schemathesis.openapi.from_path(COMMITTED)


def test_the_committed_description_is_the_present_one(http: httpx2.Client) -> None:
    assert COMMITTED.read_text() == openapi_text(), (
        "docs/openapi.json is not what the code says: write it anew with `make openapi`, and look at the difference, "
        "for clients depend on it"
    )
    assert http.get("/openapi.json").json() == httpx2.Response(200, content=openapi_text()).json()


@schemathesis.check
def answers_in_our_words(context: CheckContext, response: Response, case: Case) -> bool | None:
    """No defect shows, and every refusal is a problem document that says something."""
    if response.status_code >= 500:
        raise Failure(operation=case.operation.label, title="Server error", message=response.text[:500])
    if response.status_code >= 400:
        kind = response.headers.get("content-type", [""])[0]
        problem: Any = response.json() if kind == "application/problem+json" else {}
        if not (problem.get("status") == response.status_code and problem.get("code") and problem.get("detail")):
            raise Failure(operation=case.operation.label, title="No problem document", message=response.text[:500])
    return None


CHECKS: list[CheckFunction] = [
    answers_in_our_words,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]

#: Long polls and streams would be waited for.
QUICK = {"wait": 0, "timeout": 0}


@pytest.fixture(scope="module")
def known(http: httpx2.Client) -> str:
    """A job for `{ref}`, that made-up names would hardly ever meet."""
    answer = http.post("/api/v1/jobs", json={"command": ["true"], "name": "known"})
    job: str = answer.json()["id"]
    http.get(f"/api/v1/jobs/{job}/wait")
    return job


@schema.parametrize()
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_answers_conform_to_the_description(case: Case, server: Server, known: str) -> None:
    if "ref" in case.path_parameters and len(case.path_parameters["ref"]) % 2:
        case.path_parameters["ref"] = known
    for name, value in QUICK.items():
        if name in case.query:
            case.query[name] = value
    case.query.pop("follow", None)
    case.headers.pop("Accept", None)
    if isinstance(case.body, dict):
        # Whatever it is, it must not run.
        case.body |= {"hold": True} if case.path.endswith("/jobs") else {}
    case.call_and_validate(base_url=server.url, checks=CHECKS, timeout=60)
