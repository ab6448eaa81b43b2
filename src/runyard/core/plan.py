"""The future as planned: when waiting runs may start, and what may start before them without delay to any."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from typing import NamedTuple

from runyard.core.claim import Claim, Kind, Vector
from runyard.core.pool import Place, Pool

#: A run that is past its planned end is taken to end in this time (seconds).
OVERDUE = 1.0
#: Kinds of claims for which the outlook of all nodes is kept.
MAX_OUTLOOKS = 32


class Outlook:
    """For one kind of claim: every node that can ever take it, by the planned end of the run that lets it in.

    Minus infinity stands for now. Kept up to date by what has changed on the nodes.
    """

    def __init__(self, pool: Pool, claim: Claim) -> None:
        self._pool = pool
        self._claim = claim
        self.ends: dict[str, float] = {}
        self.order: list[tuple[float, str]] = []
        self.changed = set(pool.places)

    def refresh(self) -> None:
        ends, order = self.ends, self.order
        fresh: list[tuple[float, str]] = []
        for name in sorted(self.changed):
            end = self._end(self._pool.places[name])
            old = ends.pop(name, None)
            if old is not None:
                del order[bisect_left(order, (old, name))]
            if end is not None:
                ends[name] = end
                fresh.append((end, name))
        self.changed.clear()
        if len(fresh) > len(order) // 8:
            order += fresh
            order.sort()
        else:
            for row in fresh:
                insort(order, row)

    def _end(self, place: Place) -> float | None:
        claim = self._claim
        if not place.up or place.node.executor != claim.executor or not claim.each.fits(place.total):
            return None
        want, free = place.want(claim), place.free
        if want.fits(free):
            return -math.inf
        for end, _, amount in place.releases:
            free = free.plus(amount)
            if want.fits(free):
                return end
        # The node has become smaller than what its runs hold: one of them has to end first.
        return place.releases[-1].end if place.releases else None


class Outlooks:
    """The outlooks for the kinds of claims that were asked for last."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._kept: dict[Kind, Outlook] = {}

    def of(self, claim: Claim) -> Outlook:
        outlook = self._kept.pop(claim.kind, None)
        if outlook is None:
            outlook = Outlook(self._pool, claim)
            self._pool.watchers.append(outlook.changed)
            if len(self._kept) >= MAX_OUTLOOKS:
                oldest = self._kept.pop(next(iter(self._kept)))
                self._pool.watchers[:] = [seen for seen in self._pool.watchers if seen is not oldest.changed]
        self._kept[claim.kind] = outlook
        outlook.refresh()
        return outlook


class Reservation(NamedTuple):
    start: float
    end: float
    amount: Vector


class Plan:
    """The future as planned in one pass: present releases, and the reservations made so far."""

    def __init__(self, pool: Pool, outlooks: Outlooks, now: float) -> None:
        self._pool = pool
        self._outlooks = outlooks
        self._now = now
        #: How often it was asked when a single node can take a claim: the measure of the work done.
        self.looks = 0
        self._reserved: dict[str, list[Reservation]] = {}
        #: Nodes on which something was reserved or started in this pass, with a count: times there only move back.
        self.touched: dict[str, int] = {}
        #: Of the touched nodes those that are only reserved as a whole: from when until when, in order.
        self.blocked: dict[str, list[tuple[float, float]]] = {}
        self._profiles: dict[str, list[tuple[float, Vector]]] = {}
        self._fronts: dict[tuple[Kind, float], Front] = {}

    def fit_now(self, claim: Claim) -> list[str] | None:
        """Nodes on which the claim can start now without delaying any reservation."""
        chosen: list[str] = []
        for place in self._pool.candidates(claim):
            name = place.node.name
            if name not in self._reserved or self.earliest(name, claim, self._now) == self._now:
                chosen.append(name)
                if len(chosen) == claim.nodes:
                    return chosen
        return None

    def started(self, names: list[str]) -> None:
        """A run was started on these nodes."""
        for name in names:
            self._touch(name)
            self.blocked.pop(name, None)

    def reserve(self, claim: Claim) -> float | None:
        """Reserves the earliest time at which the claim fits, and returns it; None if it never does."""
        front = self._fronts.get((claim.kind, claim.duration))
        if front is None:
            front = self._fronts[claim.kind, claim.duration] = Front(self, self._outlooks.of(claim), claim, self._now)
        found = front.take()
        if found is None:
            return None
        moment, names = found
        end = moment + claim.duration
        for name in names:
            place = self._pool.places[name]
            amount = place.want(claim)
            if amount == place.total and (name in self.blocked or name not in self.touched):
                insort(self.blocked.setdefault(name, []), (moment, end))
            else:
                self.blocked.pop(name, None)
            self._reserved.setdefault(name, []).append(Reservation(moment, end, amount))
            self._touch(name)
        return moment

    def _touch(self, name: str) -> None:
        self.touched[name] = self.touched.get(name, 0) + 1
        self._profiles.pop(name, None)

    def earliest(self, name: str, claim: Claim, after: float) -> float:
        """When the claim fits on the node for its whole duration, from `after` on (Unix seconds)."""
        self.looks += 1
        want = self._pool.places[name].want(claim)
        start: float | None = None
        for moment, free in self._profile(name):
            if want.fits(free):
                if start is None:
                    start = max(moment, after)
            elif start is not None:
                if moment >= start + claim.duration:
                    return start
                start = None
        return math.inf if start is None else start

    def _profile(self, name: str) -> list[tuple[float, Vector]]:
        """What is free on the node from which moment on, reservations considered."""
        profile = self._profiles.get(name)
        if profile is None:
            place = self._pool.places[name]
            soon = self._now + OVERDUE
            steps = [(max(end, soon), amount) for end, _, amount in place.releases]
            free = place.free
            for start, end, amount in self._reserved.get(name, ()):
                if start > self._now:
                    steps.append((start, _NONE.minus(amount)))
                else:
                    free = free.minus(amount)
                steps.append((end, amount))
            steps.sort()
            profile = [(self._now, free)]
            for moment, amount in steps:
                free = free.plus(amount)
                if profile[-1][0] == moment:
                    profile[-1] = (moment, free)
                else:
                    profile.append((moment, free))
            self._profiles[name] = profile
        return profile


class Front:
    """For claims of one kind and duration: the nodes by the earliest time at which they can take one, soonest first."""

    def __init__(self, plan: Plan, outlook: Outlook, claim: Claim, now: float) -> None:
        self._plan = plan
        self._claim = claim
        self._now = now
        self._ends = outlook.ends
        self._untouched = iter(list(outlook.order))
        self._next = next(self._untouched, None)
        self._heap: list[tuple[float, str, int]] = []

    def take(self) -> tuple[float, list[str]] | None:
        """The earliest time at which as many nodes as the claim asks for can take it together, and these nodes."""
        seen: list[tuple[float, str, int]] = []
        # Nodes that can take it, with the time from which on that is known.
        ready: dict[str, float] = {}
        # Nodes that could have taken it at some moment, but not when the others can: when they can again.
        again: list[tuple[float, str]] = []
        moment = self._now
        while True:
            while len(ready) < self._claim.nodes:
                row = self._pop()
                if row is None and not again:
                    break
                if row is None or (again and again[0][0] <= row[0]):
                    if row is not None:
                        self._push(row)
                    start, name = heapq.heappop(again)
                else:
                    seen.append(row)
                    start, name, _ = row
                ready[name] = start
                moment = max(moment, start)
            for name, at in self._later(ready, moment):
                del ready[name]
                if at < math.inf:
                    heapq.heappush(again, (at, name))
            if len(ready) == self._claim.nodes or not again:
                break
        for row in seen:
            self._push(row)
        return (moment, list(ready)) if len(ready) == self._claim.nodes else None

    def _later(self, ready: dict[str, float], moment: float) -> list[tuple[str, float]]:
        """Those of the nodes that can take the claim only after `moment`, and when."""
        late: list[tuple[str, float]] = []
        for name, start in ready.items():
            if start < moment and name in self._plan.touched:
                at = self._plan.earliest(name, self._claim, moment)
                if at > moment:
                    late.append((name, at))
                else:
                    ready[name] = at
        return late

    def _push(self, row: tuple[float, str, int]) -> None:
        heapq.heappush(self._heap, row)

    def _pop(self) -> tuple[float, str, int] | None:
        """The next node, with the earliest time that holds for it as things are now reserved."""
        heap, touched = self._heap, self._plan.touched
        while True:
            if self._next is not None:
                end, name = self._next
                start = self._alone(end)
            if self._next is not None and (not heap or start <= heap[0][0]):
                self._next = next(self._untouched, None)
                version = 0
            elif heap:
                start, name, version = heapq.heappop(heap)
            else:
                return None
            present = touched.get(name, 0)
            if version == present:
                return start, name, version
            # Times only move back while a plan is made: a stale one is a bound, so the order stays right.
            start = self._earliest(name)
            if start < math.inf:
                heapq.heappush(heap, (start, name, present))

    def _alone(self, end: float) -> float:
        """The time that an entry of the outlook stands for, where nothing is reserved."""
        return self._now if end == -math.inf else max(end, self._now + OVERDUE)

    def _earliest(self, name: str) -> float:
        blocked = self._plan.blocked.get(name)
        if blocked is None:
            return self._plan.earliest(name, self._claim, self._now)
        self._plan.looks += 1
        # Nothing fits beside a reservation of the whole node, and without it nothing but the running runs matters.
        start, duration = self._alone(self._ends[name]), self._claim.duration
        for begin, end in blocked:
            if start + duration <= begin:
                break
            if end > start:
                start = end
        return start


_NONE = Vector(0, 0, 0, 0)
