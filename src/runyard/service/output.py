"""Reading the output of runs: by offset, from the end, and following a run until it has ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import msgspec

from runyard.core.record import JobRecord
from runyard.model.errors import NotFound
from runyard.model.ids import RunKey
from runyard.model.state import ACTIVE
from runyard.service.engine import Engine
from runyard.store.output import OutputFiles, Stream

log = logging.getLogger(__name__)

#: Bytes of one piece.
CHUNK = 256 * 1024
#: Seconds between looks at a growing file: short while it grows, longer while it rests.
QUICK, SLOW = 0.02, 0.25
#: Seconds without output after which a follower hears that the connection still stands.
BEAT = 15.0
#: Seconds between looks at the sizes of live outputs.
TRIM_INTERVAL = 2.0


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

    def start(self, place: Place) -> int:
        """The first offset that is still there: the oldest output of a run may have been given up."""
        return min(self._files.start(place.run, place.stream), self.size(place))

    def tail(self, place: Place, lines: int) -> int:
        """The offset of the last so many lines."""
        return self._files.tail(place.run, place.stream, lines)

    async def read(self, place: Place, upto: int | None) -> AsyncIterator[bytes]:
        """What is there, up to the offset `upto`. What is given up meanwhile reads as NUL bytes: lengths stay true."""
        while upto is None or place.offset < upto:
            limit = CHUNK if upto is None else min(CHUNK, upto - place.offset)
            piece = await asyncio.to_thread(self._files.read, place.run, place.stream, place.offset, limit)
            if not piece:
                return
            place.offset += len(piece)
            yield piece

    async def search(self, place: Place, text: bytes) -> AsyncIterator[bytes]:
        """The lines that contain `text`, as they stand; only what is there now. Lines longer than `CHUNK` are cut."""
        rest = b""
        place.offset = max(place.offset, self.start(place))
        async for piece in self.read(place, self.size(place)):
            *lines, rest = (rest + piece).split(b"\n")
            found = [line + b"\n" for line in lines if text in line]
            if found:
                yield b"".join(found)
            rest = rest[-CHUNK:]
        if text in rest and rest:
            yield rest

    async def follow(self, place: Place, *, onward: bool) -> AsyncIterator[bytes]:
        """What is there and what comes, until the run has ended; with `onward`, until the job has.

        An empty piece says that nothing came for `BEAT` seconds.
        """
        pause, silence = QUICK, 0.0
        while True:
            # Asked before the read: what an ended run has written is all there.
            over = self._over(place.run)
            grew = False
            place.offset = max(place.offset, self.start(place))
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
        # Between two looks it may have started, run and ended.
        record = self._engine.find(run.job)
        if record is None or record.replicas[run.replica].attempt <= run.attempt:
            return None
        return RunKey(run.job, run.replica, run.attempt + 1)


async def trim_outputs(engine: Engine, interval: float = TRIM_INTERVAL) -> None:
    """Keeps the output of runs below their `output.max_size`, for ever: while they are up, and once after their end."""
    unable: set[int] = set()
    while True:
        await asyncio.sleep(interval)
        bounded, engine.bounded_ends = engine.bounded_ends, []
        bounded += [
            (RunKey(record.id, index, replica.attempt), record.spec.output.max_size)
            for record in engine.reactor.jobs.values()
            if record.spec.output.max_size is not None
            for index, replica in enumerate(record.replicas)
            if replica.state in ACTIVE
        ]
        if not bounded:
            continue
        for job, error in (await asyncio.to_thread(_trim, engine.output, bounded)).items():
            if job not in unable:
                unable.add(job)
                log.warning("the output of job %s can't be kept below its max_size: %s", job, error)


def _trim(files: OutputFiles, bounded: list[tuple[RunKey, int]]) -> dict[int, OSError]:
    """Returns the jobs with which that failed."""
    failed: dict[int, OSError] = {}
    for run, keep in bounded:
        for stream in Stream:
            try:
                files.trim(run, stream, keep)
            except OSError as error:
                failed[run.job] = error
    return failed
