"""From answers that are no success to exceptions. Every class derives from `RunyardError`."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from runyard.model import errors
from runyard.model.errors import RunyardError


class Unreachable(RunyardError):
    """No server answers at the URL, or it went away and did not come back in time."""

    code = "unreachable"
    status = 503
    title = "The server cannot be reached"


class UnexpectedAnswer(RunyardError):
    """Something answers at the URL, but not as this version of Runyard would."""

    code = "unexpected_answer"
    status = 502
    title = "The answer is not understood"


class WaitTimeout(RunyardError, TimeoutError):
    """The job did not end within the time given to `wait`. It goes on."""

    code: ClassVar[str] = "wait_timeout"
    status = 504
    title = "Still not ended"


_KNOWN = [
    errors.InvalidInput,
    errors.NotFound,
    errors.Conflict,
    errors.PreconditionFailed,
    errors.Expired,
    errors.TooLarge,
    errors.TooMany,
    errors.Unauthenticated,
    errors.Forbidden,
    errors.Unavailable,
    errors.StorageFull,
]
_BY_CODE: dict[str, type[RunyardError]] = {kind.code: kind for kind in _KNOWN}
_BY_STATUS: dict[int, type[RunyardError]] = {
    **{kind.status: kind for kind in _KNOWN},
    405: errors.InvalidInput,
    415: errors.InvalidInput,
    422: errors.InvalidInput,
}


def from_problem(problem: dict[str, Any]) -> RunyardError:
    """The exception for a problem document: by its `code`, else by its `status`."""
    kind = _BY_CODE.get(str(problem.get("code"))) or _BY_STATUS.get(problem.get("status", 0)) or RunyardError
    detail = problem.get("detail") or problem.get("title") or kind.title
    fields = {key: value for key, value in problem.items() if key not in ("detail", "title", "type", "self")}
    return kind(str(detail), **fields)


def from_answer(url: str, status: int, content_type: str, body: bytes) -> RunyardError:
    """The exception for an answer with an error status."""
    try:
        problem = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.MsgspecError:
        problem = {}
    if "json" in content_type and {"detail", "title", "code"} & problem.keys():
        return from_problem({"status": status} | problem)
    kind = UnexpectedAnswer if status not in (502, 503, 504) else errors.Unavailable
    what = content_type or "no content type"
    return kind(
        f"{url} answered {status} ({what}) without a problem document: is this a Runyard server?", status=status
    )
