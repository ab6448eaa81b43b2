"""Curves of the jobs' metrics: read from the store once, then kept up to date in memory for as long as they fit."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from runyard.model.series import Curves, Point, Series, reduced
from runyard.store.messages import MessageQueries

#: Points of all jobs in memory.
MOST = 400_000
_PAGE = 1000
#: Two jobs may share one; a job is read by one at a time.
_LOCKS = 64

_decoder = msgspec.json.Decoder(dict)


class SeriesDoc(msgspec.Struct, kw_only=True):
    """One curve. `points` are `[step, time, value]`: the step is null if the program says none, the time is Unix
    seconds, a value is null where it was no number."""

    name: str
    count: int
    """Values that were reported, of which `points` may be a selection."""
    min: float | None
    max: float | None
    last: float | None
    last_at: datetime
    points: list[Point]


class SeriesList(msgspec.Struct, kw_only=True):
    """The curves of a job, by name."""

    job: str
    items: list[SeriesDoc]
    names: list[str]
    """All that there are."""
    upto: int
    """`seq` of the last message that is in; `after` for those that follow."""
    left_out: int = 0
    """Values under more names than a job can have."""


class SeriesCache:
    """The curves of jobs. For the event loop's thread."""

    def __init__(self, queries: MessageQueries) -> None:
        self._queries = queries
        #: With the points that each holds.
        self._jobs: OrderedDict[int, tuple[Curves, int]] = OrderedDict()
        self._locks = [asyncio.Lock() for _ in range(_LOCKS)]

    async def read(self, job: int, names: Sequence[str] | None, points: int) -> SeriesList:
        """The named curves, or all of them, each with at most `points` points."""
        async with self._locks[hash((job,)) % _LOCKS]:
            curves, _ = self._jobs.get(job) or (Curves(), 0)
            result = await asyncio.to_thread(self._read, job, curves, names, points)
            self._jobs[job] = curves, curves.size
            self._jobs.move_to_end(job)
        held = sum(size for _, size in self._jobs.values())
        while held > MOST and len(self._jobs) > 1:
            # Those that nobody has asked for longest.
            _, (_, size) = self._jobs.popitem(last=False)
            held -= size
        return result

    def _read(self, job: int, curves: Curves, names: Sequence[str] | None, points: int) -> SeriesList:
        more = True
        while more:
            rows = self._queries.metrics(job, curves.seq, _PAGE)
            for seq, at, body in rows:
                curves.add(seq, at, _decoder.decode(body))
            more = bool(rows)
        chosen = list(curves.names) if names is None else [name for name in names if name in curves.names]
        items = [_doc(name, curves.names[name], points) for name in chosen]
        return SeriesList(
            job=str(job), items=items, names=list(curves.names), upto=curves.seq, left_out=curves.left_out
        )


def _doc(name: str, series: Series, points: int) -> SeriesDoc:
    _, at, value = series.points[-1]
    return SeriesDoc(
        name=name,
        count=series.count,
        min=series.low,
        max=series.high,
        last=value,
        last_at=datetime.fromtimestamp(at, UTC),
        points=reduced(series.points, points),
    )
