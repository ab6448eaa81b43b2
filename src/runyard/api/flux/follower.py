"""Flux's events, read and followed: by cursor, without gap or repetition."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any

import msgspec

from runyard.api.context import Context
from runyard.api.flux.answer import detail
from runyard.api.flux.events import Cursor, entries, read_cursor
from runyard.api.flux.jobs import Jobs, user_id
from runyard.auth.caller import Caller
from runyard.core.record import JobRecord
from runyard.model.event import Event
from runyard.service.engine import Engine
from runyard.service.feed import Selection

#: Seconds of silence after which a stream says that it is still there.
BEAT = 15.0
#: Events of ours behind one answer that is no stream.
MOST = 1000

_encoder = msgspec.json.Encoder()


def chosen_cursor(engine: Engine, text: str | None) -> Cursor:
    """The oldest event that is kept if none is given; `latest` for only what comes. Raises Refused (400)."""
    if text is None:
        return Cursor(engine.store.horizon() - 1)
    if text == "latest":
        return Cursor(engine.feed.last)
    found = read_cursor(text)
    if found is None:
        raise detail(400, "Last-Event-ID must be the id of an event, such as 17.0, or `latest`")
    return found


class View(msgspec.Struct, frozen=True):
    """Which events are wanted, and by whom. Empty and None mean all."""

    caller: Caller
    job: int | None = None
    names: frozenset[str] = frozenset()
    user: str | None = None

    @property
    def selection(self) -> Selection:
        return Selection(job=self.job)

    def takes(self, entry: dict[str, Any]) -> bool:
        return (
            self.caller.may_see(entry["user"])
            and (not self.names or entry["name"] in self.names)
            and self.user in (None, entry["user"])
        )


class Follower:
    """For the event loop's thread."""

    def __init__(self, context: Context, jobs: Jobs) -> None:
        self._engine = context.service.engine
        self._jobs = jobs

    async def read(self, view: View, after: Cursor) -> list[dict[str, Any]]:
        """What has happened until now, oldest first; at most what `MOST` events of ours become. Raises Expired."""
        found, _ = await self._engine.feed.page(after.after, MOST, view.selection)
        return [entry | {"id": id} for id, entry in await self._told(found, view, after)]

    async def follow(self, view: View, after: Cursor) -> AsyncIterator[bytes]:
        """Server-sent events, from the cursor on; of one job until it has ended."""

        def ended() -> bool:
            return view.job is not None and self._engine.record(view.job) is None

        # Said at once, so that a client knows that the stream stands.
        yield b": runyard\n\n"
        async for events in self._engine.feed.follow(after.after, view.selection, ended, BEAT):
            if not events:
                yield b":\n\n"
                continue
            told = await self._told(events, view, after)
            if told:
                yield b"".join(
                    b"id: %s\nevent: %s\ndata: %s\n\n" % (id.encode(), entry["name"].encode(), _encoder.encode(entry))
                    for id, entry in told
                )

    async def _told(self, events: Collection[Event], view: View, after: Cursor) -> list[tuple[str, dict[str, Any]]]:
        """What Flux says of these events, each with its id."""
        records = await self._records({event.job for event in events if event.job})
        ranks = self._jobs.ranks()
        told = []
        for event in events:
            record = records.get(event.job)
            if record is None:
                continue
            for index, entry in enumerate(entries(event, record, user_id(record.owner), ranks)):
                if not after.passed(event.seq, index) and view.takes(entry):
                    told.append((f"{event.seq}.{index}", entry))
        return told

    async def _records(self, jobs: set[int]) -> dict[int, JobRecord]:
        found: dict[int, JobRecord] = {}
        for job in jobs:
            record = self._engine.record(job)
            if record is not None:
                found[job] = record
        missing = jobs - found.keys()
        if missing:
            found |= await asyncio.to_thread(self._engine.store.jobs, missing)
        return found
