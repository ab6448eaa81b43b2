"""Where clients get access tokens: by a request signed with the shared secret, or by OAuth 2's password form
(spec/flux-restful.md, 1.4 and 1.5)."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import msgspec
from litestar import Response, route

from runyard.api.access import PUBLIC, authorization_of, call_of
from runyard.api.answer import JsonAnswer
from runyard.api.context import AnyRequest, context_of
from runyard.auth.access_token import AccessToken
from runyard.auth.authenticator import Disabled
from runyard.model.errors import RunyardError, TooMany, Unauthenticated

_METHODS: list[Any] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"]
DENIED = {"Message": "Denied"}
#: Bytes of the form, and parameters in it, at most.
_MOST, _FIELDS = 16 * 1024, 16


@route("/v1/token", http_method=_METHODS, include_in_schema=False, opt=PUBLIC)
async def token(request: AnyRequest) -> Response[bytes]:
    """Never 401: the released client would ask for a token in order to get one, without end."""
    if request.method != "POST":
        return _not_allowed()
    auth = context_of(request).auth
    words = (authorization_of(request) or b"").decode("latin-1").split()
    if auth is None or not words:
        return _json(DENIED, 400)
    try:
        return _token(await auth.exchange(words[-1], call_of(request)))
    except TooMany as error:
        return _json(DENIED, error.status, _retry(error))
    except (Unauthenticated, Disabled):
        return _json(DENIED, 400)


@route("/v1/login/access-token", http_method=_METHODS, include_in_schema=False, opt=PUBLIC)
async def login(request: AnyRequest) -> Response[bytes]:
    if request.method != "POST":
        return _not_allowed()
    body = await request.body()
    try:
        pairs = parse_qsl(body[:_MOST].decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=_FIELDS)
    except ValueError:
        pairs = []
    form = dict(pairs)
    missing = [name for name in ("username", "password") if not form.get(name)]
    if missing:
        errors = [
            {"type": "missing", "loc": ["body", name], "msg": "Field required", "input": None} for name in missing
        ]
        return _json({"detail": errors}, 422)
    auth = context_of(request).auth
    try:
        if auth is None:
            raise Unauthenticated("there are no accounts here")
        return _token(await auth.login(form["username"], form["password"], call_of(request)))
    except TooMany as error:
        return _json({"detail": error.detail}, error.status, _retry(error))
    except Disabled:
        return _json({"detail": "Inactive user"}, 400)
    except Unauthenticated:
        return _json({"detail": "Incorrect email or password"}, 400)


def _token(issued: AccessToken) -> Response[bytes]:
    # Nobody on the way may keep it (RFC 6749, 5.1).
    return _json(issued, 200, {"Cache-Control": "no-store"})


def _retry(error: RunyardError) -> dict[str, str]:
    return {"Retry-After": str(error.fields.get("retry_after", 1))}


def _not_allowed() -> Response[bytes]:
    return _json({"detail": "Method Not Allowed"}, 405, {"Allow": "POST"})


def _json(body: Any, status: int, headers: dict[str, str] | None = None) -> Response[bytes]:
    return JsonAnswer(msgspec.json.encode(body), status, headers)


TOKEN_ROUTES = [token, login]
