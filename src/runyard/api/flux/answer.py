"""How this door says no: `detail` as FastAPI has it, `Message` as the original itself (spec/flux-restful.md, 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOT_AUTHENTICATED = "Not authenticated"
NO_OUTPUT = "The output does not exist yet, or the jobid is incorrect."


class Refused(Exception):
    """An answer other than 200, ready to be sent."""

    def __init__(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{status} {body}")
        self.status, self.body, self.headers = status, body, headers or {}


def detail(status: int, text: str, headers: Mapping[str, str] | None = None) -> Refused:
    """`{"detail": text}`."""
    return Refused(status, {"detail": text}, headers)


def unprocessable(kind: str, where: list[str | int], message: str, given: Any) -> Refused:
    """A parameter that can't be read, in the words of pydantic."""
    shown = given[:200] if isinstance(given, str) else given if isinstance(given, int | float | bool) else None
    return Refused(422, {"detail": [{"type": kind, "loc": where, "msg": message, "input": shown}]})


def no_job(text: str) -> Refused:
    return Refused(404, {"detail": "Job not found", "Message": f"There is no job with id {text[:200]}."})


def no_job_id(text: str) -> Refused:
    return detail(400, f"{text[:200]} is not a valid Flux jobid")


def invalid(errors: list[str]) -> Refused:
    """A submission that breaks rules: all of them."""
    return Refused(400, {"Message": "Invalid submit request", "Errors": errors})


def not_submitted(reason: str) -> Refused:
    return Refused(400, {"Message": "There was an issue submitting that job.", "Error": reason})
