"""Scheduling: which waiting runs start now, where, and when the others may expect to.

Runs wait in order of priority, then age. Backfill is conservative: each waiting run, down to `backfill_depth`, holds a
reservation for the earliest time at which it fits, and a later one starts only where it delays none of them. A run
without a time limit is planned as `assumed_time` long.

A run that asks for nothing but a place in the process table ("light") is not queued behind others: it starts while its
node has slots.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import NamedTuple

from runyard.core.claim import Claim, Kind, Policy, claim_of
from runyard.core.plan import Outlooks, Plan
from runyard.core.pool import Pool
from runyard.core.record import JobRecord
from runyard.model.ids import RunKey
from runyard.model.node import Node, Share

#: After a plan that took n looks at a node, planning rests for n² times this (seconds), at most `MAX_REST`: unnoticed
#: in a small or idle cluster, while a large and full one spends little of its time on plans. The first in the queue
#: never waits for a plan.
LOOK_REST = 100e-6
MAX_REST = 60.0


class Ticket(NamedTuple):
    """A waiting run's place in the queue; sorts by priority, then age, then replica."""

    rank: int
    job: int
    replica: int


class Start(NamedTuple):
    """A decision: this run starts now, on these shares."""

    job: int
    replica: int
    shares: list[Share]


class Scheduler:
    """The queue over a pool of nodes. Changed only by its methods; `starts` takes the decisions."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.pool = Pool(policy)
        self._outlooks = Outlooks(self.pool)
        self._light: dict[Ticket, Claim] = {}
        self._light_order: list[Ticket] = []
        self._queue: list[Ticket] = []
        self._claims: dict[Ticket, Claim] = {}
        #: Something has changed since the last decision.
        self.dirty = False
        self._rest_until = 0.0
        #: When to decide again even if nothing changes (Unix seconds); None if there is nothing to decide.
        self.retry_at: float | None = None

    def node_up(self, node: Node) -> bool:
        """A node is there, new or again. True if it is new, or not as it was."""
        self.dirty = True
        return self.pool.node_up(node)

    def hold(self, run: RunKey, shares: list[Share], until: float) -> None:
        """`run` has these shares, planned to end at `until` (Unix seconds)."""
        self.pool.hold(run, shares, until)

    def release(self, run: RunKey) -> None:
        """`run` has ended; unknown runs are ignored."""
        if self.pool.release(run):
            self.dirty = True

    # The queue ----------------------------------------------------------------------------------------------------

    def add(self, record: JobRecord, replica: int) -> None:
        """This replica is ready but for resources."""
        ticket = Ticket(-record.priority, record.id, replica)
        claim = claim_of(record.spec, self.policy)
        if claim.light:
            if ticket not in self._light:
                self._light[ticket] = claim
                order = self._light_order
                if order and ticket < order[-1]:
                    insort(order, ticket)
                else:
                    order.append(ticket)
        elif ticket not in self._claims:
            self._claims[ticket] = claim
            insort(self._queue, ticket)
        self.dirty = True

    def remove(self, record: JobRecord, replica: int, priority: int | None = None) -> None:
        """This replica no longer waits; `priority` is what it waited with, if that has changed since."""
        ticket = Ticket(-(record.priority if priority is None else priority), record.id, replica)
        if self._light.pop(ticket, None) is not None:
            del self._light_order[bisect_left(self._light_order, ticket)]
        elif self._claims.pop(ticket, None) is not None:
            del self._queue[bisect_left(self._queue, ticket)]
            self.dirty = True

    def waits(self, record: JobRecord, replica: int) -> bool:
        ticket = Ticket(-record.priority, record.id, replica)
        return ticket in self._light or ticket in self._claims

    def position(self, record: JobRecord, replica: int) -> int | None:
        """1-based place in the queue for resources; None if it is not in it."""
        ticket = Ticket(-record.priority, record.id, replica)
        if ticket in self._claims:
            return bisect_left(self._queue, ticket) + 1
        return bisect_left(self._light_order, ticket) + 1 if ticket in self._light else None

    # Deciding -----------------------------------------------------------------------------------------------------

    def starts(self, now: float) -> Iterator[Start]:
        """What starts now. Each decision must be followed by `hold` before the next is asked for."""
        self.dirty = False
        self.retry_at = None
        yield from self._light_starts()
        yield from self._claimed_starts(now)

    def _light_starts(self) -> Iterator[Start]:
        order, self._light_order = self._light_order, []
        rest: list[Ticket] = []
        full: set[str] = set()
        for index, ticket in enumerate(order):
            claim = self._light.get(ticket)
            if claim is None:
                continue
            name = None if claim.executor in full else self.pool.next_slot(claim.executor)
            if name is None:
                full.add(claim.executor)
                rest.append(ticket)
                if full.issuperset(self.pool.executors):
                    rest.extend(order[index + 1 :])
                    break
                continue
            del self._light[ticket]
            yield Start(ticket.job, ticket.replica, [Share(name, [], [], 0)])
        self._light_order = sorted(rest + self._light_order) if self._light_order else rest

    def _claimed_starts(self, now: float) -> Iterator[Start]:
        plan = Plan(self.pool, self._outlooks, now)
        # What could not start, by kind, with the shortest duration: none that is longer can start either. Zero stands
        # for kinds for which there is no room at all.
        hopeless: dict[Kind, float] = {}
        position = reserved = 0
        # Without any backfill the first in the queue is still looked at.
        depth = max(1, self.policy.backfill_depth)
        while position < min(len(self._queue), depth):
            ticket = self._queue[position]
            claim = self._claims[ticket]
            kind = claim.kind
            if kind not in hopeless:
                hopeless[kind] = math.inf if self.pool.fits_now(claim) else 0.0
            if claim.duration >= hopeless[kind]:
                position += 1
                continue
            # Those before it reserve only now: as long as nothing fits, there is nothing to plan.
            if position and now < self._rest_until:
                self.retry_at = self._rest_until
                return
            for earlier in self._queue[reserved:position]:
                plan.reserve(self._claims[earlier])
            reserved = position
            chosen = plan.fit_now(claim)
            if chosen is None:
                hopeless[kind] = claim.duration
                position += 1
                continue
            del self._queue[position]
            del self._claims[ticket]
            shares = [self.pool.places[name].cut(claim) for name in chosen]
            yield Start(ticket.job, ticket.replica, shares)
            plan.started(chosen)
        if reserved:
            self._rest_until = now + min(MAX_REST, plan.looks**2 * LOOK_REST)

    def expected_start(self, record: JobRecord, replica: int, now: float) -> float | None:
        """When the plan has this waiting run start (Unix seconds); None if it is not planned that far."""
        ticket = Ticket(-record.priority, record.id, replica)
        if ticket not in self._claims:
            return None
        plan = Plan(self.pool, self._outlooks, now)
        for other in self._queue[: self.policy.backfill_depth]:
            start = plan.reserve(self._claims[other])
            if other == ticket:
                return start
        return None
