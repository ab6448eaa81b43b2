"""How the use of each job went: a bounded series that gets coarser as it gets longer. Pure."""

from __future__ import annotations

from array import array
from collections import OrderedDict

import msgspec

#: Jobs that are remembered; those heard of least lately are forgotten first.
MAX_JOBS = 4096
_NAMES = ("at", "cpu_percent", "cpu_seconds", "memory", "io_read", "io_write", "processes", "gpu_percent", "gpu_memory")
_WIDTH = len(_NAMES)


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


class _Ring:
    __slots__ = ("numbers", "pending", "step")

    def __init__(self) -> None:
        self.numbers = array("d")
        self.step = 1
        """Samples in each point."""
        self.pending: list[tuple[float, ...]] = []

    def add(self, row: tuple[float, ...], most: int) -> None:
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

    def rows(self) -> list[tuple[float, ...]]:
        return [tuple(self.numbers[place : place + _WIDTH]) for place in range(0, len(self.numbers), _WIDTH)]


class History:
    def __init__(self, points: int = 240, jobs: int = MAX_JOBS) -> None:
        """`points`: for each job, at least so many are kept once it has had them, and at most twice as many."""
        self._points = points
        self._most = jobs
        self._rings: OrderedDict[int, _Ring] = OrderedDict()

    def add(self, job: int, point: UsagePoint) -> None:
        ring = self._rings.get(job)
        if ring is None:
            ring = self._rings[job] = _Ring()
            if len(self._rings) > self._most:
                self._rings.popitem(last=False)
        else:
            self._rings.move_to_end(job)
        ring.add(tuple(float(getattr(point, name)) for name in _NAMES), self._points)

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


def merge(rows: list[tuple[float, ...]]) -> tuple[float, ...]:
    """Several samples as one: the mean of what is a share, the most of what is an amount, the last of what counts."""
    shares, amounts = {"cpu_percent", "gpu_percent"}, {"memory", "gpu_memory", "processes"}
    return tuple(
        sum(column) / len(column) if name in shares else max(column) if name in amounts else column[-1]
        for name, column in zip(_NAMES, zip(*rows, strict=True), strict=True)
    )


def _as(name: str, value: float) -> float | int:
    return round(value, 3) if name in ("at", "cpu_percent", "cpu_seconds", "gpu_percent") else int(value)
