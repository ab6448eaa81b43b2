"""The messages of jobs: in, durably and bounded; out, by cursor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence

import msgspec

from runyard.model.message import Message, NewMessage
from runyard.service.engine import Engine
from runyard.store.batch import Batch


class Appended(msgspec.Struct, frozen=True):
    """What became of messages: how many were kept, how many the sampling of a flood has dropped, the last `seq`."""

    kept: int
    dropped: int
    last: int


class Messages:
    """One per server; `context.messages`. All methods are for the event loop's thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def append(
        self, messages: Sequence[NewMessage], keep: Callable[[Batch, Appended], None] | None = None
    ) -> Appended:
        """Keeps messages, in this order; when it returns they are on disk and readers get them.

        `keep` adds to the same transaction (offsets of a file, for example). A job that floods is sampled: kinds in
        `PRECIOUS` and what the server says are never dropped. Raises StorageFull, Unavailable.
        """
        raise NotImplementedError

    async def page(
        self, job: int | None, after: int, limit: int, kinds: frozenset[str] = frozenset()
    ) -> tuple[list[Message], int]:
        """Up to `limit` messages behind the cursor `after` of one job, or of all; and the cursor behind what was
        looked at. Raises Expired."""
        raise NotImplementedError

    def follow(
        self, job: int | None, after: int, kinds: frozenset[str] = frozenset(), beat: float | None = None
    ) -> AsyncIterator[Collection[Message]]:
        """Messages in batches; an empty batch says that nothing came for `beat` seconds. Of one job, it ends when the
        job has ended, nobody holds it open (`hold`), and everything was seen."""
        raise NotImplementedError

    def hold(self, job: int) -> None:
        """More messages of this job may come, even if it ends: streams of it stay open until `release`."""
        raise NotImplementedError

    def release(self, job: int) -> None:
        """All has been said of what this holder had to say."""
        raise NotImplementedError
