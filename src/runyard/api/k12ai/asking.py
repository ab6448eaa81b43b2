"""Who asks at this door, and how it says no: K12AI's answers, whatever happens (spec/k12ai.md, 0 and 1.5)."""

from __future__ import annotations

import base64
import hmac
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from litestar import Response
from litestar.exceptions import HTTPException

from runyard.api.access import CALLER, authorization_of, call_of, caller_of
from runyard.api.answer import JsonAnswer
from runyard.api.context import AnyRequest, context_of
from runyard.api.problem import refusal_headers
from runyard.auth.caller import Caller, Role
from runyard.model.errors import Forbidden, InvalidInput, RunyardError, Unauthenticated
from runyard.settings import K12ai
from runyard.training.codes import Code
from runyard.training.parameters import Problem
from runyard.training.reply import MessageForm, Refusal, refusal_reply

log = logging.getLogger(__name__)

#: The header with `[doors.k12ai] key`.
KEY_HEADER = "x-k12ai-key"


async def caller_in(request: AnyRequest, raw: dict[str, Any]) -> Caller:
    """The caller by the request's credentials, or by `username` (or `user`) and `password` in its body; those count
    while accounts are on only. Raises what `caller_of` raises."""
    try:
        return caller_of(request)
    except Unauthenticated:
        name, password = raw.get("username", raw.get("user")), raw.get("password")
        auth = context_of(request).auth
        if auth is None or authorization_of(request) is not None or not isinstance(name, str):
            raise
        if not isinstance(password, str) or not password:
            raise
    proof = base64.b64encode(f"{name}:{password}".encode(errors="replace"))
    caller = await auth.identify(b"Basic " + proof, call_of(request))
    request.scope[CALLER] = caller  # type: ignore[literal-required]
    return caller


def must_be(caller: Caller, user: str, accounts: bool) -> None:
    """`user` names the caller itself; admins speak for anybody, as gateways of web sites do. Raises Forbidden."""
    if accounts and caller.role is not Role.ADMIN and user != caller.name:
        raise caller.refused(
            f"{caller.name!r} may not act for the user {user!r}: `user` must be the account's own name"
        )


def check_key(request: AnyRequest, settings: K12ai) -> None:
    """Raises Forbidden unless the request has the key that the door asks for."""
    given = request.headers.get(KEY_HEADER, "")
    if settings.key and not hmac.compare_digest(given.encode(), settings.key.encode()):
        raise Forbidden("this takes the key of the door ([doors.k12ai] key) in the header X-K12AI-Key")


async def answered(
    request: AnyRequest, act: Callable[[AnyRequest], Awaitable[bytes]], form: MessageForm
) -> Response[Any]:
    """What `act` gives, or why it does not."""
    try:
        return JsonAnswer(await act(request))
    except Exception as error:
        status, body, headers = refused(error, form)
        # Litestar's own is about a client that has gone in the middle of its body.
        if status == 500 and not isinstance(error, HTTPException):
            log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return JsonAnswer(body, status, headers)


def refused(error: Exception, form: MessageForm = "both") -> tuple[int, bytes, dict[str, str]]:
    """HTTP status, body and headers of a refusal. What K12AI knows a code for has the status 200."""
    headers: dict[str, str] = {}
    if isinstance(error, Refusal):
        refusal = error
    elif isinstance(error, Problem):
        refusal = Refusal(error.code, error.text)
    elif isinstance(error, InvalidInput):
        refusal = Refusal(Code.NOT_ALLOWED, error.detail)
    elif isinstance(error, RunyardError):
        code = Code.TOO_LARGE if error.status == 413 else Code.REQUEST_OTHER
        refusal = Refusal(code, error.detail, status=error.status)
        headers = refusal_headers(error)
    elif isinstance(error, HTTPException):
        refusal = Refusal(Code.REQUEST_OTHER, error.detail, status=error.status_code)
    else:
        refusal = Refusal(Code.REQUEST_OTHER, "the server has a defect here; its log has the details", status=500)
    return refusal.status, msgspec.json.encode(refusal_reply(refusal, form)), headers
