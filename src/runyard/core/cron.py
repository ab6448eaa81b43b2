"""Cron expressions: checking them with the place of the mistake, and the times they name.

The calendar is cronsim's: Debian cron's rules, daylight saving included (a fixed time that a change of the clock skips
runs right after the gap; one that comes twice runs once).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from runyard.model.errors import InvalidInput
from runyard.model.job import Missed, Schedule

#: A fire time is missed, not merely late, when nobody could act on it for this long (seconds).
LATENESS = 30.0

_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELDS = ("second", "minute", "hour", "day-of-month", "month", "day-of-week")
_START = datetime(2024, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=4096)
def check_cron(expression: str) -> str:
    """The five or six fields that `expression` stands for. Raises InvalidInput that names field, text and column."""
    text = _MACROS.get(expression.strip().lower(), expression)
    if text.startswith("@"):
        raise InvalidInput(f"{text!r} is no known shorthand; use one of {', '.join(sorted(_MACROS))}, or five fields")
    words = [(match.group(), match.start() + 1) for match in re.finditer(r"\S+", text)]
    if len(words) not in (5, 6):
        raise InvalidInput(
            f"a cron expression has 5 fields (minute hour day-of-month month day-of-week), or 6 with seconds first; "
            f"{expression!r} has {len(words)}"
        )
    try:
        next(CronSim(text, _START))
    except CronSimError as error:
        field = next((name for name in _FIELDS if str(error).endswith(name)), "day-of-month")
        word, column = words[_FIELDS.index(field) - (6 - len(words))]
        raise InvalidInput(f"bad {field} {word!r} at column {column} of {expression!r}", column=column) from None
    except StopIteration:
        raise InvalidInput(f"{expression!r} names no time in the next 50 years") from None
    return " ".join(word for word, _ in words)


@lru_cache(maxsize=512)
def check_timezone(name: str) -> ZoneInfo:
    """The time zone of that IANA name. Raises InvalidInput."""
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError):
        raise InvalidInput(f"{name!r} is not a time zone; use an IANA name such as Europe/Berlin, or UTC") from None


def fire_times(expression: str, timezone: str, after: float) -> Iterator[float]:
    """The times (Unix seconds), oldest first, that the expression names after `after`. Ends after 50 empty years."""
    start = datetime.fromtimestamp(after, check_timezone(timezone))
    return (moment.timestamp() for moment in CronSim(check_cron(expression), start))


def next_fire(expression: str, timezone: str, after: float) -> float | None:
    return next(fire_times(expression, timezone, after), None)


def due_times(schedule: Schedule, first: float, now: float, most: int) -> list[float]:
    """The fire times from `first` until `now`, oldest first; if there are more than `most`, the latest ones."""
    # Backwards from now: after a long absence only the latest count, and there may be a million of them.
    end = datetime.fromtimestamp(math.floor(now) + 1, check_timezone(schedule.timezone))
    latest = CronSim(check_cron(schedule.cron), end, reverse=True)
    due = list(islice(takewhile(lambda at: at > first, (moment.timestamp() for moment in latest)), most))
    if len(due) < most:
        due.append(first)
    return due[::-1]


def sift(schedule: Schedule, due: list[float], now: float) -> tuple[list[float], list[float]]:
    """Which of the due fire times are passed over, and which count, by the schedule's rule for missed ones.

    All but the last are missed, and the last one too if it is more than `LATENESS` ago.
    """
    missed = len(due) if now - due[-1] > LATENESS else len(due) - 1
    if not missed or schedule.missed is Missed.ALL:
        return [], due
    keep = 1 if schedule.missed is Missed.ONCE else len(due) - missed
    return due[: len(due) - keep], due[len(due) - keep :]
