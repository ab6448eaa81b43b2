"""Logging in and out with a browser: a token in a cookie that no script can read and no other site can send."""

from __future__ import annotations

from typing import Any

from litestar import Response, route

from runyard.api.access import PUBLIC, SESSION, call_of, session_of
from runyard.api.context import AnyRequest, Context
from runyard.api.pages.renderer import page, redirect
from runyard.auth.authenticator import Disabled
from runyard.model.errors import RunyardError, TooMany, Unauthenticated

#: Seconds after which a browser has to log in again.
LIFETIME = 12 * 3600.0


class SessionRoutes:
    """One for each server."""

    def __init__(self, context: Context) -> None:
        self._auth = context.auth

    def handlers(self) -> list[Any]:
        @route("/login", http_method=["GET", "POST"], include_in_schema=False, opt=PUBLIC)
        async def login(request: AnyRequest) -> Response[bytes]:
            if request.method == "GET":
                return _form(local_path(request.query_params.get("next") or "") or "/")
            return await self._login(request)

        @route("/logout", http_method=["GET", "POST"], include_in_schema=False, opt=PUBLIC)
        async def logout(request: AnyRequest) -> Response[bytes]:
            return await self._logout(request)

        return [login, logout]

    async def _login(self, request: AnyRequest) -> Response[bytes]:
        form = await request.form()
        name, password = str(form.get("name") or ""), str(form.get("password") or "")
        after = local_path(str(form.get("next") or "")) or "/"
        if self._auth is None or not self._auth.enabled:
            return redirect(after)
        try:
            secret = await self._auth.open_session(name, password, LIFETIME, call_of(request))
        except (Unauthenticated, Disabled, TooMany) as error:
            text = "Name or password is wrong." if isinstance(error, Unauthenticated) else f"{error.detail}."
            return _form(after, error, text, name)
        answer = redirect(after)
        answer.headers["Set-Cookie"] = _cookie(request, secret, int(LIFETIME))
        return answer

    async def _logout(self, request: AnyRequest) -> Response[bytes]:
        session = session_of(request.headers.get("cookie", "").encode("latin-1", "replace"))
        if session and self._auth is not None:
            await self._auth.close_session(session.decode("latin-1"))
        answer = redirect("/")
        answer.headers["Set-Cookie"] = _cookie(request, "", 0)
        return answer


def _form(after: str, error: RunyardError | None = None, text: str = "", name: str = "") -> Response[bytes]:
    answer = page(
        "login.html", 200 if error is None else error.status, title="Log in", message=text, name=name[:255], next=after
    )
    if error is not None and "retry_after" in error.fields:
        answer.headers["Retry-After"] = str(error.fields["retry_after"])
    return answer


def _cookie(request: AnyRequest, value: str, lifetime: int) -> str:
    secure = "; Secure" if request.url.scheme == "https" else ""
    return f"{SESSION.decode()}={value}; Path=/; Max-Age={lifetime}; HttpOnly; SameSite=Strict{secure}"


def local_path(text: str) -> str | None:
    """A path of this server that a browser may be sent to; None for anything that leads elsewhere."""
    inside = text.startswith("/") and text[1:2] not in ("/", "\\") and text.isprintable()
    return text if inside and len(text) <= 2000 else None
