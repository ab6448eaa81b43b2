"""When to send a request again, and what to say when there is no use in it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx2

from runyard.client.error import Unreachable
from runyard.client.request import Request
from runyard.model.errors import RunyardError, Unavailable

#: What a retry may help against.
TRANSIENT = (httpx2.TransportError, Unavailable)
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


class Retry:
    """Counts the failures of one request.

    A connection that is refused fails at once if the server was never reached: there is none. Else refusals are waited
    out for `budget` seconds: the server is being started anew.
    """

    def __init__(self, url: str, budget: float, clock: Callable[[], float], reached: bool = False):
        self._url = url
        self._budget = budget
        self._clock = clock
        self._reached = reached
        self._since: float | None = None
        self._delay = 0.1

    def pause(self, request: Request[Any], error: Exception) -> float:
        """Seconds to wait before the next try. Raises the final error if there is to be none."""
        now = self._clock()
        unsent = isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout))
        if self._since is None:
            self._since = now
        # A server that answers 503 has done nothing; a connection that broke may have lost only the answer.
        safe = request.repeatable or unsent or isinstance(error, Unavailable)
        hopeless = unsent and not self._reached
        # Whatever it was, somebody was there.
        self._reached = self._reached or not unsent
        if hopeless or not safe or now - self._since + self._delay > self._budget:
            raise self._final(request, error) from error
        delay, self._delay = self._delay, min(self._delay * 2, 2.0)
        return delay

    def succeeded(self) -> None:
        """Data came: whatever breaks next is a new failure."""
        self._since, self._delay, self._reached = None, 0.1, True

    def _final(self, request: Request[Any], error: Exception) -> RunyardError:
        if isinstance(error, RunyardError):
            return error
        if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout)):
            if urlsplit(self._url).hostname in _LOCAL:
                hint = "start it with `runyard serve`, or set RUNYARD_URL if it listens elsewhere"
            else:
                hint = "check RUNYARD_URL, and that the server runs and may be reached from here"
            return Unreachable(f"no server answers at {self._url} ({error}); {hint}")
        what = str(error) or type(error).__name__
        note = "" if request.repeatable else "; the request may or may not have been carried out: look before you retry"
        return Unreachable(f"the connection to {self._url} broke during {request.method} {request.path} ({what}){note}")


def _authorization(token: str) -> str:
    """A bearer token; or name and password with a colon between, which no token has."""
    if ":" in token:
        return "Basic " + base64.b64encode(token.encode()).decode()
    return f"Bearer {token}"


def options(url: str, token: str | None, timeout: float) -> dict[str, Any]:
    """How both clients set up httpx2."""
    parts = urlsplit(url)
    headers = {"User-Agent": "runyard-client"} | ({"Authorization": _authorization(token)} if token else {})
    return {
        "base_url": url,
        "headers": headers,
        "timeout": timeout,
        # Loading certificates takes longer than a whole local request; a proxy never leads back to this host.
        "verify": parts.scheme == "https",
        "trust_env": parts.hostname not in _LOCAL,
    }
