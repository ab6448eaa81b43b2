"""Everything that Runyard raises on purpose. Each class has a stable `code` and the HTTP status that says it best."""

from __future__ import annotations

from typing import Any, ClassVar


class RunyardError(Exception):
    """A failure with an explanation for the person who caused it.

    `code` is stable and meant for programs; `detail` is for people and may change; `fields` are extra facts.
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong"

    def __init__(self, detail: str, **fields: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = fields


class InvalidInput(RunyardError):
    """The request can't be understood or breaks a rule. `fields["errors"]` lists field, value and rule where known."""

    code = "invalid_input"
    status = 400
    title = "The request is not valid"


class NotFound(RunyardError):
    """No such job, run, node or route."""

    code = "not_found"
    status = 404
    title = "There is no such thing"


class Conflict(RunyardError):
    """The thing exists, but its state does not allow this now."""

    code = "conflict"
    status = 409
    title = "The current state does not allow this"


class PreconditionFailed(RunyardError):
    """`If-Match` names another version than the present one."""

    code = "precondition_failed"
    status = 412
    title = "It has changed meanwhile"


class Expired(RunyardError):
    """The cursor points to events that retention has removed."""

    code = "expired"
    status = 410
    title = "This is no longer kept"


class TooLarge(RunyardError):
    """The body is larger than the server takes."""

    code = "too_large"
    status = 413
    title = "The request is too large"


class TooMany(RunyardError):
    """A count is past its bound: streams open, jobs queued."""

    code = "too_many"
    status = 429
    title = "Too many at once"


class Unauthenticated(RunyardError):
    """The request proves nobody: no credentials, wrong ones, or ones that have expired."""

    code = "unauthenticated"
    status = 401
    title = "Who is asking?"


class Forbidden(RunyardError):
    """The caller may not do this."""

    code = "forbidden"
    status = 403
    title = "This is not allowed"


class Unavailable(RunyardError):
    """The server can't take this now (starting, stopping, or its agent is away). Trying again later may work."""

    code = "unavailable"
    status = 503
    title = "Not possible at the moment"


class StorageFull(RunyardError):
    """The store can't write: disk full, read-only, or an I/O error. Nothing of the request was kept."""

    code = "storage"
    status = 507
    title = "The store cannot write"


class ConfigError(RunyardError):
    """The configuration is wrong. Says the key, and the nearest known one."""

    code = "config"
    status = 500
    title = "The configuration is not valid"
