"""Lists of jobs, newest first, that stay fast when there are millions.

A list is a walk along one index, from new to old, that drops what fails the other conditions. Which index is found out
by asking: the first condition that few jobs meet; else whatever comes first. The walk goes in steps, and gives
up its page after `STEPS` are used: then the page is short, and its cursor says where to go on.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import msgspec
from sqlalchemy import ColumnElement, Connection, FromClause, exists, literal, or_, select

from runyard.model.ids import EPOCH, GENERATOR_BITS, MAX_ID, SEQUENCE_BITS
from runyard.model.state import State
from runyard.store import row, tables

STEPS = (2_000, 20_000, 80_000)
"""Jobs that are looked at, at most, in one step after the other."""
_CLOCK_SLACK = 60.0
"""Seconds by which a job's id and its time of submission may disagree."""

_jobs, _labels = tables.jobs.c, tables.job_labels.c


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs to list. All conditions must hold; None and empty mean any."""

    states: frozenset[State] = frozenset()
    kind: str | None = None
    origin: str | None = None
    owner: str | None = None
    name: str | None = None
    labels: dict[str, str] = {}
    q: str | None = None
    """A part of the name or of the command's first 1,000 characters; ASCII letters match in either case."""
    since: float | None = None
    """Submitted at this time (Unix seconds) or later."""
    before: int | None = None
    """Only ids below this one: `JobPage.next` of the page before."""
    limit: int = 100

    @property
    def is_impossible(self) -> bool:
        """Does it ask for a text with NUL? None has one, and PostgreSQL takes none."""
        texts = (self.kind, self.origin, self.owner, self.name, self.q, *self.labels, *self.labels.values())
        return any("\0" in text for text in texts if text is not None)


class _Walk(msgspec.Struct, frozen=True):
    """One condition as a walk along its index, and as a plain test that no index is tempted by."""

    source: FromClause
    id: ColumnElement[int]
    along: list[list[ColumnElement[bool]]]
    """Several when the condition is several ranges of its index."""
    test: ColumnElement[bool]


def page(connection: Connection, wanted: Filter, steps: tuple[int, ...]) -> tuple[list[int], int | None]:
    """The ids of a page, and the cursor of the next one."""
    walks = _walks(wanted)
    tests = _tests(wanted)
    before = wanted.before
    # No job that was submitted at that time or later has a smaller id: ids begin with their time.
    floor = None if wanted.since is None else _id_at(wanted.since - _CLOCK_SLACK)
    chosen = _choose(connection, walks, before, floor, steps[0])
    tests += [walk.test for walk in walks if walk is not chosen]
    ids: list[int] = []
    for step in steps:
        bound = None
        if tests:
            bounds = [_bound(connection, chosen, along, before, floor, step) for along in chosen.along]
            bound = max((found for found in bounds if found is not None), default=None)
        missing = wanted.limit + 1 - len(ids)
        branches = [
            _ids(connection, chosen, along, tests, before, floor if bound is None else bound, missing)
            for along in chosen.along
        ]
        ids += list(heapq.merge(*branches, reverse=True))[:missing]
        if len(ids) > wanted.limit:
            return ids[: wanted.limit], ids[wanted.limit - 1]
        if bound is None:
            return ids, None
        before = bound
    return ids, before


def _walks(wanted: Filter) -> list[_Walk]:
    """The conditions that have an index, those first that usually leave the least."""

    def equal(column: ColumnElement[str], value: str) -> _Walk:
        # Joined to an empty text, so that the test alone never makes the planner leave the chosen walk.
        return _Walk(tables.jobs, _jobs.id, [[column == value]], column + "" == value)

    walks = []
    if wanted.name is not None:
        walks.append(equal(_jobs.name, wanted.name))
    for key, value in wanted.labels.items():
        along = [_labels.key == key, _labels.value == value]
        # Under another name, for the walk may be along another label.
        other = tables.job_labels.alias().c
        test = exists().where(other.job == _jobs.id, other.key == key, other.value == value)
        walks.append(_Walk(tables.job_labels, _labels.job, [along], test))
    if wanted.states:
        codes = row.state_codes(wanted.states)
        walks.append(_Walk(tables.jobs, _jobs.id, [[_jobs.state == c] for c in codes], (_jobs.state + 0).in_(codes)))
    rest = ((_jobs.kind, wanted.kind), (_jobs.origin, wanted.origin), (_jobs.owner, wanted.owner))
    walks += [equal(column, text) for column, text in rest if text is not None]
    return walks


def _tests(wanted: Filter) -> list[ColumnElement[bool]]:
    """The conditions without an index."""
    tests: list[ColumnElement[bool]] = []
    if wanted.q is not None:
        tests.append(
            or_(_jobs.name.icontains(wanted.q, autoescape=True), _jobs.command.icontains(wanted.q, autoescape=True))
        )
    if wanted.since is not None:
        tests.append(_jobs.submitted_at >= wanted.since)
    return tests


def first_id(at: float) -> int:
    """An id that is larger than that of every job submitted before that time (Unix seconds), and hardly more."""
    return _id_at(at + _CLOCK_SLACK)


def _id_at(at: float) -> int:
    return min(max(int(at * 1000) - EPOCH, 0) << (GENERATOR_BITS + SEQUENCE_BITS), MAX_ID)


def _choose(connection: Connection, walks: list[_Walk], before: int | None, floor: int | None, few: int) -> _Walk:
    if not walks:
        return _Walk(tables.jobs, _jobs.id, [[]], literal(True))
    if len(walks) > 1:
        for walk in walks:
            if all(_bound(connection, walk, along, before, floor, few) is None for along in walk.along):
                return walk
    return walks[0]


def _between(
    walk: _Walk, along: list[ColumnElement[bool]], before: int | None, floor: int | None
) -> list[ColumnElement[bool]]:
    where = list(along)
    if before is not None:
        where.append(walk.id < before)
    if floor is not None:
        where.append(walk.id >= floor)
    return where


def _bound(
    connection: Connection,
    walk: _Walk,
    along: list[ColumnElement[bool]],
    before: int | None,
    floor: int | None,
    step: int,
) -> int | None:
    """The id that many jobs further along; None if there are not so many."""
    where = _between(walk, along, before, floor)
    query = select(walk.id).where(*where).order_by(walk.id.desc()).limit(1).offset(step - 1)
    return connection.scalar(query)


def _ids(
    connection: Connection,
    walk: _Walk,
    along: list[ColumnElement[bool]],
    tests: list[ColumnElement[bool]],
    before: int | None,
    floor: int | None,
    limit: int,
) -> Sequence[int]:
    query = select(walk.id).where(*_between(walk, along, before, floor), *tests)
    if tests and walk.source is tables.job_labels:
        query = query.select_from(tables.job_labels.join(tables.jobs, _jobs.id == _labels.job))
    return connection.scalars(query.order_by(walk.id.desc()).limit(limit)).all()
