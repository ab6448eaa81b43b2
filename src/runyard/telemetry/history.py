"""How the use of each job went: a bounded series that gets coarser as it gets longer. Pure."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Mapping

import msgspec

#: Jobs that are remembered; those heard of least lately are forgotten first.
MAX_JOBS = 4096


class UsagePoint(msgspec.Struct, frozen=True, kw_only=True):
    """Of all runs of a job that were up at that moment."""

    at: float
    """Unix seconds."""
    cpu_percent: float
    cpu_seconds: float
    memory: int
    io_read: int
    io_write: int
    processes: int
    gpu_percent: float = 0.0
    gpu_memory: int = 0
    gpu_memory_percent: float = 0.0


#: A point as numbers, in the order of its fields.
Row = tuple[float, ...]
_NAMES = UsagePoint.__struct_fields__
_WIDTH = len(_NAMES)
_SHARES = frozenset({"cpu_percent", "gpu_percent", "gpu_memory_percent"})
_AMOUNTS = frozenset({"memory", "gpu_memory", "processes"})


class UsageSeries(msgspec.Struct, frozen=True, kw_only=True):
    """Columns of equal length: the n-th numbers of all of them belong together."""

    at: list[float] = []
    """Unix seconds."""
    cpu_percent: list[float] = []
    """Of one core: the mean since the point before."""
    cpu_seconds: list[float] = []
    memory: list[int] = []
    """Bytes: the most since the point before."""
    io_read: list[int] = []
    io_write: list[int] = []
    processes: list[int] = []
    gpu_percent: list[float] = []
    gpu_memory: list[int] = []
    gpu_memory_percent: list[float] = []


class _Ring:
    __slots__ = ("numbers", "pending", "step")

    def __init__(self) -> None:
        self.numbers = array("d")
        self.step = 1
        """Samples in each point."""
        self.pending: list[Row] = []

    def add(self, row: Row, most: int) -> None:
        if self.step == 1:
            self.numbers.extend(row)
        else:
            self.pending.append(row)
            if len(self.pending) < self.step:
                return
            self.numbers.extend(merge(self.pending))
            self.pending = []
        if len(self.numbers) >= 2 * most * _WIDTH:
            rows = self.rows()
            self.numbers = array("d")
            for place in range(0, len(rows) - 1, 2):
                self.numbers.extend(merge(rows[place : place + 2]))
            self.step *= 2

    def rows(self) -> list[Row]:
        return [tuple(self.numbers[place : place + _WIDTH]) for place in range(0, len(self.numbers), _WIDTH)]


class History:
    def __init__(self, points: int = 240, jobs: int = MAX_JOBS) -> None:
        """`points`: for each job, at least so many are kept once it has had them, and at most twice as many."""
        self._points = points
        self._most = jobs
        self._rings: OrderedDict[int, _Ring] = OrderedDict()

    def add(self, rows: Mapping[int, Row]) -> None:
        """A sample: of each job, its point."""
        for job, numbers in rows.items():
            ring = self._rings.get(job)
            if ring is None:
                ring = self._rings[job] = _Ring()
                if len(self._rings) > self._most:
                    self._rings.popitem(last=False)
            else:
                self._rings.move_to_end(job)
            ring.add(numbers, self._points)

    def series(self, job: int, since: float | None = None) -> UsageSeries:
        """All there is of a job, the newest sample included; with `since` (Unix seconds) only what is later."""
        ring = self._rings.get(job)
        if ring is None:
            return UsageSeries()
        rows = ring.rows()
        if ring.pending:
            rows.append(merge(ring.pending))
        rows = [row for row in rows if since is None or row[0] > since]
        columns = {name: [row[place] for row in rows] for place, name in enumerate(_NAMES)}
        return msgspec.convert(
            {name: [_as(name, value) for value in values] for name, values in columns.items()}, UsageSeries
        )

    def __len__(self) -> int:
        return len(self._rings)


def row(point: UsagePoint) -> Row:
    return msgspec.structs.astuple(point)


def merge(rows: list[Row]) -> Row:
    """Several samples as one: the mean of what is a share, the most of what is an amount, the last of what counts."""
    return tuple(
        sum(column) / len(column) if name in _SHARES else max(column) if name in _AMOUNTS else column[-1]
        for name, column in zip(_NAMES, zip(*rows, strict=True), strict=True)
    )


def _as(name: str, value: float) -> float | int:
    return round(value, 3) if name in _SHARES or name in ("at", "cpu_seconds") else int(value)
