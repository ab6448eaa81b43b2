"""The part of a job's page that shows what the job says, and the pictures in it."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Response

from runyard.api.context import Context
from runyard.api.pages import message_view as view
from runyard.api.pages.renderer import HEADERS
from runyard.core.record import JobRecord
from runyard.model.errors import Expired, NotFound
from runyard.model.message import Message
from runyard.store.messages import MessageQueries
from runyard.training.ending import told_once

#: Lines that are shown; messages with pictures and the like; metrics among which those are looked for.
LINES, SHOWN, LOOK = 100, 50, 5000
_STEP = 1000
#: A picture never changes. Scripts in an SVG that is opened by itself must not run.
_HEADERS = {
    **HEADERS,
    "Cache-Control": "private, max-age=86400, immutable",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
}


class MessagesPart:
    """One for each server."""

    def __init__(self, context: Context) -> None:
        self._messages = context.messages

    async def values(self, job: int) -> dict[str, Any]:
        """What the template `messages.html` needs."""
        lines, shown = await asyncio.to_thread(_read, self._messages.queries, job)
        lines.reverse()
        return {
            "lines": [view.line(message) for message in told_once(lines)],
            "more": len(lines) == LINES,
            "widgets": view.widgets(shown),
            "messages_url": f"/api/v1/jobs/{job}/messages",
        }

    async def picture(self, record: JobRecord, seq: str, place: str) -> Response[bytes]:
        """Raises NotFound."""
        if all(word.isascii() and word.isdigit() and len(word) < 19 for word in (seq, place)):
            try:
                found, _ = await self._messages.page(record.id, int(seq) - 1, 1)
            except Expired:
                found = []
            if found and found[0].seq == int(seq) and (made := view.picture(found[0], int(place))) is not None:
                return Response(made[0], media_type=made[1], headers=dict(_HEADERS))
        raise NotFound(f"job {record.id} has no picture {seq[:20]}/{place[:20]}")


def _read(queries: MessageQueries, job: int) -> tuple[list[Message], list[Message]]:
    """The last messages that are no metrics, and the last metrics with more than numbers; newest first."""
    lines = queries.recent(job, LINES)
    shown: list[Message] = []
    before: int | None = None
    for _ in range(LOOK // _STEP):
        found = queries.recent(job, _STEP, before, metrics=True)
        shown += filter(view.has_widgets, found)
        if len(found) < _STEP or len(shown) >= SHOWN:
            break
        before = found[-1].seq
    return lines, shown[:SHOWN]
