"""Cron: the times that an expression names, clock changes, missed times, overlaps, and mistakes with their place."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from runyard.core import cron
from runyard.core.inputs import Amend, Cancel, RestartJob, Tick
from runyard.model.errors import InvalidInput
from runyard.model.job import Lifecycle, Missed, Overlap, Restart, RestartPolicy, Schedule
from runyard.model.state import State
from tests.core_rig import MONDAY, Rig


def times(expression: str, zone: str, start: str, count: int) -> list[str]:
    begin = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone)).timestamp()
    found = islice(cron.fire_times(expression, zone, begin), count)
    return [f"{datetime.fromtimestamp(at, ZoneInfo(zone)):%m-%d %H:%M %Z}" for at in found]


@pytest.mark.parametrize(
    ("expression", "zone", "start", "expected"),
    [
        ("0 12 * * *", "UTC", "2026-01-05 12:00", ["01-06 12:00 UTC", "01-07 12:00 UTC"]),
        ("*/20 * * * *", "UTC", "2026-01-05 23:30", ["01-05 23:40 UTC", "01-06 00:00 UTC"]),
        ("@daily", "Europe/Berlin", "2026-01-05 23:30", ["01-06 00:00 CET", "01-07 00:00 CET"]),
        # Spring: 02:30 does not exist; it runs right after the gap, once.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28 12:00", ["03-29 03:00 CEST", "03-30 02:30 CEST"]),
        ("30 2 * * *", "America/New_York", "2026-03-07 12:00", ["03-08 03:00 EDT", "03-09 02:30 EDT"]),
        # Autumn: 02:30 (01:30 in New York) comes twice; a fixed time runs once.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24 12:00", ["10-25 02:30 CEST", "10-26 02:30 CET"]),
        ("30 1 * * *", "America/New_York", "2026-10-31 12:00", ["11-01 01:30 EDT", "11-02 01:30 EST"]),
        # Every hour means every hour that passes.
        (
            "0 * * * *",
            "Europe/Berlin",
            "2026-10-25 01:30",
            ["10-25 02:00 CEST", "10-25 02:00 CET", "10-25 03:00 CET"],
        ),
        ("0 * * * *", "America/New_York", "2026-03-08 00:30", ["03-08 01:00 EST", "03-08 03:00 EDT"]),
    ],
)
def test_fire_times(expression: str, zone: str, start: str, expected: list[str]) -> None:
    assert times(expression, zone, start, len(expected)) == expected


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("61 * * * *", "bad minute '61' at column 1 of '61 * * * *'"),
        ("* 24 * * *", "bad hour '24' at column 3 of '* 24 * * *'"),
        ("*  *  32 * *", "bad day-of-month '32' at column 7 of '*  *  32 * *'"),
        ("* * * 13 *", "bad month '13' at column 7 of '* * * 13 *'"),
        ("* * * * xyz", "bad day-of-week 'xyz' at column 9 of '* * * * xyz'"),
        ("99 * * * * *", "bad second '99' at column 1 of '99 * * * * *'"),
        ("* * 30 2 *", "bad day-of-month '30' at column 5 of '* * 30 2 *'"),
    ],
)
def test_a_mistake_is_named_with_its_field_and_column(expression: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        cron.check_cron(expression)
    assert caught.value.detail == message
    assert caught.value.fields["column"] == int(message.partition("column ")[2].split()[0])


@pytest.mark.parametrize(
    ("expression", "part"), [("* * *", "has 3"), ("@often", "no known shorthand"), ("", "has 0"), ("* " * 7, "has 7")]
)
def test_what_is_no_expression(expression: str, part: str) -> None:
    with pytest.raises(InvalidInput, match=part):
        cron.check_cron(expression)


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../../etc/passwd", "Europe", "/etc/localtime"])
def test_what_is_no_time_zone(name: str) -> None:
    with pytest.raises(InvalidInput, match="IANA"):
        cron.check_timezone(name)


def test_a_bad_schedule_is_refused_at_submission_with_field_value_and_rule() -> None:
    rig = Rig()
    jobs = [
        rig.job(lifecycle=Lifecycle.CRON, schedule=Schedule(cron="61 * * * *")),
        rig.job(lifecycle=Lifecycle.CRON, schedule=Schedule(cron="@daily", timezone="Mars")),
    ]
    assert rig.refusals() == {jobs[1]: "schedule.timezone: 'Mars' is not a time zone; use an IANA name such as "
                                       "Europe/Berlin, or UTC"}  # fmt: skip
    assert not rig.reactor.jobs


def cron_job(rig: Rig, expression: str = "* * * * *", **fields: Any) -> int:
    schedule = {name: fields.pop(name) for name in ("overlap", "missed", "timezone") if name in fields}
    plan = Schedule(cron=expression, **schedule)
    return rig.job(lifecycle=Lifecycle.CRON, schedule=plan, **fields)


def test_a_cron_job_waits_fires_and_waits_again() -> None:
    rig = Rig()
    job = cron_job(rig)
    assert (rig.state(job), rig.reason(job)) == (State.PENDING, "schedule")
    assert rig.record(job).next_fire == rig.reactor.next_wakeup == MONDAY + 60
    rig.wait(59.9)
    assert rig.state(job) is State.PENDING
    rig.wait(0.1)
    assert rig.launched() == [rig.run(job)]
    rig.up(job)
    rig.exit(job, 3)
    assert (rig.state(job), rig.reason(job), rig.record(job).exit_code) == (State.PENDING, "schedule", 3)
    rig.wait(60)
    assert rig.run(job).attempt == 2
    assert [data["fire_time"] for data in rig.data(job, "job.fired")] == [MONDAY + 60, MONDAY + 120]


def test_overlap_skip() -> None:
    rig = Rig()
    job = cron_job(rig, overlap=Overlap.SKIP)
    rig.wait(60)
    rig.up(job)
    rig.wait(60)
    assert rig.data(job, "job.missed") == [{"fire_times": [MONDAY + 120], "because": "the last run is still up"}]
    rig.exit(job)
    assert rig.state(job) is State.PENDING
    rig.wait(60)
    assert rig.run(job).attempt == 2


def test_overlap_queue() -> None:
    rig = Rig()
    job = cron_job(rig, overlap=Overlap.QUEUE)
    rig.wait(60)
    rig.up(job)
    rig.wait(125)
    assert rig.record(job).backlog == 2
    for attempt in (2, 3):
        rig.exit(job)
        assert rig.run(job).attempt == attempt and rig.state(job) is State.STARTING
        rig.up(job)
    rig.exit(job)
    assert rig.state(job) is State.PENDING


def test_overlap_replace() -> None:
    rig = Rig()
    job = cron_job(rig, overlap=Overlap.REPLACE)
    rig.wait(60)
    rig.up(job)
    rig.wait(60)
    assert rig.state(job) is State.STOPPING and len(rig.stopped()) == 1
    rig.exit(job, None, signal=15)
    assert rig.state(job) is State.STARTING and rig.run(job).attempt == 2


@pytest.mark.parametrize(
    ("missed", "fired", "passed_over"),
    [(Missed.SKIP, [], [1, 2, 3]), (Missed.ONCE, [3], [1, 2]), (Missed.ALL, [1, 2, 3], [])],
)
def test_times_that_passed_while_nobody_was_there(missed: Missed, fired: list[int], passed_over: list[int]) -> None:
    rig = Rig()
    job = cron_job(rig, missed=missed)
    rig.now += 3 * 60 + cron.LATENESS + 1
    rig.reload()
    rig.sync()
    minute = {MONDAY + 60 * number: number for number in range(10)}
    assert [minute[data["fire_time"]] for data in rig.data(job, "job.fired")] == fired  # type: ignore[index]
    skipped = [at for data in rig.data(job, "job.missed") for at in data["fire_times"]]  # type: ignore[attr-defined]
    assert [minute[at] for at in skipped] == passed_over
    runs = 0
    while rig.state(job) is not State.PENDING:
        rig.up(job)
        rig.exit(job)
        runs += 1
    assert runs == len(fired)
    assert rig.record(job).next_fire == MONDAY + 240


def test_late_is_not_missed() -> None:
    rig = Rig()
    job = cron_job(rig, missed=Missed.SKIP)
    rig.now += 60 + cron.LATENESS
    rig.do(Tick())
    assert rig.state(job) is State.STARTING and rig.data(job, "job.missed") == []


def test_a_long_absence_keeps_a_bounded_backlog() -> None:
    rig = Rig()
    job = cron_job(rig, "* * * * * *", missed=Missed.ALL)
    rig.now += 5000 + cron.LATENESS
    rig.do(Tick())
    assert rig.record(job).backlog == 999


def test_while_held_fire_times_are_missed() -> None:
    rig = Rig()
    job = cron_job(rig, hold=True)
    assert rig.reason(job) == "held"
    rig.wait(60)
    assert rig.data(job, "job.missed") == [{"fire_times": [MONDAY + 60], "because": "held"}]
    rig.do(Amend(job=job, hold=False))
    assert rig.reason(job) == "schedule"
    rig.wait(60)
    rig.exit(job)
    rig.do(Amend(job=job, hold=True))
    assert rig.reason(job) == "held", "also when it has run before"


def test_a_failing_run_is_restarted_before_the_next_fire_time() -> None:
    rig = Rig()
    job = cron_job(rig, restart=Restart(policy=RestartPolicy.ON_FAILURE, delay=1.0, max=1))
    rig.wait(60)
    rig.exit(job, 1)
    assert rig.reason(job) == "backoff"
    rig.wait(1)
    assert rig.run(job).attempt == 2
    rig.exit(job, 1)
    assert rig.reason(job) == "schedule"
    rig.wait(60)
    assert rig.record(job).replicas[0].restarts == 0, "each fire time counts for itself"


def test_cancelling_ends_the_schedule_and_a_restart_brings_it_back() -> None:
    rig = Rig()
    job = cron_job(rig)
    rig.do(Cancel(job=job))
    assert rig.state(job) is State.CANCELLED
    rig.wait(120)
    assert rig.launched() == []
    rig.do(RestartJob(job=job, record=rig.record(job)))
    assert rig.state(job) is State.STARTING, "a restart means now"
    assert rig.record(job).next_fire == MONDAY + 180
    rig.exit(job)
    assert (rig.state(job), rig.reason(job)) == (State.PENDING, "schedule")


def test_restarting_between_two_fire_times_runs_now_and_keeps_the_schedule() -> None:
    rig = Rig()
    job = cron_job(rig)
    rig.wait(60)
    rig.exit(job)
    rig.do(RestartJob(job=job))
    assert rig.state(job) is State.STARTING
    rig.exit(job)
    rig.wait(60)
    assert rig.state(job) is State.STARTING and rig.run(job).attempt == 3
