"""Curves of metrics, held in bounded room. Pure.

A curve that grows too long is halved: of each group of neighbours the lowest and the highest point stay, so that no
peak is lost. The same is done for whoever asks for fewer points.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from runyard.model.metrics import flat

#: Step (None if the program says none), time in Unix seconds, value (None where it was no number).
Point = tuple[float | None, float, float | None]
#: Points of one curve that are held, unless its job has many curves.
MOST = 4096
#: Points of one job.
BUDGET = 200_000
_LEAST = 16
#: Curves of one job.
MAX_NAMES = 1000


class Series(msgspec.Struct):
    """One curve. Its figures are of all points, also of those that are not held any more."""

    count: int = 0
    low: float | None = None
    high: float | None = None
    points: list[Point] = []

    def add(self, point: Point) -> None:
        self.points.append(point)
        self.count += 1
        value = point[2]
        if value is not None:
            self.low = value if self.low is None or value < self.low else self.low
            self.high = value if self.high is None or value > self.high else self.high


class Curves:
    """The curves of one job, up to a cursor."""

    def __init__(self) -> None:
        self.seq = 0
        """Everything up to here is in."""
        self.names: dict[str, Series] = {}
        self.left_out = 0
        """Values under names beyond `MAX_NAMES`."""

    @property
    def size(self) -> int:
        """Points that are held."""
        return sum(len(series.points) for series in self.names.values())

    def add(self, seq: int, at: float, body: dict[str, Any]) -> None:
        """Takes in the body of a `metrics` message."""
        self.seq = seq
        step = body.get("step")
        names = self.names
        for name, value in flat(body).items():
            series = names.get(name)
            if series is None:
                if len(names) >= MAX_NAMES:
                    self.left_out += 1
                    continue
                series = names[name] = Series()
            series.add((step, at, value))
            if len(series.points) >= (most := max(_LEAST, min(MOST, BUDGET // len(names)))):
                series.points = reduced(series.points, most // 2)


def reduced(points: Sequence[Point], most: int) -> list[Point]:
    """At most `most` (2 or more) of the points, with the first, the last, and the extremes between."""
    count = len(points)
    if count <= most:
        return list(points)
    buckets = max(0, most - 2) // 2
    result = [points[0]]
    for bucket in range(buckets):
        start, end = (1 + (count - 2) * number // buckets for number in (bucket, bucket + 1))
        result += _extremes(points[start:end])
    result.append(points[-1])
    return result


def _extremes(points: Sequence[Point]) -> Iterable[Point]:
    """Two of the points, in order: the lowest and the highest; a gap takes the place of the lowest."""
    if len(points) <= 2:
        return points
    places = range(len(points))
    known = [place for place in places if points[place][2] is not None]
    gap = next((place for place in places if points[place][2] is None), None)
    if not known:
        return points[:1]
    high = max(known, key=lambda place: points[place][2] or 0.0)
    low = gap if gap is not None else min(known, key=lambda place: points[place][2] or 0.0)
    return [points[place] for place in sorted({low, high})]
