"""Open streams: how many there are, and that each ends soon after its caller may not come in any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import suppress

from runyard.auth.authenticator import Authenticator
from runyard.auth.caller import Caller
from runyard.model.errors import RunyardError, TooMany

#: Seconds between looks at the credentials behind open streams.
LOOK = 1.0
#: Bytes that are handed to a reader at once, about: whoever is slow has no more than that waiting.
PIECE = 64 * 1024


def joined(texts: Iterable[bytes]) -> Iterator[bytes]:
    """Pieces for a stream; `texts` are made as they are needed."""
    held: list[bytes] = []
    size = 0
    for text in texts:
        held.append(text)
        size += len(text)
        if size >= PIECE:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


class Streams:
    """Those of one server. For the event loop's thread."""

    def __init__(self, most: int, auth: Authenticator | None) -> None:
        self._most, self._auth = most, auth
        self._open: set[_Stream] = set()

    def open(self, caller: Caller, pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The same pieces, counted as an open stream. Raises TooMany at once if too many are open."""
        if len(self._open) >= self._most:
            raise TooMany(f"{len(self._open)} streams are open, the limit is [server] max_streams")
        return self._run(_Stream(caller), pieces)

    async def _run(self, stream: _Stream, pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        self._open.add(stream)
        try:
            while (piece := await stream.next(pieces)) is not None:
                yield piece
        finally:
            self._open.discard(stream)

    async def watch(self) -> None:
        """Ends streams whose callers are disabled, or whose tokens have expired or were revoked; for ever."""
        assert self._auth is not None
        while True:
            await asyncio.sleep(LOOK)
            # Whoever follows the changes says when the accounts can't be read. Meanwhile the last ones count.
            with suppress(RunyardError):
                await self._auth.directory()
            for stream in list(self._open):
                if not self._auth.holds(stream.caller):
                    stream.end()


class _Stream:
    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self._over = False
        self._waiting: asyncio.Timeout | None = None

    async def next(self, pieces: AsyncIterator[bytes]) -> bytes | None:
        """The next piece; None if there are no more, or it has been ended."""
        if self._over:
            return None
        # `end` gives it a time.
        self._waiting = waiting = asyncio.timeout(None)
        try:
            async with waiting:
                return await anext(pieces)
        except StopAsyncIteration:
            return None
        except TimeoutError:
            if not waiting.expired():
                raise
            return None
        finally:
            self._waiting = None

    def end(self) -> None:
        if not self._over and self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time())
        self._over = True
