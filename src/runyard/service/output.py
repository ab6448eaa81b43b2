"""Reading the output of runs: by offset, from the end, and following a run until it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec

from runyard.core.record import JobRecord
from runyard.model.errors import NotFound
from runyard.model.ids import RunKey
from runyard.model.state import ACTIVE
from runyard.service.engine import Engine
from runyard.store.output import Stream

#: Bytes of one piece.
CHUNK = 256 * 1024
#: Seconds between looks at a growing file: short while it grows, longer while it rests.
QUICK, SLOW = 0.02, 0.25
#: Seconds without output after which a follower hears that the connection still stands.
BEAT = 15.0


class Place(msgspec.Struct):
    """Where a reader stands: which run's output, and the next byte."""

    run: RunKey
    stream: Stream
    offset: int = 0


class OutputReader:
    """Reads what the runs of one engine write."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._files = engine.output

    def place(self, record: JobRecord, stream: Stream, replica: int, attempt: int | None) -> Place:
        """The beginning of a run's output; the replica's last run if no attempt is given. Raises NotFound."""
        if not 0 <= replica < len(record.replicas):
            raise NotFound(f"job {record.id} has no replica {replica}: it has {len(record.replicas)}")
        last = record.replicas[replica].attempt
        chosen = last if attempt is None else attempt
        if attempt is not None and not 1 <= attempt <= last:
            raise NotFound(f"replica {replica} of job {record.id} has had no attempt {attempt}: the last is {last}")
        return Place(RunKey(record.id, replica, chosen), stream)

    def size(self, place: Place) -> int:
        return self._files.size(place.run, place.stream)

    def tail(self, place: Place, lines: int) -> int:
        """The offset of the last so many lines."""
        return self._files.tail(place.run, place.stream, lines)

    async def read(self, place: Place, upto: int | None) -> AsyncIterator[bytes]:
        """What is there, up to the offset `upto`."""
        while upto is None or place.offset < upto:
            limit = CHUNK if upto is None else min(CHUNK, upto - place.offset)
            piece = await asyncio.to_thread(self._files.read, place.run, place.stream, place.offset, limit)
            if not piece:
                return
            place.offset += len(piece)
            yield piece

    async def follow(self, place: Place, *, onward: bool) -> AsyncIterator[bytes]:
        """What is there and what comes, until the run has ended; with `onward`, until the job has.

        An empty piece says that nothing came for `BEAT` seconds.
        """
        pause, silence = QUICK, 0.0
        while True:
            # Asked before the read: what an ended run has written is all there.
            over = self._over(place.run)
            grew = False
            async for piece in self.read(place, None):
                grew = True
                yield piece
            if grew:
                pause, silence = QUICK, 0.0
                continue
            if over:
                following = self._next(place.run) if onward else None
                if following is not None:
                    place.run, place.offset = following, 0
                    continue
                if not onward or self._engine.record(place.run.job) is None:
                    return
            if self._engine.closing:
                return
            await self._engine.ended(place.run.job, pause)
            silence += pause
            pause = min(pause * 1.5, SLOW)
            if silence >= BEAT:
                silence = 0.0
                yield b""

    def _over(self, run: RunKey) -> bool:
        record = self._engine.record(run.job)
        if record is None:
            return True
        replica = record.replicas[run.replica]
        if run.attempt == 0:
            return replica.attempt > 0
        return run.attempt < replica.attempt or (run.attempt == replica.attempt and replica.state not in ACTIVE)

    def _next(self, run: RunKey) -> RunKey | None:
        record = self._engine.record(run.job)
        if record is None or record.replicas[run.replica].attempt <= run.attempt:
            return None
        return RunKey(run.job, run.replica, run.attempt + 1)
