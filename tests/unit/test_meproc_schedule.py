"""Meproc's cron texts: what is taken, what is refused, and what the taken ones mean, against a brute-force calendar."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runyard.api.meproc.schedule import engine_cron
from runyard.core.cron import fire_times
from runyard.model.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "engine"),
    [
        ("* * * * *", "* * * * *"),
        ("0 9 * * *", "0 9 * * *"),
        ("0,30 9 * * *", "0,30 9 * * *"),
        ("0 0 * * 0", "0 0 * * 0"),
        ("0 0 * * 7", "0 0 * * 7"),
        ("005 09 * * *", "5 9 * * *"),
        ("1-5 * * * *", "1-5 * * * *"),
        ("* * * jan-mar MON", "* * * 1-3 1"),
        ("* * * DEC sun,Sat", "* * * 12 0,6"),
        ("*/5 */05 * * *", "*/5 */5 * * *"),
        ("10-20/5 * * * *", "10,15,20 * * * *"),
        ("50-10/10 22-3 * * *", "50,0,10 22,23,0,1,2,3 * * *"),
        ("* * 30-2 NOV-FEB FRI-MON", "* * 30,31,1,2 11,12,1,2 5,6,0,1"),
        ("* * * * 5-7", "* * * * 5-7"),
        ("* * * * 7-2", "* * * * 0,1,2"),
        ("  \t* *\t * *  * \n", "* * * * *"),
        ("* * * * * and the rest is not looked at", "* * * * *"),
        ("@daily", "0 0 * * *"),
        ("@HOURLY", "0 * * * *"),
        (" @yearly ", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * 0"),
        ("@midnight", "0 0 * * *"),
    ],
)
def test_what_is_taken(text: str, engine: str) -> None:
    assert engine_cron(text, strict=False) == engine


@pytest.mark.parametrize(
    "text",
    [
        "", "*", "* * * *", "@reboot", "@", "@every 5m", "? * * * *", "* * L * *", "* * LW * *", "* * * * 5L",
        "* * * * 1#2", "5- * * * *", "-5 * * * *", ",5 * * * *", "5, * * * *", "1,,2 * * * *", "*/60 * * * *",
        "*/0 * * * *", "*/ * * * *", "*/x * * * *", "/5 * * * *", "5/5 * * * *", "60 * * * *", "* 24 * * *",
        "* */24 * * *", "* * 0 * *", "* * 32 * *", "* * * 0 *", "* * * 13 *", "* * * * 8", "* * * * */7", "1.5 * * * *",
        "-1 * * * *", "+1 * * * *", "0x5 * * * *", "\u0661 * * * *", "** * * * *", "*-5 * * * *", "1-2-3 * * * *",
        "1-5/2/2 * * * *", "* * * MON *", "* * * * JAN", "JAN * * * *", "* * * january *", "* * 31 2 *",
        "9999999999 * * * *",
    ],
)  # fmt: skip
def test_what_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        engine_cron(text, strict=False)


def test_strict_takes_five_fields_only() -> None:
    assert engine_cron("* * * * *", strict=True) == "* * * * *"
    assert engine_cron("@daily", strict=True) == "0 0 * * *"
    with pytest.raises(InvalidInput, match="five fields"):
        engine_cron("* * * * * *", strict=True)


def utc(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "after", "then"),
    [
        # Where the original goes wrong: steps are aligned, short months are passed over, day and weekday are either.
        ("*/5 * * * *", "2026-01-05 10:03", ["2026-01-05 10:05", "2026-01-05 10:10"]),
        ("*/2 * * * *", "2026-01-05 10:03", ["2026-01-05 10:04", "2026-01-05 10:06"]),
        ("31 * * * *", "2026-01-05 10:30", ["2026-01-05 10:31", "2026-01-05 11:31"]),
        ("0 0 31 * *", "2026-01-31 12:00", ["2026-03-31 00:00", "2026-05-31 00:00"]),
        ("0 0 13 * FRI", "2026-02-06 12:00", ["2026-02-13 00:00", "2026-02-20 00:00"]),
        ("0 0 1 * MON", "2026-06-29 12:00", ["2026-07-01 00:00", "2026-07-06 00:00"]),
        ("0 9 * JAN *", "2026-11-15 10:00", ["2027-01-01 09:00", "2027-01-02 09:00"]),
        ("59 23 31 12 *", "2026-01-01 00:00", ["2026-12-31 23:59", "2027-12-31 23:59"]),
        ("0 0 29 2 *", "2026-01-01 00:00", ["2028-02-29 00:00", "2032-02-29 00:00"]),
    ],
)
def test_the_times_that_are_meant(text: str, after: str, then: list[str]) -> None:
    times = fire_times(engine_cron(text, strict=False), "UTC", utc(after))
    assert [next(times) for _ in then] == [utc(moment) for moment in then]


# Against brute force ----------------------------------------------------------------------------------------------

FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]


@st.composite
def terms(draw: st.DrawFn, field: int) -> str:
    low, high = FIELDS[field]

    def value() -> str:
        number = draw(st.integers(low, high))
        names = {3: MONTHS, 4: DAYS}.get(field, [])
        if number - low * (field == 3) < len(names) and draw(st.booleans()):
            name = names[number - low]
            return draw(st.sampled_from((name, name.lower(), name.title())))
        return f"{number:0{draw(st.integers(1, 3))}}"

    base = draw(st.sampled_from(("*", "one", "range", "range")))
    if base == "one":
        return value()
    text = "*" if base == "*" else f"{value()}-{value()}"
    size = high - low + 1 - (field == 4)
    return text + draw(st.sampled_from(("", f"/{draw(st.integers(1, size - 1))}")))


def expressions() -> st.SearchStrategy[list[str]]:
    return st.tuples(
        *[st.lists(terms(field), min_size=1, max_size=3).map(",".join) for field in range(5)]
    ).map(list)  # fmt: skip


@cache
def meant(text: str, field: int) -> set[int]:
    """The values of one field, by going around the clock one by one."""
    low, high = FIELDS[field]
    top = 6 if field == 4 else high
    names = {name: number + low * (field == 3) for number, name in enumerate({3: MONTHS, 4: DAYS}.get(field, []))}
    found: set[int] = set()
    for term in text.split(","):
        base, _, step = term.partition("/")
        if base == "*":
            first, last = low, top
        else:
            first, last = (
                names[word.upper()] if word.upper() in names else int(word)
                for word in (base + "-" + base).split("-")[:2]
            )
        if field == 4 and first <= last:
            # 7 comes after 6 in a range that goes there; it is the same day as 0.
            values = list(range(first, last + 1))
        else:
            values, at = [], 0 if field == 4 and first == 7 else first
            while True:
                values.append(at)
                if at == last:
                    break
                at = low if at == top else at + 1
        found.update(value % 7 if field == 4 else value for value in values[:: int(step or 1)])
    return found


def matches(words: list[str], moment: datetime) -> bool:
    minute, hour, day, month, weekday = (meant(word, field) for field, word in enumerate(words))
    on_day, on_weekday = moment.day in day, (moment.weekday() + 1) % 7 in weekday
    # Vixie's rule: if both are restricted, either is enough.
    both = words[2].startswith("*") or words[4].startswith("*")
    return (
        moment.minute in minute
        and moment.hour in hour
        and moment.month in month
        and ((on_day and on_weekday) if both else (on_day or on_weekday))
    )


@settings(max_examples=150)
@given(expressions(), st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1)))
def test_any_expression_means_what_going_through_all_minutes_finds(words: list[str], start: datetime) -> None:
    start = start.replace(second=0, microsecond=0, tzinfo=UTC)
    try:
        expression = engine_cron(" ".join(words), strict=False)
    except InvalidInput:
        # A day that no named month has: nothing matches on any day of a leap cycle.
        days = (datetime(2024, 1, 1) + timedelta(n) for n in range(1461))
        hour, minute = min(meant(words[1], 1)), min(meant(words[0], 0))
        assert not any(matches(words, day.replace(hour=hour, minute=minute)) for day in days)
        return
    expected = []
    for minute in range(1, 60 * 24 * 2 + 1):
        moment = start + timedelta(minutes=minute)
        if matches(words, moment):
            expected.append(moment.timestamp())
            if len(expected) == 20:
                break
    end = (start + timedelta(days=2)).timestamp()
    found: list[float] = []
    for moment_found in fire_times(expression, "UTC", start.timestamp()):
        if moment_found > end or len(found) == 20:
            break
        found.append(moment_found)
    assert found == expected
