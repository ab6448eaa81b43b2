"""Lists of jobs: in Flux's order, filtered, searched, sorted and paged. Pure (spec/flux-restful.md, 1.6 and 1.7)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from runyard.api.flux.answer import detail
from runyard.api.flux.parameter import Parameters
from runyard.api.flux.record import GROUPS, state_of
from runyard.core.record import JobRecord

Row = dict[str, Any]
#: Jobs of one list, unless `limit` says otherwise: as many as the original asks Flux for.
USUAL = 1000
#: Characters of a search text, and bytes that a pattern may take: a pattern can't be made to eat time or memory.
MAX_TEXT, MAX_PATTERN = 1000, 1 << 20
_COLUMN = re.compile(r"columns\[(\d{1,3})\]\[data\]", re.ASCII)


def order(record: JobRecord) -> tuple[int, float, float]:
    """Sorts as Flux does: pending jobs by priority, then age; running ones, the last started first; then those that
    have ended, the last one first."""
    state = state_of(record)
    if state in GROUPS["pending"]:
        return 0, -record.priority, record.id
    if state in GROUPS["running"]:
        started = max((replica.launched_at or 0.0 for replica in record.replicas), default=0.0)
        return 1, -started, -record.id
    return 2, -(record.ended_at or 0.0), -record.id


def filtered(rows: Iterable[Row], given: Parameters) -> list[Row]:
    """The rows that every filter of the query takes: `state`, `result`, `user`, `name`, `since`. Raises Refused."""
    tests: list[Callable[[Row], bool]] = []
    states = _words(given, "state")
    if states:
        wanted = {state.upper() for state in states}.union(*(GROUPS.get(state.lower(), ()) for state in states))
        tests.append(lambda row: row["state"] in wanted)
    results = {result.upper() for result in _words(given, "result")}
    if results:
        tests.append(lambda row: row["result"] in results)
    for field in ("user", "name"):
        value = given.text(field)
        if value is not None:
            tests.append(lambda row, field=field, value=value: row[field] == value)  # type: ignore[misc]
    since = given.duration("since")
    if since is not None:
        tests.append(lambda row: row["t_submit"] >= since)
    return [row for row in rows if all(test(row) for test in tests)]


def searched(rows: Iterable[Row], text: str | None, *, regex: bool = False) -> list[Row]:
    """The rows of which a value contains the text, in either case; or in which the pattern is found, in linear time.

    Raises Refused (400).
    """
    if not text:
        return list(rows)
    if len(text) > MAX_TEXT:
        raise detail(400, f"the search text is longer than {MAX_TEXT} characters")
    if regex:
        found = _pattern(text)
    else:
        needle = text.casefold()

        def found(value: str) -> bool:
            return needle in value.casefold()

    return [row for row in rows if any(found(value) for value in _texts(row))]


def page(rows: list[Row], given: Parameters) -> Row:
    """The answer of a search: with `draw`, DataTables asks, and wants to know how many rows there are without the
    paging; all others get the number of rows that they get. Raises Refused (422)."""
    draw = given.integer("draw")
    start, length = given.natural("start") or 0, given.integer("length")
    if length is not None and length != -1:
        length = given.natural("length")
    shown = rows[start:] if length in (None, -1) else rows[start : start + (length or 0)]
    count = len(shown) if draw is None else len(rows)
    return {"data": shown, "draw": 1 if draw is None else draw, "recordsFiltered": count}


def sorted_rows(rows: list[Row], query: Mapping[str, str]) -> list[Row]:
    """Sorted by the column that DataTables names (`order[0][column]`, `columns[i][data]`), or by `sort`: the name of a
    key, behind `-` downwards. An unknown one leaves the order as it is."""
    key, down = query.get("sort", ""), False
    if key.startswith("-"):
        key, down = key[1:], True
    column = query.get("order[0][column]", "")
    names = {found[1]: value for name, value in query.items() if (found := _COLUMN.fullmatch(name))}
    if column in names:
        key, down = names[column], query.get("order[0][dir]") == "desc"
    if not rows or key not in rows[0] or isinstance(rows[0][key], dict | list):
        return rows
    return sorted(rows, key=lambda row: _rank(row[key]), reverse=down)


def _rank(value: Any) -> tuple[bool, float, str]:
    return (True, 0.0, value) if isinstance(value, str) else (False, float(value), "")


def _words(given: Parameters, name: str) -> list[str]:
    return [word for part in (given.text(name) or "").split(",") if (word := part.strip())]


def _pattern(text: str) -> Callable[[str], bool]:
    import re2

    options = re2.Options()
    options.max_mem = MAX_PATTERN
    options.log_errors = False
    try:
        pattern = re2.compile(text, options)
    except re2.error as error:
        reason = error.args[0] if error.args else ""
        shown = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise detail(400, f"the search text is no regular expression: {shown}") from None
    return lambda value: pattern.search(value) is not None


def _texts(value: Any) -> Iterable[str]:
    """Every value in a record, as a text."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif value != "":
        yield str(value)
