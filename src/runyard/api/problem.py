"""Problem documents (RFC 9457): the one shape in which the native API says no."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.datastructures import ResponseSpec
from litestar.types import ExceptionHandlersMap

from runyard.model.errors import InvalidInput, NotFound, RunyardError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

CHALLENGE = 'Bearer realm="runyard", Basic realm="runyard", charset="UTF-8"'

_CODES = {400: "invalid_input", 404: "not_found", 405: "method_not_allowed", 406: "not_acceptable", 413: "too_large"}


class Problem(msgspec.Struct, kw_only=True):
    """`code` is stable; `errors` lists field, value and rule where single fields are at fault."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    errors: list[dict[str, Any]] = []


def refusal(text: str) -> ResponseSpec:
    """Describes a refusal in OpenAPI."""
    return ResponseSpec(Problem, description=text, media_type=MEDIA_TYPE, generate_examples=False)


def problem_body(error: RunyardError) -> dict[str, Any]:
    """The document of a failure, with the failure's own fields beside the standard ones."""
    head = Problem(title=error.title, status=error.status, detail=error.detail, code=error.code)
    return {**msgspec.to_builtins(head), **error.fields}


def problem_response(error: RunyardError) -> Response[bytes]:
    body = msgspec.json.encode(problem_body(error))
    return Response(body, status_code=error.status, media_type=MEDIA_TYPE, headers=refusal_headers(error))


def refusal_headers(error: RunyardError) -> dict[str, str]:
    """What HTTP says beside a failure: how to prove oneself (RFC 9110, 11.6.1), when to try again."""
    if error.status == 401:
        return {"WWW-Authenticate": CHALLENGE}
    if error.status in (429, 503, 507):
        return {"Retry-After": str(error.fields.get("retry_after", 1))}
    return {}


def _on_runyard_error(_: Request[Any, Any, Any], error: RunyardError) -> Response[bytes]:
    return problem_response(error)


def _on_http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Litestar's own refusals: no such route, a method that is not there, a query parameter of the wrong type."""
    errors: list[dict[str, Any]] = []
    detail, title = error.detail, error.__class__.__name__.removesuffix("Exception") or "Refused"
    if isinstance(error, ValidationException) and isinstance(error.extra, list):
        errors = [
            _parameter(request, item.get("key", ""), item.get("message", ""))
            for item in error.extra
            if isinstance(item, dict)
        ]
        detail = "; ".join(f"{item['field']}: {item['rule']}" for item in errors) or detail
        title = InvalidInput.title
    elif error.status_code == 404:
        detail = "there is nothing at this address; the API begins at /api/v1, its description is /openapi.json"
        title = NotFound.title
    elif error.status_code == 405:
        detail = f"{request.method} does nothing at this address; it takes {(error.headers or {}).get('allow', 'GET')}"
        title = "This method is not possible here"
    code = _CODES.get(error.status_code, "refused")
    body = Problem(title=title, status=error.status_code, detail=detail, code=code, errors=errors)
    headers = {key: value for key, value in (error.headers or {}).items() if key.lower() != "content-length"}
    return Response(msgspec.json.encode(body), status_code=error.status_code, media_type=MEDIA_TYPE, headers=headers)


def _parameter(request: Request[Any, Any, Any], name: str, rule: str) -> dict[str, Any]:
    """A parameter under the name that the caller gave it."""
    header = name.replace("_", "-").title()
    if name not in request.query_params and header in request.headers:
        return {"field": header, "value": request.headers[header][:200], "rule": rule}
    return {"field": name, "value": request.query_params.get(name), "rule": rule}


def _on_defect(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """A defect of ours: said without details, which go to the log."""
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem_response(RunyardError("the server has a defect here; its log has the details"))


EXCEPTION_HANDLERS: ExceptionHandlersMap = {
    RunyardError: _on_runyard_error,
    HTTPException: _on_http_error,
    Exception: _on_defect,
}
