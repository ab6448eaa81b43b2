"""The detailed record in every state, its ids, and the lists of records (spec/flux-restful.md, 4 and 5)."""

from __future__ import annotations

from typing import Any

import pytest

from runyard.api.flux.answer import Refused
from runyard.api.flux.events import Cursor, entries, read_cursor
from runyard.api.flux.jobid import read_job_id
from runyard.api.flux.listing import filtered, order, page, searched, sorted_rows
from runyard.api.flux.parameter import Parameters
from runyard.api.flux.record import detailed, host_list, id_set, state_of
from runyard.core.record import JobRecord, Replica
from runyard.model.event import Event
from runyard.model.flow import Flow
from runyard.model.ids import f58
from runyard.model.job import JobSpec, Resources
from runyard.model.node import Share
from runyard.model.state import State, Why

RANKS = {"vm": 0}
SHARE = Share("vm", [0, 1], [], 0)
KEYS = {
    "id", "id_str", "f58", "userid", "user", "urgency", "priority", "t_submit", "t_depend", "t_run", "t_cleanup",
    "t_inactive", "state", "name", "command", "cwd", "workdir", "ntasks", "ncores", "nnodes", "duration", "ranks",
    "nodelist", "expiration", "annotations", "dependencies", "success", "exception_occurred", "exception_severity",
    "exception_type", "exception_note", "result", "status", "waitstatus", "returncode", "runtime", "exception",
    "option_flags", "kind", "origin", "reason",
}  # fmt: skip


def record(state: State, reason: str | None = None, replica: Replica | None = None, **more: Any) -> JobRecord:
    spec = JobSpec(command=["/bin/prog", "x"], resources=Resources(tasks=2, cores_per_task=1), time_limit=60.0)
    ended = {"ended_at": 110.0} if state in (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.TIMED_OUT) else {}
    values: dict[str, Any] = {"id": 1234, "spec": spec, "kind": "batch", "origin": "flux", "owner": "ann"}
    values |= {"submitted_at": 100.0, "state": state, "reason": reason, **ended, **more}
    return JobRecord(**values, replicas=[replica or Replica(state=state)])


def run(state: State, **more: Any) -> Replica:
    values: dict[str, Any] = {"state": state, "attempt": 1, "shares": [SHARE], "launched_at": 101.0}
    return Replica(**(values | more))


def shown(record: JobRecord) -> dict[str, Any]:
    found = detailed(record, 7, RANKS, 105.0)
    assert found.keys() == KEYS and None not in found.values()
    assert found["exception"]["type"] == found["exception_type"]
    return found


@pytest.mark.parametrize(
    ("number", "texts"),
    [
        (0, ["0", "ƒ1", "f1", "0x0", "0000.0000.0000.0000"]),
        (57, ["57", "ƒz", "0x39", " 57 "]),
        (58, ["ƒ21", "0x3a"]),
        (1234, ["ƒNH", "0x4d2", "job.0000.0000.0000.04d2"]),
        (21860712448, ["ƒaJksCK", "0x517000000", "0000.0005.1700.0000"]),
        (6731191091817518, ["ƒuZZybuNNy", "0017.e9fb.8df1.6c2e"]),
        (9007199254740992, ["ƒ2DLNrMSKuh", "0x20000000000000"]),
        (2**64 - 1, ["18446744073709551615", "ƒjpXCZedGfVQ", "0xffffffffffffffff", "ffff.ffff.ffff.ffff"]),
    ],
)
def test_an_id_in_every_spelling(number: int, texts: list[str]) -> None:
    assert [read_job_id(text) for text in texts] == [number] * len(texts)
    assert read_job_id(f58(number)) == number


@pytest.mark.parametrize(
    "text",
    ["", " ", "-1", "+1", "1e3", "1 2", "0X10", "0x", "ƒ", "f0", "fO", "fI", "fl", "zzz", "1.2", "18446744073709551616",
     "ƒjpXCZedGfVR", "f" + "z" * 50, "9" * 5000, "../etc", "١٢"],
)  # fmt: skip
def test_what_is_no_id(text: str) -> None:
    assert read_job_id(text) is None


@pytest.mark.parametrize(
    ("job", "state"),
    [
        (record(State.PENDING, Why.DEPENDENCY), "DEPEND"),
        (record(State.PENDING, Why.SCHEDULE), "DEPEND"),
        (record(State.PENDING, Why.HELD, hold=True), "PRIORITY"),
        (record(State.PENDING, Why.RESOURCES), "SCHED"),
        (record(State.STARTING, None, run(State.STARTING)), "RUN"),
        (record(State.RUNNING, None, run(State.RUNNING, started_at=102.0)), "RUN"),
        (record(State.STOPPING, None, run(State.STOPPING, started_at=102.0)), "CLEANUP"),
        (record(State.SUCCEEDED, None, run(State.SUCCEEDED, exit_code=0)), "INACTIVE"),
    ],
)
def test_the_states_have_their_names_and_sentinels(job: JobRecord, state: str) -> None:
    found = shown(job)
    assert found["state"] == state_of(job) == state and found["name"] == "prog" and found["ntasks"] == 2
    active = state != "INACTIVE"
    assert (found["returncode"] == "") == (found["result"] == "") == (found["success"] == "") == active
    assert found["status"] == (state if active else "COMPLETED")
    launched = state in ("RUN", "CLEANUP", "INACTIVE")
    assert found["ranks"] == ("0" if launched else "") and found["nodelist"] == ("vm" if launched else "")
    assert found["t_run"] == (101.0 if launched else "") and found["expiration"] == (161.0 if launched else "")
    assert found["urgency"] == (0 if job.hold else 16)


@pytest.mark.parametrize(
    ("job", "waitstatus", "returncode", "result", "exception"),
    [
        (record(State.SUCCEEDED, None, run(State.SUCCEEDED, exit_code=0)), 0, 0, "COMPLETED", ""),
        (record(State.FAILED, "exit code 3", run(State.FAILED, exit_code=3)), 768, 3, "FAILED", ""),
        (record(State.FAILED, None, run(State.FAILED, signal=9)), 137 << 8, 137, "FAILED", ""),
        (record(State.CANCELLED, None, run(State.CANCELLED, signal=15)), 36608, 143, "CANCELED", "cancel"),
        (record(State.CANCELLED), "", -128, "CANCELED", "cancel"),
        (record(State.TIMED_OUT, None, run(State.TIMED_OUT, signal=15)), 36352, 142, "TIMEOUT", "timeout"),
        (
            record(State.FAILED, "x", run(State.FAILED, reason="there is no program 'prog' in PATH (/bin)")),
            32512, 127, "FAILED", "exec",
        ),
        (
            record(State.FAILED, "x", run(State.FAILED, reason="/bin/prog is not executable: chmod +x it")),
            126 << 8, 126, "FAILED", "exec",
        ),
        (record(State.FAILED, "x", run(State.FAILED, reason="nobody could observe it")), "", 1, "FAILED", "exec"),
        (record(State.FAILED, "can never run here: needs 9 cores"), "", 1, "FAILED", "alloc"),
    ],
)  # fmt: skip
def test_how_jobs_end(job: JobRecord, waitstatus: Any, returncode: int, result: str, exception: str) -> None:
    found = shown(job)
    assert (found["waitstatus"], found["returncode"], found["result"]) == (waitstatus, returncode, result)
    assert found["exception"]["type"] == exception and found["exception"]["occurred"] is (exception != "")
    assert found["exception"]["severity"] == (0 if exception else "")


def test_the_notes_of_exceptions_are_those_of_flux() -> None:
    missing = record(State.FAILED, "x", run(State.FAILED, reason="there is no program '/bin/prog'"))
    assert shown(missing)["exception_note"] == ("task 0 (host vm): start failed: /bin/prog: No such file or directory")
    impossible = shown(record(State.FAILED, "can never run here: needs 9 cores"))
    assert impossible["exception_note"] == "unsatisfiable request" and "9 cores" in impossible["reason"]
    assert shown(record(State.TIMED_OUT))["exception_note"] == "resource allocation expired"


def test_the_runtime_grows_until_the_end() -> None:
    assert shown(record(State.PENDING, Why.RESOURCES))["runtime"] == 0.0
    assert shown(record(State.RUNNING, None, run(State.RUNNING, started_at=102.0)))["runtime"] == 4.0
    done = shown(record(State.SUCCEEDED, None, run(State.SUCCEEDED, exit_code=0, ended_at=104.5)))
    assert (done["runtime"], done["t_cleanup"], done["t_inactive"]) == (3.5, 104.5, 110.0)


def test_a_job_that_is_no_command_has_a_name() -> None:
    flow = record(State.PENDING, Why.RESOURCES, spec=JobSpec(flow=Flow(path="/flow.toml")), kind="flow")
    assert (shown(flow)["name"], shown(flow)["command"]) == ("flow", [])


def test_sets_of_numbers_and_hosts() -> None:
    assert [id_set(x) for x in ([], [0], [0, 1, 2], [0, 3, 4])] == ["", "0", "[0-2]", "[0,3-4]"]
    assert host_list(["vm"]) == "vm" and host_list(["a0", "a1", "a2", "b"]) == "a[0-2],b"
    assert host_list(["n08", "n10"]) == "n08,n10" and host_list([]) == ""


def row(**more: Any) -> dict[str, Any]:
    return shown(record(State.RUNNING, None, run(State.RUNNING))) | more


def query(**values: str) -> Parameters:
    return Parameters(dict(values))


def test_a_search_looks_at_each_value_in_either_case() -> None:
    rows = [row(name="Alpha"), row(name="beta", annotations={"user": {"note": "x ALPHA y"}}), row(name="gamma")]
    assert [r["name"] for r in searched(rows, "alpha")] == ["Alpha", "beta"]
    assert searched(rows, None) == searched(rows, "") == rows and searched(rows, "Alphavm") == []
    assert [r["name"] for r in searched(rows, "^g.*a$", regex=True)] == ["gamma"]


def test_a_pattern_cannot_eat_time() -> None:
    rows = [row(name="a" * 5000 + "b")] * 20
    assert searched(rows, "(a+)+$|(a|aa)+$|^(([a-z])+.)+[A-Z]([a-z])+$", regex=True) == []
    for bad in ("(", "a{1000}{1000}", "(?=x)", r"\1", "x" * 2000):
        with pytest.raises(Refused) as caught:
            searched(rows, bad, regex=True)
        assert caught.value.status == 400


def test_pages_for_datatables_and_for_others() -> None:
    rows = [row(name=str(n)) for n in range(5)]

    def names(**values: str) -> tuple[list[str], int, int]:
        found = page(rows, query(**values))
        return [r["name"] for r in found["data"]], found["draw"], found["recordsFiltered"]

    assert names() == (["0", "1", "2", "3", "4"], 1, 5)
    assert names(start="1", length="2") == (["1", "2"], 1, 2)
    assert names(start="1", length="2", draw="7") == (["1", "2"], 7, 5)
    assert names(start="9") == ([], 1, 0) and names(length="-1")[2] == 5 and names(length="0")[2] == 0
    for bad in ({"start": "x"}, {"start": "-1"}, {"length": "-2"}, {"draw": "<b>"}):
        with pytest.raises(Refused) as caught:
            page(rows, query(**bad))
        assert caught.value.status == 422


def test_rows_are_sorted_and_filtered() -> None:
    rows = [row(name="b", returncode=10), row(name="a", returncode=9), row(name="c", returncode="")]
    asked = {"order[0][column]": "1", "order[0][dir]": "desc", "columns[1][data]": "name", "columns[0][data]": "id"}
    assert [r["name"] for r in sorted_rows(rows, asked)] == ["c", "b", "a"]
    assert [r["returncode"] for r in sorted_rows(rows, {"sort": "returncode"})] == [9, 10, ""]
    assert sorted_rows(rows, {"sort": "nothing"}) == sorted_rows(rows, {"sort": "exception"}) == rows
    assert [r["name"] for r in filtered(rows, query(name="a", state="running,SCHED", user="ann"))] == ["a"]
    assert filtered(rows, query(result="completed")) == filtered(rows, query(since="101")) == []


def test_jobs_stand_in_the_order_of_flux() -> None:
    jobs = [
        record(State.SUCCEEDED, None, run(State.SUCCEEDED, exit_code=0), id=1, ended_at=120.0),
        record(State.SUCCEEDED, None, run(State.SUCCEEDED, exit_code=0), id=2, ended_at=130.0),
        record(State.RUNNING, None, run(State.RUNNING, launched_at=50.0), id=3),
        record(State.RUNNING, None, run(State.RUNNING, launched_at=60.0), id=4),
        record(State.PENDING, Why.RESOURCES, id=6),
        record(State.PENDING, Why.RESOURCES, id=5),
        record(State.PENDING, Why.RESOURCES, id=7, priority=3),
    ]
    assert [job.id for job in sorted(jobs, key=order)] == [7, 5, 6, 4, 3, 2, 1]


def told(type: str, job: JobRecord, **data: Any) -> list[str]:
    event = Event(17, 100.0, type, job.id, job.state, 0, 0, data or None)
    return [entry["name"] for entry in entries(event, job, 7, RANKS)]


def test_events_have_flux_names_and_order() -> None:
    up = record(State.RUNNING, None, run(State.RUNNING, started_at=102.0))
    done = record(State.SUCCEEDED, None, run(State.SUCCEEDED, exit_code=0))
    assert told("job.submitted", up) == ["submit", "depend", "priority"]
    assert told("job.starting", up) == ["alloc"] and told("run.started", up) == ["start"]
    assert told("run.exited", done, exit_code=0) == ["finish"]
    assert told("job.succeeded", done) == ["release", "free", "clean"]
    assert told("job.stopping", up, reason="cancel") == ["exception"] and told("job.stopping", up) == []
    cancelled = record(State.CANCELLED, None, run(State.CANCELLED, signal=15))
    assert told("job.cancelled", cancelled) == ["release", "free", "clean"]
    assert told("job.cancelled", record(State.CANCELLED)) == ["exception", "clean"]
    assert told("job.failed", record(State.FAILED, "can never run here")) == ["exception", "clean"]
    assert told("job.timed_out", record(State.TIMED_OUT, None, run(State.TIMED_OUT, signal=15)))[0] == "exception"
    waits = record(State.PENDING, Why.DEPENDENCY, spec=JobSpec(command=["x"], after=["1"]))
    assert told("job.submitted", waits) == ["submit"] and told("job.starting", waits) == ["depend", "priority", "alloc"]
    assert told("job.amended", up, priority=3) == ["priority"] and told("job.deleted", up) == []


def test_a_cursor_goes_on_within_an_event() -> None:
    cursor = read_cursor("17.1")
    assert cursor == Cursor(17, 1) and cursor.after == 16
    assert [cursor.passed(17, place) for place in range(3)] == [True, True, False] and not cursor.passed(18, 0)
    whole = read_cursor("17")
    assert whole is not None and whole.after == 17
    assert [read_cursor(text) for text in ("", "x", "-1", "1.", "1.22", "9" * 30, "\u0661")] == [None] * 7
