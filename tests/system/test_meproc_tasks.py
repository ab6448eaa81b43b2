"""The lives of Meproc's tasks: what each type means, what its fields say at each moment, and how it is stopped."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.helpers import deadline, wait_until
from tests.system.meproc import INVALID_USER_TEXT, NOT_EXISTS, OK, Door, Json, meproc
from tests.system.server import alive, ask_until


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with meproc(tmp_path_factory.mktemp("meproc")) as door:
        yield door


@pytest.fixture(autouse=True)
def nothing_left(door: Door) -> Iterator[None]:
    yield
    door.clear()


def state(task: Json) -> tuple[bool, int]:
    return task["run_flag"], task["running"]


def next_second() -> None:
    """Waits for the next full second, so that times in seconds differ."""
    now = int(time.time())
    wait_until(lambda: int(time.time()) > now)


# once -------------------------------------------------------------------------------------------------------------


def test_a_once_task_from_its_start_to_its_deletion(door: Door, tmp_path: Path) -> None:
    before = int(time.time())
    gate = tmp_path / "gate"
    door.start("t", f"echo $PPID; while [ ! -e {gate} ]; do sleep 0.02; done; exit 3")
    (pid,) = door.until_up("t")
    task = door.task("t")
    assert state(task) == (False, 1)
    assert before <= task["start_time"] <= task["last_time"] <= time.time()
    assert door.get("t")["running"] == [{"command": task["cmd"], "pid": pid, "alias": "t:0"}]
    assert alive(pid)
    gate.touch()
    ended = door.until("t", lambda task: not task["running"])
    assert ended == task | {"running": 0}, "whatever its exit code, it is not started again; the record stays"
    assert door.pids("t") == []
    assert door.delete("t") == OK and door.get()["tasks"] == {}


@pytest.mark.parametrize(
    ("cmd", "said"),
    [
        ("/no/such/program", b"not found"),
        ("exit 7", b""),
        ("kill -9 $$", b""),
        ("syntax ( error", b"yntax error"),
    ],
)
def test_a_command_that_fails_is_no_failed_request(door: Door, cmd: str, said: bytes) -> None:
    door.start("t", cmd, replica=2)
    assert state(door.until_ended("t")) == (False, 0)
    assert said in door.output("t")["t:0"] and said in door.output("t")["t:1"]


def test_replicas_are_told_apart_and_counted_down_one_by_one(door: Door, tmp_path: Path) -> None:
    line = 'echo "$MEPROC_NAME $MEPROC_ALIAS $MEPROC_INDEX/$MEPROC_REPLICA"'
    door.start("t", f"{line}; while [ ! -e {tmp_path}/$MEPROC_INDEX ]; do sleep 0.02; done", replica=3)
    door.until_up("t", 3)
    entries = door.get("t")["running"]
    assert [entry["alias"] for entry in entries] == ["t:0", "t:1", "t:2"]
    assert len({entry["pid"] for entry in entries}) == 3 and door.task("t")["running"] == 3
    for index in range(3):
        assert door.until_written("t", b"\n", index) == f"t t:{index} {index}/3\n".encode()
    for left in (2, 1, 0):
        (tmp_path / str(left)).touch()
        door.until("t", lambda task: task["running"] == left)  # noqa: B023
        assert len(door.pids("t")) == left


def test_a_task_gets_nothing_of_the_servers_but_what_it_needs(door: Door) -> None:
    door.start("t", "ls -l /proc/self/fd; ps -o pid=,sid= -p $$; id -u; pwd; env")
    door.until_ended("t")
    text = door.output("t")["t:0"].decode()
    descriptors = [line.partition(" -> ")[2] for line in text.splitlines() if " -> " in line]
    assert descriptors[0] == "/dev/null" and "socket:" not in text
    assert str(os.getuid()) in text.splitlines()
    pid, sid = next(line.split() for line in text.splitlines() if len(line.split()) == 2 and line.split()[0].isdigit())
    assert pid == sid, "each replica leads a session of its own"
    assert "RUNYARD_DOORS__" not in text and "MEPROC_ALIAS=t:0" in text


# PUT and DELETE ---------------------------------------------------------------------------------------------------


def test_generations_never_overlap(door: Door, tmp_path: Path) -> None:
    """Each process notes its begin, and its end, which it takes its time for."""
    journal = tmp_path / "journal"
    door.start(
        "t",
        f"trap 'sleep 0.2; echo end >> {journal}; exit' TERM; echo begin >> {journal}; echo up; "
        "while :; do sleep 0.02; done",
        replica=2,
    )
    pids = door.until_up("t", 2)
    for _ in range(3):
        door.until_written("t", b"up", 0)
        door.until_written("t", b"up", 1)
        started = door.task("t")
        next_second()
        assert door.put("t") == OK
        assert door.put("t") == OK, "asked twice is asked once"
        pids = door.until_up("t", 2, but=pids)
        again = door.task("t")
        assert again["last_time"] > started["last_time"] and again["start_time"] > started["start_time"]
        assert again["running"] == 2
        wait_until(lambda: journal.read_text().split()[-2:] == ["begin", "begin"])
    words = journal.read_text().split()
    assert words == ["begin", "begin", "end", "end"] * (len(words) // 4) + ["begin", "begin"]


def test_put_starts_what_has_ended_and_its_output_goes_on(door: Door) -> None:
    door.start("t", "echo again")
    first = door.until_ended("t")
    next_second()
    assert door.put("t") == OK
    door.until_written("t", b"again\nagain\n")
    second = door.until_ended("t")
    assert second["last_time"] > first["last_time"] and second["start_time"] > first["start_time"]


def test_what_was_brought_back_elsewhere_and_has_ended_again_is_shown_as_it_is(door: Door) -> None:
    door.start("t", "echo again")
    first = door.until_ended("t")
    next_second()
    with door.server.http() as http:
        http.post("/api/v1/jobs/t/restart").raise_for_status()
        assert http.get("/api/v1/jobs/t/wait", params={"timeout": 60}).json()["state"] == "succeeded"
    # Nobody has asked this door meanwhile.
    assert door.task("t")["last_time"] > first["last_time"]


#: Ignores SIGTERM, has a child that does so too, and one that has left the session and lost its parent.
TREE = """
trap '' TERM
sh -c "trap '' TERM; echo \\$\\$ > $0/child; while :; do sleep 0.1; done" &
setsid sh -c "trap '' TERM; sh $0/daemon.sh & exit" &
setsid -f sleep 600
echo $$ > $0/leader
while :; do sleep 0.1; done
"""


@pytest.mark.parametrize("how", ["delete", "put"])
def test_a_stop_reaches_the_whole_tree(door: Door, tmp_path: Path, how: str) -> None:
    script = tmp_path / "tree.sh"
    script.write_text(TREE.replace("$0", str(tmp_path)))
    (tmp_path / "daemon.sh").write_text(f"trap '' TERM; echo $$ > {tmp_path}/escaped; while :; do sleep 0.1; done")
    door.start("t", f"exec sh {script}")
    (pid,) = door.until_up("t")

    def noted() -> list[int]:
        paths = [tmp_path / name for name in ("leader", "child", "escaped")]
        return [int(text) for path in paths if path.exists() and (text := path.read_text().strip())]

    wait_until(lambda: len(noted()) == 3, 60, "the whole tree")
    # Those three, the one below `setsid -f`, and what sleeps for a moment.
    wait_until(lambda: len(door.server.processes()) >= 4)
    before = [*door.server.processes(), *noted()]
    assert all(map(alive, noted()))
    if how == "delete":
        assert door.delete("t") == OK
        wait_until(lambda: not door.server.processes(), 60, "the end of the tree")
    else:
        assert door.put("t") == OK
        door.until_up("t", but=[pid])
    assert not [pid for pid in before if alive(pid)], "somebody has survived"


def test_what_handles_sigterm_ends_by_itself(door: Door) -> None:
    door.start("t", "trap 'echo bye; exit' TERM; exec 2> /dev/null; echo up; while :; do sleep 0.02; done")
    door.until_written("t", b"up")
    (pid,) = door.until_up("t")
    job = door.server.get("/api/v1/jobs/t").json()["id"]
    assert door.delete("t") == OK
    wait_until(lambda: not alive(pid))
    assert door.server.get(f"/api/v1/jobs/{job}/logs").text == "up\nbye\n"
    assert door.send("GET", "/proc/output?name=t") == NOT_EXISTS


def test_delete_of_what_waits_has_ended_or_is_a_schedule(door: Door) -> None:
    door.start("dep", "sleep 600")
    door.until_up("dep")
    door.start("held", "echo never", deps=["dep"])
    door.start("over", "true")
    door.start("cron", "true", "cron")
    door.until_ended("over")
    for name in ("held", "over", "cron"):
        assert door.delete(name) == OK
        assert door.delete(name) == NOT_EXISTS
    assert set(door.get()["tasks"]) == {"dep"}


def test_a_task_whose_job_was_removed_elsewhere_can_be_started_again_and_deleted(door: Door) -> None:
    """By retention, or by the native API; the name is still the task's."""
    door.start("t", "echo once more", replica=2)
    door.until_ended("t")
    for start in (True, False):
        job = door.server.get("/api/v1/jobs/t").json()["id"]
        with door.server.client() as client:
            client.delete(job)
        assert door.task("t")["running"] == 0
        assert door.output("t") == {"t:0": b"", "t:1": b""}
        assert door.post("t", "true")["code"] == 403
        if start:
            assert door.put("t") == OK
            door.until_written("t", b"once more\n")
            door.until_ended("t")
        else:
            assert door.delete("t") == OK
            door.start("t", "true")


# daemon -----------------------------------------------------------------------------------------------------------


def test_a_daemon_is_launched_again_after_its_interval_and_its_times_stay(door: Door, tmp_path: Path) -> None:
    times = tmp_path / "times"
    door.start("d", f"date +%s.%N >> {times}; exit 1", "daemon", interval=1)
    task = door.until("d", lambda task: task["last_time"])
    wait_until(lambda: len(times.read_text().split()) >= 3, 60)
    moments = [float(line) for line in times.read_text().split()]
    assert all(after - before >= 1.0 for before, after in pairwise(moments))
    again = door.task("d")
    assert again == task and state(again) == (False, 1), "in the pause too it counts as running"


def test_a_daemons_first_start_is_immediate_and_any_end_is_followed_by_a_start(door: Door, tmp_path: Path) -> None:
    door.start("rare", "sleep 600", "daemon", interval=600)
    door.until_up("rare")
    door.start("d", "sleep 600", "daemon", interval=1, replica=2)
    first = door.until_up("d", 2)
    os.kill(first[0], signal.SIGKILL)
    second = ask_until(lambda: door.pids("d"), lambda pids: len(pids) == 2 and first[0] not in pids)
    assert second[1] == first[1], "each replica for itself"


@pytest.mark.parametrize("how", ["delete", "put"])
def test_requests_in_the_pause_of_a_daemon(door: Door, tmp_path: Path, how: str) -> None:
    runs = tmp_path / "runs"
    door.start("d", f"echo run >> {runs}", "daemon", interval=600)
    wait_until(lambda: runs.exists() and not door.pids("d"), 60)
    assert state(door.until("d", lambda task: task["last_time"])) == (False, 1)
    with door.server.client() as client:
        job = client.job("d")
        client_state = door.server.until(client, job.id, "pending")
        assert client_state.reason == "backoff"
        if how == "delete":
            assert door.delete("d") == OK
            assert client.wait(job.id, 60).state == "cancelled"
            assert runs.read_text() == "run\n"
        else:
            next_second()
            assert door.put("d") == OK
            wait_until(lambda: runs.read_text() == "run\nrun\n", 60, "a run at once")


def test_the_interval_in_milliseconds(tmp_path: Path) -> None:
    times = tmp_path / "times"
    with meproc(tmp_path / "server", env={"RUNYARD_DOORS__MEPROC__INTERVAL_UNIT": "milliseconds"}) as door:
        door.start("d", f"date +%s.%N >> {times}", "daemon", interval=300)
        door.start("default", "sleep 60", "daemon")
        wait_until(lambda: times.exists() and len(times.read_text().split()) >= 4, 60)
        moments = [float(line) for line in times.read_text().split()]
        assert all(after - before >= 0.3 for before, after in pairwise(moments))
        assert (door.task("d")["interval"], door.task("default")["interval"]) == (300, 3000)
        door.clear()


# cron -------------------------------------------------------------------------------------------------------------


def test_a_cron_task_is_registered_and_runs_now_by_put(door: Door, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    door.start("c", f"while [ ! -e {gate} ]; do sleep 0.02; done", "cron", cron="0 0 1 JAN *", replica=2)
    idle = door.task("c")
    assert (idle["cron"], idle["last_time"], idle["start_time"], state(idle)) == ("0 0 1 JAN *", 0, 0, (False, 0))
    before = int(time.time())
    assert door.put("c") == OK
    door.until_up("c", 2)
    task = door.task("c")
    assert state(task) == (False, 2) and before <= task["start_time"] <= task["last_time"]
    gate.touch()
    assert door.until("c", lambda task: not task["running"]) == task | {"running": 0}
    gate.unlink()
    next_second()
    assert door.put("c") == OK
    door.until_up("c", 2)
    assert door.task("c")["last_time"] > task["last_time"]
    with door.server.client() as client:
        assert client.job("c").next_fire_at is not None, "the schedule goes on"


def test_the_default_schedule_is_every_minute(door: Door) -> None:
    door.start("c", "true", "cron")
    assert door.task("c")["cron"] == "* * * * *"


# user and group ---------------------------------------------------------------------------------------------------

ROOT = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("useradd") is None, reason="only root may run tasks for others"
)


@pytest.fixture(scope="module")
def account() -> Iterator[pwd.struct_passwd]:
    """A user with a home folder and a supplementary group."""
    name, group = f"runyard{os.getpid()}", f"runyardg{os.getpid()}"
    subprocess.run(["groupadd", group], check=True)
    try:
        subprocess.run(["useradd", "-M", "-d", "/var/empty", "-s", "/bin/dash", "-G", group, name], check=True)
        try:
            yield pwd.getpwnam(name)
        finally:
            subprocess.run(["userdel", "-f", name], check=True, capture_output=True)
    finally:
        subprocess.run(["groupdel", group], check=True)


WHO = 'id -u; id -g; echo $(id -G); echo "$HOME $USER $LOGNAME $SHELL"; echo through >> /dev/stdout'


@ROOT
def test_a_user_is_really_applied(door: Door, account: pwd.struct_passwd) -> None:
    door.start("t", WHO, user=account.pw_name, replica=2)
    task = door.until_ended("t")
    extra = grp.getgrnam(account.pw_name.replace("runyard", "runyardg")).gr_gid
    for text in door.output("t").values():
        uid, gid, groups, variables, through = text.decode().splitlines()
        assert (int(uid), int(gid), through) == (account.pw_uid, account.pw_gid, "through")
        assert {*map(int, groups.split())} == {account.pw_gid, extra}
        assert variables == f"/var/empty {account.pw_name} {account.pw_name} /bin/dash"
    assert (task["user"], task["group"]) == (account.pw_name, None)


@ROOT
def test_user_and_group_together_and_a_group_alone(door: Door, account: pwd.struct_passwd) -> None:
    audio = grp.getgrnam("audio").gr_gid
    door.start("both", WHO, user=account.pw_name, group="audio")
    door.start("group", WHO, group="audio")
    door.until_ended("both")
    door.until_ended("group")
    uid, gid, groups, *_ = door.output("both")["both:0"].decode().splitlines()
    assert (int(uid), int(gid)) == (account.pw_uid, audio) and audio in map(int, groups.split())
    assert door.output("group")["group:0"].decode().splitlines()[:2] == ["0", str(audio)]
    task = door.task("both")
    assert (task["user"], task["group"]) == (account.pw_name, "audio")


@pytest.mark.parametrize("field", ["user", "group"])
def test_an_unknown_user_or_group_is_a_failed_replica(door: Door, field: str) -> None:
    door.start("t", "echo never", replica=2, **{field: "nobody-of-that-name"})
    said = door.until_written("t", b"\n")
    assert INVALID_USER_TEXT in said and field.encode() in said
    task = door.until("t", lambda task: not task["running"])
    assert (task["last_time"], task["run_flag"], task[field]) == (0, False, "nobody-of-that-name")
    assert set(door.output("t")) == {"t:0", "t:1"}


def test_a_daemon_that_can_not_start_is_tried_again(door: Door) -> None:
    door.start("d", "true", "daemon", interval=1, user="nobody-of-that-name")
    for _ in deadline(60, "a second try"):
        if door.output("d")["d:0"].count(INVALID_USER_TEXT) >= 2:
            break
    assert state(door.task("d")) == (False, 1)
