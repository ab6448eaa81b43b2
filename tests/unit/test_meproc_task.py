"""A Meproc record in, a job out, and the job shown as a record again; and what the engine does for such jobs."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard.api.meproc.door import arguments, environment
from runyard.api.meproc.task import Refusal, Task, job_of, read_task
from runyard.api.meproc.view import is_held, last_run, launched, processes, task_of, task_record
from runyard.core.inputs import Amend, Cancel, NewJob, RestartJob, RunExited, Submit, Tick
from runyard.core.record import JobRecord, Replica
from runyard.core.roster import Roster
from runyard.model.ids import RunKey
from runyard.model.job import Condition, Dependency, JobSpec, Lifecycle, Missed, Restart, RestartPolicy, Schedule
from runyard.model.message import MAX_DEPTH
from runyard.model.state import State
from runyard.settings import Meproc
from tests.core_rig import Rig

DEFAULT = Meproc()
GOOD = {"name": "t", "cmd": "sleep 5", "type": "once"}


def read(record: Any, settings: Meproc = DEFAULT) -> Task:
    return read_task(json.dumps(record).encode(), settings)


def job(settings: Meproc = DEFAULT, melang: str | None = None, idle: tuple[str, ...] = (), **record: Any) -> JobSpec:
    return job_of(read(GOOD | record, settings), settings, "/scripts", melang, idle)


# In ---------------------------------------------------------------------------------------------------------------

#: In the order of the checks: a record with several faults is refused for the first.
FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "Invalid JSON field"),
    ({"cmd": None}, "Invalid JSON field"),
    ({"type": "sometimes"}, "Invalid JSON field"),
    ({"user": 5}, "Invalid JSON field"),
    ({"deps": {}}, "Invalid JSON field"),
    ({"name": "__coroutine__"}, "name '__coroutine__' is reserved"),
    ({"interval": 0}, "Interval must be a positive integer'"),
    ({"replica": -3}, "Replica must be a positive integer'"),
    ({"cron": "* *"}, "Invalid cron format"),
]


@given(st.sets(st.integers(0, len(FAULTS) - 1), min_size=1))
def test_the_first_fault_answers(chosen: set[int]) -> None:
    record: dict[str, Any] = GOOD | {"type": "cron"}
    for number in sorted(chosen, reverse=True):
        record |= FAULTS[number][0]
    if {0, 5} <= chosen:
        record["name"] = ""
    with pytest.raises(Refusal) as refused:
        read(record)
    assert (refused.value.code, refused.value.msg) == (400, FAULTS[min(chosen)][1])


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_any_bytes_are_refused_or_a_task(body: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        read_task(body, DEFAULT)
    assert refused.value.msg in ("JSON body is required", "Invalid JSON field")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(["name", "cmd", "type", "cron", "user", "replica", "interval", "deps", "x"]), json_values
    )
)
def test_any_record_is_refused_in_known_words_or_becomes_a_job(changes: dict[str, Any]) -> None:
    try:
        task = read(GOOD | changes)
        spec = job_of(task, DEFAULT, "/scripts", None)
    except Refusal as refusal:
        assert refusal.code == 400 and refusal.msg
        return
    assert task.given == GOOD | changes
    assert spec.replicas == task.replica > 0 and spec.name == task.name and 1 <= len(task.name.encode()) <= 255


def test_what_is_nested_too_deeply_to_be_echoed_is_refused() -> None:
    deep: Any = []
    for _ in range(MAX_DEPTH - 2):
        deep = [deep]
    assert read({**GOOD, "more": deep}).given["more"] == deep
    with pytest.raises(Refusal, match="Invalid JSON field"):
        read({**GOOD, "more": [deep]})


def test_defaults_and_what_may_be_null() -> None:
    task = read(GOOD | {"replica": None, "user": None, "group": "", "interval": None, "deps": None, "cron": None})
    assert (task.replica, task.user, task.group, task.interval, task.deps, task.cron) == (1, None, None, 3, [], None)
    assert read(GOOD, Meproc(interval_unit="milliseconds")).interval == 3000
    assert read(GOOD | {"type": "cron"}).cron == read(GOOD | {"type": "cron", "cron": ""}).cron == "* * * * *"
    assert read(GOOD | {"replica": 2.0, "interval": 4.0}).replica == 2


# A job ------------------------------------------------------------------------------------------------------------


def test_a_once_task_is_a_shell_job_with_one_stream_and_a_bound() -> None:
    spec = job(replica=3, user="u", group="g", idle=("a", "b"))
    assert (spec.script, spec.command, spec.lifecycle, spec.replicas) == ("sleep 5", None, Lifecycle.ONCE, 3)
    assert (spec.user, spec.group, spec.stop.grace) == ("u", "g", 10.0)
    assert spec.output.merge and spec.output.max_size == 64 * 2**20
    assert spec.after == [Dependency(job="a", condition=Condition.IDLE), Dependency(job="b", condition=Condition.IDLE)]
    assert spec.env == {"MEPROC_NAME": "t", "MEPROC_REPLICA": "3"}
    assert spec.restart is None


def test_a_daemon_is_a_service_with_one_pause_for_ever() -> None:
    rule = job(type="daemon", interval=7).restart
    assert rule == Restart(policy=RestartPolicy.ALWAYS, delay=7.0, backoff=1.0, max_delay=7.0)
    milliseconds = job(Meproc(interval_unit="milliseconds"), type="daemon", interval=250).restart
    assert milliseconds is not None and milliseconds.delay == milliseconds.max_delay == 0.25


def test_a_cron_task_has_a_schedule_in_the_doors_time_zone() -> None:
    spec = job(Meproc(timezone="Europe/Berlin", cron_catchup=True), type="cron", cron="5 22-1 * * 7")
    assert spec.schedule == Schedule(cron="5 22,23,0,1 * * 7", timezone="Europe/Berlin", missed=Missed.ONCE)
    assert job(type="cron").schedule == Schedule(cron="* * * * *", missed=Missed.SKIP)


@pytest.mark.parametrize("cmd", ["a.py", "/x/a.py", "dir/a b.py:main", "package.module:function", "module:f"])
def test_python_scripts_go_to_the_python_executor(cmd: str) -> None:
    spec = job(type="melang", cmd=cmd)
    assert (spec.executor, spec.command, spec.cwd) == ("python", [cmd], "/scripts")
    assert json.loads(spec.env["MEPROC_CONF"])["cmd"] == cmd


def test_melang_scripts_need_an_interpreter() -> None:
    spec = job(type="coroutine", cmd="x.m", melang="/usr/bin/melang")
    assert (spec.executor, spec.command, spec.cwd) == ("local", ["/usr/bin/melang", "x.m"], "/scripts")
    with pytest.raises(Refusal, match=r"Start failed: x\.mln needs a `melang` interpreter"):
        job(type="melang", cmd="x.mln")
    for cmd in ("x.sh", "echo", "x.py:", "x.py:no name", "a..b:c", ":f"):
        with pytest.raises(Refusal, match="Start failed: a melang task runs"):
            job(type="melang", cmd=cmd, melang="/usr/bin/melang")


def test_what_no_job_can_be_is_refused_with_the_reason() -> None:
    with pytest.raises(Refusal, match="Start failed: script: must not be empty"):
        job(cmd="  ")
    with pytest.raises(Refusal, match=r"Start failed: restart\.delay"):
        job(type="daemon", interval=2**31)


def record_of(spec: JobSpec, **fields: Any) -> JobRecord:
    record = JobRecord(
        id=5, spec=spec, kind="batch", origin="meproc", owner="me", submitted_at=1000.5,
        replicas=[Replica() for _ in range(spec.replicas)],
    )  # fmt: skip
    record = msgspec.structs.replace(record, **fields)
    Roster().add(record)
    return record


def test_each_replica_is_told_who_it_is() -> None:
    shell = environment(record_of(job(replica=2)), RunKey(5, 1, 3))
    assert shell == {"MEPROC_ALIAS": "t:1", "MEPROC_INDEX": "1"}
    script = environment(record_of(job(type="melang", cmd="a.py", x="ü")), RunKey(5, 0, 1))
    conf = GOOD | {"type": "melang", "cmd": "a.py", "x": "ü"}
    assert json.loads(script["EVAL_DATA"]) == {"conf": conf, "alias": "t:0"}


# Out --------------------------------------------------------------------------------------------------------------


def shown(record: JobRecord | None, last: int = 0, **fields: Any) -> dict[str, Any]:
    return task_record(read(GOOD | fields), record, last)


def test_a_record_keeps_the_clients_order_and_the_servers_values_win() -> None:
    given_fields = {"deps": ["d"], "running": 99, "zone": "x", "run_flag": "yes", "cron": "ignored"}
    found = shown(None, 7, **given_fields)
    assert list(found) == [
        "name", "cmd", "type", "deps", "running", "zone", "run_flag", "interval", "replica", "last_time", "start_time",
        "user", "group",
    ]  # fmt: skip
    assert (found["running"], found["run_flag"], found["zone"], found["last_time"]) == (0, False, "x", 7)


def test_the_fields_of_a_job_that_waits_runs_and_has_ended() -> None:
    spec = job(replica=2)
    held = record_of(spec, reason="dependency", armed_at=1000.9)
    assert is_held(held)
    found = shown(held, replica=2)
    assert (found["run_flag"], found["running"], found["last_time"], found["start_time"]) == (True, 0, 0, 1000)
    up = [Replica(state=State.RUNNING, pid=10, started_at=1003.7), Replica(state=State.SUCCEEDED, pid=11)]
    running = record_of(spec, state=State.RUNNING, armed_at=1000.9, started_at=1003.2, replicas=up)
    found = shown(running, replica=2)
    assert (found["run_flag"], found["running"], found["last_time"], found["start_time"]) == (False, 1, 1003, 1000)
    assert processes(read(GOOD), running) == [{"command": "sleep 5", "pid": 10, "alias": "t:0"}]
    assert (launched(running), last_run(running)) == (1003, 1003)
    ended = record_of(
        spec, state=State.FAILED, armed_at=1000.9, started_at=1003.2, replicas=[Replica(state=State.FAILED)]
    )
    found = shown(ended)
    assert (found["run_flag"], found["running"], found["last_time"]) == (False, 0, 1003)
    assert processes(read(GOOD), ended) == []


def test_a_daemon_counts_as_running_in_its_pause_and_not_while_it_is_held() -> None:
    spec = job(type="daemon", replica=4)
    pause = record_of(spec, reason="backoff", started_at=1003.0)
    assert shown(pause, type="daemon", replica=4)["running"] == 4
    held = record_of(spec, reason="dependency")
    found = shown(held, type="daemon", replica=4)
    assert (found["running"], found["run_flag"]) == (0, True)


def test_an_idle_cron_task_has_no_start_time() -> None:
    idle = record_of(job(type="cron"), reason="schedule", armed=False)
    found = shown(idle, type="cron")
    assert (found["start_time"], found["last_time"], found["run_flag"], found["running"]) == (0, 0, False, 0)
    assert found["cron"] == "* * * * *"


def test_jobs_of_other_doors_in_these_words() -> None:
    spec = JobSpec(
        command=["a", "b c"], name="n", lifecycle=Lifecycle.CRON, schedule=Schedule(cron="@daily"), replicas=3, user="u"
    )
    task = task_of(record_of(spec))
    assert (task.name, task.cmd, task.type, task.cron, task.replica, task.user) == (
        "n",
        "a b c",
        "cron",
        "@daily",
        3,
        "u",
    )
    assert task_of(record_of(JobSpec(script="x"))).name == "5"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", {}),
        ("name=a", {"name": "a"}),
        ("name=a&name=b", {"name": "b"}),
        ("name=a=b&x=1", {"x": "1"}),
        ("name&=&x=", {"": "", "x": ""}),
        ("name=a%20b+c", {"name": "a%20b+c"}),
    ],
)
def test_the_arguments_of_a_query(query: str, found: dict[str, str]) -> None:
    class Request:
        scope = {"query_string": query.encode()}

    assert arguments(Request()) == found  # type: ignore[arg-type]


# In the engine ----------------------------------------------------------------------------------------------------


def at(text: str, zone: str = "Europe/Berlin", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def test_a_cron_task_across_the_changes_of_the_clock() -> None:
    """02:30 does not exist on 29 March 2026 in Berlin, and comes twice on 25 October; every minute is every minute."""
    rig = Rig()
    zone = Meproc(timezone="Europe/Berlin")
    for begin, end, fires in (
        ("2026-03-28 12:00", "2026-03-31 00:00", ["2026-03-29 03:00", "2026-03-30 02:30"]),
        ("2026-10-24 12:00", "2026-10-27 00:00", ["2026-10-25 02:30", "2026-10-26 02:30"]),
    ):
        rig.now = at(begin)
        (number,) = rig.submit(job(zone, name=f"c{begin}", type="cron", cron="30 2 * * *"))
        seen: list[float] = []
        while (due := rig.reactor.next_wakeup) is not None and due < at(end):
            rig.now = due
            rig.do(Tick())
            if rig.launched():
                seen.append(rig.now)
                rig.up(number)
                rig.exit(number)
        assert seen == [at(moment) for moment in fires]
        rig.do(Cancel(job=number))


def test_a_tick_is_skipped_while_the_last_run_is_up_and_times_without_a_server_are_passed_over() -> None:
    rig = Rig()
    (number,) = rig.submit(job(type="cron"))
    rig.wait(60)
    assert len(rig.types(number)) and rig.state(number) is State.STARTING
    rig.up(number)
    rig.wait(150)
    assert rig.run(number).attempt == 1 and rig.types(number).count("job.missed") == 2
    rig.exit(number)
    rig.reload(rig.node)
    # Nobody was there for an hour.
    rig.now += 3600.0 - rig.now % 60 + 31
    rig.do(Tick())
    assert rig.state(number) is State.PENDING
    rig.sync()
    rig.wait(60)
    assert rig.run(number).attempt == 2


def test_what_must_be_idle_can_be_changed_while_the_job_waits() -> None:
    rig = Rig()
    far, other = rig.job(name="far"), rig.job(name="other")
    rig.up(far)
    rig.up(other)
    (held,) = rig.submit(job(idle=("far", "gone")))
    assert rig.reason(held) == "dependency"
    version = rig.record(held).version
    rig.do(Amend(job=held, idle=("far", "gone")))
    assert rig.record(held).version == version, "that is no change"
    rig.do(Amend(job=held, idle=("other",)))
    assert rig.data(held, "job.amended") == [{"idle": ["other"]}]
    rig.exit(far)
    assert rig.reason(held) == "dependency"
    rig.do(Amend(job=held, idle=()))
    assert rig.launched() == [RunKey(held, 0, 1)]
    # What runs already is not touched by a new one.
    rig.up(held)
    rig.do(Amend(job=held, idle=("other",)))
    assert rig.state(held) is State.RUNNING


@pytest.mark.parametrize("ended", [True, False])
def test_a_restart_may_bring_other_dependencies(ended: bool) -> None:
    rig = Rig()
    (number,) = rig.submit(job(idle=("a",)))
    rig.up(number)
    if ended:
        rig.exit(number)
    for name in ("a", "b"):
        rig.up(rig.job(name=name))
    record = rig.ended.get(number)
    rig.do(RestartJob(job=number, record=record, idle=("b",)))
    if not ended:
        rig.exit(number, None, signal=15)
    assert (rig.state(number), rig.reason(number)) == (State.PENDING, "dependency")
    assert [need.ref for need in rig.record(number).needs] == ["b"]
    rig.exit(3)
    assert rig.run(number).attempt == 2 and rig.state(number) is State.STARTING


@pytest.mark.parametrize("by", ["1", "ƒ2", "name"])
def test_a_dependency_that_ends_in_the_step_that_brings_its_waiter_is_known(by: str) -> None:
    """The shell saw it live, and so told nothing about it."""
    rig = Rig()
    first = rig.job(name="name")
    rig.up(first)
    waiter = JobSpec(command=["true"], after=[Dependency(job=by, condition=Condition.FINISHED)])
    submit = Submit(jobs=[NewJob(id=9, spec=waiter, kind="batch", origin="test", owner="me")], known={})
    exited = RunExited(run=rig.run(first), at=rig.now, pid=100, exit_code=3)
    _, problems = rig.reactor.handle_all([exited, submit], rig.now)
    assert problems == [None, None] and rig.reactor.jobs[9].state is State.STARTING
