"""The event feed: everybody who follows events reads here, by cursor, without gap or repetition.

Recent events are kept in memory; older ones come from the store. A reader that has caught up waits for the next batch.
Only durable events ever get in.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from itertools import islice

import msgspec

from runyard.model.event import Event
from runyard.model.state import State
from runyard.store.store import Store

#: Events kept in memory.
RECENT = 20_000
#: Events read from the store in one go.
PAGE = 1000


class Selection(msgspec.Struct, frozen=True):
    """Which events a reader wants; an empty field means all."""

    job: int | None = None
    types: frozenset[str] = frozenset()
    states: frozenset[State] = frozenset()

    def takes(self, event: Event) -> bool:
        return (
            (self.job is None or event.job == self.job)
            and (not self.types or event.type in self.types)
            and (not self.states or event.state in self.states)
        )


class Feed:
    """Durable events, followed. All methods are for the event loop's thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.last = store.last_seq()
        self._recent: list[Event] = []
        self._news = asyncio.Event()
        self._closed = False

    def publish(self, events: Iterable[Event]) -> None:
        """These events are durable now; they follow on the last ones."""
        recent = self._recent
        recent.extend(events)
        if not recent:
            return
        self.last = recent[-1].seq
        if len(recent) > 2 * RECENT:
            del recent[:-RECENT]
        self._wake()

    def since(self, after: int) -> Sequence[Event] | None:
        """The events behind the cursor `after`; None if some of them are no longer in memory."""
        if after >= self.last:
            return ()
        if not self._recent or after < self._recent[0].seq - 1:
            return None
        return self._recent[after + 1 - self._recent[0].seq :]

    def close(self) -> None:
        """Ends every stream."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def changed(self, timeout: float | None = None) -> bool:
        """Waits until something is published; False after `timeout` seconds, or once the feed is closed."""
        if self._closed:
            return False
        try:
            async with asyncio.timeout(timeout):
                await self._news.wait()
        except TimeoutError:
            return False
        return not self._closed

    async def page(self, after: int | None, limit: int, wanted: Selection) -> tuple[list[Event], int]:
        """Up to `limit` wanted events behind the cursor `after`, and the cursor behind what was looked at. Without a
        cursor they begin with the oldest that is kept.

        Raises Expired if events behind the cursor have been removed.
        """
        if after is None:
            return await asyncio.to_thread(self._from_store, None, self.last, limit, wanted)
        after = min(after, self.last)
        if self._recent and after >= self._recent[0].seq - 1:
            return self._from_memory(after, limit, wanted)
        if after == self.last:
            return [], after
        return await asyncio.to_thread(self._from_store, after, self.last, limit, wanted)

    def _from_memory(self, after: int, limit: int, wanted: Selection) -> tuple[list[Event], int]:
        recent = self._recent
        start = after + 1 - recent[0].seq
        if wanted == _ALL:
            found = recent[start : start + limit]
        else:
            places = range(start, len(recent))
            found = list(islice((recent[place] for place in places if wanted.takes(recent[place])), limit))
        return found, found[-1].seq if len(found) == limit else self.last

    def _from_store(self, after: int | None, last: int, limit: int, wanted: Selection) -> tuple[list[Event], int]:
        found, upto = self._store.events(
            after, limit, job=wanted.job, types=wanted.types or None, states=wanted.states or None
        )
        # What is on disk but not published yet comes with its own batch.
        return [event for event in found if event.seq <= last], min(upto, last)

    async def follow(
        self,
        after: int | None,
        wanted: Selection,
        ended: Callable[[], bool] | None = None,
        beat: float | None = None,
    ) -> AsyncIterator[Collection[Event]]:
        """Wanted events in batches, for ever: until the feed is closed, or `ended` once everything has been seen.

        An empty batch says that nothing happened for `beat` seconds.
        """
        while True:
            done = ended is not None and ended()
            seen = self.last
            found, after = await self.page(after, PAGE, wanted)
            if found:
                yield found
            elif after >= seen:
                if done or self._closed:
                    return
                if after >= self.last and not await self.changed(beat) and not self._closed:
                    yield ()


_ALL = Selection()
