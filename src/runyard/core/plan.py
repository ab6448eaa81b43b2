"""The future as planned: when waiting runs may start, and what may start before them without delay to any."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from runyard.core.claim import Claim, Vector
from runyard.core.pool import Place, Pool, Release


class Reservation(NamedTuple):
    start: float
    end: float
    amount: Vector


class Plan:
    """The future as planned in one pass: present releases, and the reservations made so far."""

    def __init__(self, pool: Pool, now: float) -> None:
        self._pool = pool
        self._now = now
        self._reserved: dict[str, list[Reservation]] = {}
        self._by_node: dict[str, list[Release]] | None = None
        self.depth = 0

    def fit_now(self, claim: Claim) -> list[str] | None:
        """Nodes on which the claim can start now without delaying any reservation."""
        chosen: list[str] = []
        for place in self._pool.candidates(claim):
            name = place.node.name
            if name not in self._reserved or self._fits_at(place, claim, self._now):
                chosen.append(name)
                if len(chosen) == claim.nodes:
                    return chosen
        return None

    def reserve(self, claim: Claim) -> float | None:
        """Reserves the earliest time at which the claim fits, and returns it; None if it never does."""
        self.depth += 1
        places = self._pool.places
        # Nodes that fit at the present moment but are spoken for become free again when a reservation ends.
        ready: dict[str, None] = {}
        seen: set[float] = set()
        for moment, name in self._moments(claim):
            place = places[name]
            if not place.up or place.node.executor != claim.executor or not claim.each.fits(place.total):
                continue
            if moment not in seen:
                seen.add(moment)
                ready = {other: None for other in ready if self._fits_at(places[other], claim, moment)}
            if name not in ready and self._fits_at(place, claim, moment):
                ready[name] = None
            if len(ready) >= claim.nodes:
                for other in list(ready)[: claim.nodes]:
                    amount = places[other].want(claim)
                    self._reserved.setdefault(other, []).append(Reservation(moment, moment + claim.duration, amount))
                return moment
        return None

    def _moments(self, claim: Claim) -> Iterator[tuple[float, str]]:
        """Times at which something becomes free, with the node, in order; those that fit now come first."""
        first = self._now
        for place in self._pool.candidates(claim):
            yield first, place.node.name
        ends = [(r.end, name) for name, rows in self._reserved.items() for r in rows]
        ends.sort()
        position = 0
        for release in self._pool.releases:
            moment = max(release.end, first + 1.0)
            while position < len(ends) and ends[position][0] <= moment:
                yield max(ends[position][0], first + 1.0), ends[position][1]
                position += 1
            yield moment, release.node
        yield from ends[position:]

    def _fits_at(self, place: Place, claim: Claim, start: float) -> bool:
        """Does the claim fit on the node from `start` for its whole duration, besides what is reserved there?"""
        want, end = place.want(claim), start + claim.duration
        rows = self._reserved.get(place.node.name, ())
        moments = [start, *(row.start for row in rows if start < row.start < end)]
        for moment in moments:
            free = place.free
            for release in self._releases_of(place.node.name):
                if max(release.end, self._now + 1.0) <= moment:
                    free = free.plus(release.amount)
            for row in rows:
                if row.start <= moment < row.end:
                    free = free.minus(row.amount)
            if not want.fits(free):
                return False
        return True

    def _releases_of(self, name: str) -> list[Release]:
        if self._by_node is None:
            self._by_node = {}
            for release in self._pool.releases:
                self._by_node.setdefault(release.node, []).append(release)
        return self._by_node.get(name, [])
