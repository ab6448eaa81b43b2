"""A remote member: the three calls to it, in the spelling that it understands."""

from __future__ import annotations

from collections.abc import Mapping

from runyard.project.http import Client, Silent, Unreachable
from runyard.project.wire import (
    MAX_BODY,
    START,
    Kind,
    Reply,
    UrlStyle,
    identities,
    is_whole,
    read_reply,
    target_of,
)


class Member:
    """One member at one address. The calls never raise: whatever happens is a `Reply`."""

    def __init__(self, client: Client, url: str, style: UrlStyle) -> None:
        self._client = client
        self.url = url.rstrip("/")
        self._style = style
        #: What an `auto` member was found to understand.
        self._learnt: UrlStyle | None = None

    async def call(
        self, operation: str, user: str = "", project: str = "", more: Mapping[str, str] | None = None
    ) -> Reply:
        """`start`, `stop` or `status_request`. `more` goes behind the ids, where readers by position pass over it."""
        parameters = identities(user, project) | dict(more or {})
        style = self._learnt or (UrlStyle.PATH if self._style is UrlStyle.AUTO else self._style)
        reply = await self._send(operation, parameters, style)
        if self._style is not UrlStyle.AUTO:
            return reply
        if self._learnt is None and reply.kind in (Kind.NO_OPERATION, Kind.EMPTY):
            # Nothing was started in either case (spec 1.2).
            other = await self._send(operation, parameters, UrlStyle.QUERY)
            if other.kind in (Kind.YES, Kind.NO, Kind.STATE):
                self._learnt = UrlStyle.QUERY
                return other
        elif reply.kind in (Kind.YES, Kind.NO, Kind.STATE):
            self._learnt = style
        return reply

    async def _send(self, operation: str, parameters: Mapping[str, str], style: UrlStyle) -> Reply:
        url = self.url + target_of(operation, parameters, style)
        try:
            answer = await self._client.get(url, limit=MAX_BODY, is_whole=is_whole, once=operation == START)
        except Unreachable as error:
            return Reply(Kind.UNREACHABLE, text=str(error))
        except Silent as error:
            return Reply(Kind.SILENT, text=str(error))
        return read_reply(operation, answer.status, answer.body)
