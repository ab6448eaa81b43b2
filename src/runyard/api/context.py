"""What handlers get at: the service and who is asking."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
from litestar import Request

from runyard.model.check import explain_json
from runyard.model.errors import InvalidInput, TooMany
from runyard.service.output import OutputReader
from runyard.service.service import Service
from runyard.telemetry.host import HostSampler

AnyRequest = Request[Any, Any, Any]


class Context:
    """One for each server; found at `app.state.context`."""

    def __init__(self, service: Service, host: HostSampler, owner: str, max_streams: int, max_batch: int) -> None:
        self.service = service
        self.output = OutputReader(service.engine)
        self.host = host
        self.owner = owner
        """Whose the jobs are while there are no accounts: the user who runs the server."""
        self.max_batch = max_batch
        self._max_streams = max_streams
        self._streams = 0

    def stream(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same pieces, counted as an open stream. Raises TooMany at once if too many are open."""
        if self._streams >= self._max_streams:
            raise TooMany(f"{self._streams} streams are open, the limit is [server] max_streams")
        return self._count(pieces)

    async def _count(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        self._streams += 1
        try:
            async for piece in pieces:
                yield piece
        finally:
            self._streams -= 1


def context_of(request: AnyRequest) -> Context:
    context: Context = request.app.state.context
    return context


def json_object(body: bytes, known: frozenset[str]) -> dict[str, Any]:
    """The object in a small JSON body; an empty body is an empty object. Raises InvalidInput."""
    if not body.strip():
        return {}
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise explain_json(body, error) from None
    if not isinstance(value, dict):
        raise InvalidInput(f"the body must be a JSON object, not {type(value).__name__}")
    unknown = value.keys() - known
    if unknown:
        names = ", ".join(sorted(known)) or "none"
        raise InvalidInput(
            f"unknown field {min(unknown)!r}; known fields: {names}",
            errors=[{"field": name, "value": name, "rule": "unknown field"} for name in sorted(unknown)],
        )
    return value
