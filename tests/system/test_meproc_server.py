"""The Meproc door with the rest of the house: output, crashes, other doors, scripts, bounds."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runyard.client import AsyncClient
from runyard.model.errors import InvalidInput
from tests.helpers import wait_until
from tests.system.meproc import EXISTS, NOT_EXISTS, OK, Door, meproc, shell
from tests.system.server import LOOPBACK, alive, ask_until

MIB = 1 << 20


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with meproc(tmp_path_factory.mktemp("meproc"), env={"RUNYARD_DOORS__MEPROC__OUTPUT_MAX": "1M"}) as door:
        yield door


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "door" in request.fixturenames:
        request.getfixturevalue("door").clear()


# Output -----------------------------------------------------------------------------------------------------------

EVERY_BYTE = bytes(range(256))


def test_output_of_each_replica_both_streams_mixed_and_any_byte(door: Door) -> None:
    code = "import sys,os; os.write(1,b'out\\n'); os.write(2,b'err\\n'); os.write(1,bytes(range(256)))"
    door.start("t", f'python -c "{code}"; printf %s $MEPROC_INDEX >&2', replica=2)
    door.until_ended("t")
    expected = b"out\nerr\n" + EVERY_BYTE
    assert door.output("t") == {"t:0": expected + b"0", "t:1": expected + b"1"}
    raw = shell(f"curl '{door.url}/proc/output?name=t'").json
    assert list(raw) == ["code", "msg", "data"] and raw["data"]["t:0"] == base64.b64encode(expected + b"0").decode()
    # The other doors know it as one stream.
    job = door.server.get("/api/v1/jobs/t").json()["id"]
    assert door.server.get(f"/api/v1/jobs/{job}/logs?replica=1").content == expected + b"1"
    assert door.server.get(f"/api/v1/jobs/{job}/logs?stream=stderr").content == b""


def test_the_end_of_the_output(door: Door) -> None:
    door.start("t", "seq 3")
    door.until_ended("t")
    assert door.put("t") == OK
    whole = door.until_written("t", b"1\n2\n3\n1\n2\n3\n")
    for tail in (0, 1, 5, 6, 7, 9, 12, 13, 1000):
        assert door.output("t", tail=tail) == {"t:0": whole[-tail:] if tail else b""}, tail
    for bad in ("-1", "x", "1e3", "1.5", "9" * 20):
        assert door.send("GET", "/proc/output", params={"name": "t", "tail": bad})["code"] == 400, bad
    door.start("nothing", "true")
    assert door.output("nothing") == {"nothing:0": b""}


def test_the_output_of_a_day(door: Door) -> None:
    door.start("t", "echo today")
    door.until_ended("t")
    today = datetime.now(UTC).date()
    assert door.output("t", date=today) == {"t:0": b"today\n"}
    # The run's end is on disk a moment after the task is known to have ended.
    tomorrow, nothing = today + timedelta(1), {"t:0": b""}
    ask_until(lambda: door.output("t", date=tomorrow), lambda out: out == nothing, 60, "the end on disk")
    for other in (today - timedelta(1), tomorrow, "2001-01-01"):
        assert door.output("t", date=other) == nothing
    for bad in ("yesterday", "2026-13-01", "2026-02-30", "20260101", "2026"):
        assert door.send("GET", "/proc/output", params={"name": "t", "date": bad})["code"] == 400, bad


def on_disk(door: Door, job: str) -> int:
    """Bytes that the output of a job's only run takes on the disk."""
    (path,) = (door.server.data / "output").rglob(f"{job}.*.out")
    return path.stat().st_blocks * 512


def test_a_chatty_process_is_bounded_on_disk_and_readable_from_its_first_kept_byte(door: Door, tmp_path: Path) -> None:
    """Lines of 16 bytes with their number, so that each tells where it stands."""
    gate = tmp_path / "gate"
    code = (
        "import os, time\n"
        "lines = 0\n"
        f"while not os.path.exists({str(gate)!r}):\n"
        "    os.write(1, b''.join(b'%015d\\n' % n for n in range(lines, lines + 4096)))\n"
        "    lines += 4096\n"
        "    time.sleep(0.005)\n"
        "os.write(1, b'%015d\\n' % lines)"
    )
    script = tmp_path / "chatty.py"
    script.write_text(code)
    door.start("chatty", f"exec python {script}")
    job = door.server.get("/api/v1/jobs/chatty").json()["id"]
    logs = f"/api/v1/jobs/{job}/logs"
    with door.server.client() as client:

        def size() -> int:
            return int(door.server.get(f"{logs}?limit=0").headers["X-Log-Size"])

        wait_until(lambda: size() > 8 * MIB, 60, "8 MiB of output")
        wait_until(lambda: on_disk(door, job) < size() / 2, 60, "a first trim")
        for _ in range(20):
            answer = door.server.get(logs)
            offset = int(answer.headers["X-Log-Offset"])
            assert int(answer.headers["Content-Length"]) == len(answer.content)
            assert offset + len(answer.content) == int(answer.headers["X-Log-Size"])
            # A trim between the look and the read leaves a hole that reads as NULs; the lengths hold all the same.
            kept = answer.content.lstrip(b"\0")
            place = (offset + len(answer.content) - len(kept)) // 16
            assert kept[:16] == b"%015d\n" % place
        ranged = door.server.get(logs, headers={"Range": "bytes=0-"})
        assert ranged.status_code == 206 and int(ranged.headers["Content-Length"]) == len(ranged.content)
        first = int(ranged.headers["Content-Range"].split()[1].partition("-")[0])
        assert first > 0 and ranged.headers["X-Log-Offset"] == str(first)
        gate.touch()
        client.wait(job, 60)
        last = size() // 16 - 1
        # With the end of the run comes a last trim.
        ask_until(lambda: on_disk(door, job), lambda taken: taken <= MIB + 8192, 60, "the bound")
        answer = door.server.get(logs)
        start = int(answer.headers["X-Log-Offset"])
        assert MIB <= len(answer.content) <= MIB + 8192 and start + len(answer.content) == (last + 1) * 16
        assert answer.content[-16:] == b"%015d\n" % last and answer.content[:16] == b"%015d\n" % (start // 16)
        assert b"".join(client.logs(job)) == answer.content
        assert b"".join(client.logs(job, tail=2)) == b"%015d\n%015d\n" % (last - 1, last)
        assert b"".join(client.logs(job, offset=5)) == answer.content
        # Search, through the client and the command.
        assert b"".join(client.logs(job, search=f"{last:015d}")) == b"%015d\n" % last
        assert b"".join(client.logs(job, search=f"{0:015d}")) == b"", "that line is gone"
        found = [int(line) for line in b"".join(client.logs(job, search="000\n".strip())).split()]
        assert found == [n for n in range(start // 16, last + 1) if "000" in f"{n:015d}"]
        shown = door.server.run("logs", job, "--search", f"{last - 7:015d}")
        assert (shown.returncode, shown.stdout) == (0, f"{last - 7:015d}\n")
        assert asyncio.run(search_async(door, job, f"{last:015d}")) == b"%015d\n" % last
        with pytest.raises(InvalidInput, match="can't follow"):
            next(client.logs(job, search="x", follow=True))
        both = door.server.run("logs", job, "--search", "x", "-f")
        assert both.returncode == 2 and "--follow" in both.stderr
    (tail,) = door.output("chatty").values()
    assert tail == answer.content[-len(tail) :] and len(tail) >= MIB - 8192


async def search_async(door: Door, job: str, text: str) -> bytes:
    async with AsyncClient(door.server.url) as client:
        return b"".join([piece async for piece in client.logs(job, search=text)])


def test_the_end_of_a_long_output_is_shown_up_to_a_mebibyte(tmp_path: Path) -> None:
    with meproc(tmp_path) as door:
        door.start("t", "head -c 3000000 /dev/zero | tr '\\0' x; echo end")
        door.until_ended("t")
        (text,) = door.output("t").values()
        assert len(text) == MIB and text.endswith(b"xend\n")
        (more,) = door.output("t", tail=2_000_000).values()
        assert len(more) == 2_000_000


def test_a_run_that_is_over_between_two_looks_is_bounded_too(door: Door) -> None:
    door.start("t", "head -c 9000000 /dev/zero | tr '\\0' x")
    door.until_ended("t")
    job = door.server.get("/api/v1/jobs/t").json()["id"]
    wait_until(lambda: on_disk(door, job) <= MIB + 8192, 60, "the bound")
    assert door.server.get(f"/api/v1/jobs/{job}/logs?limit=0").headers["X-Log-Size"] == "9000000"


# Crashes ----------------------------------------------------------------------------------------------------------


def test_everything_survives_a_kill_of_the_server(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with meproc(tmp_path / "server") as door:
        door.start("once", f"while [ ! -e {gate} ]; do sleep 0.05; done; echo over", replica=2)
        door.start("daemon", "sleep 600", "daemon", interval=1)
        door.start("pause", "echo run", "daemon", interval=600)
        door.start("over", "echo ended")
        door.start("cron", "true", "cron", cron="0 9 * * MON-FRI", note={"kept": [1, None]})
        up = door.until_up("once", 2)
        daemon = door.until_up("daemon")
        door.start("held", "echo released", deps=["once"])
        door.until_ended("over")
        door.until_written("pause", b"run")
        wait_until(lambda: not door.pids("pause"))
        before = door.get()
        assert before["tasks"]["held"]["run_flag"] and before["tasks"]["cron"]["note"] == {"kept": [1, None]}

        door.restart_server()
        # The agent tells what is up once it is in contact.
        after = ask_until(door.get, lambda data: len(data["running"]) == 3, 60, "the adoption of all processes")
        assert after["tasks"] == before["tasks"] and list(after["tasks"]) == list(before["tasks"])
        assert sorted(map(str, after["running"])) == sorted(map(str, before["running"]))
        assert (door.pids("once"), door.pids("daemon")) == (up, daemon)
        assert door.output("over") == {"over:0": b"ended\n"}
        assert door.post("over", "true") == EXISTS

        # What ends while there is no server is known afterwards, and has its consequences.
        door.close()
        door.server.kill()
        gate.touch()
        os.kill(daemon[0], signal.SIGKILL)
        wait_until(lambda: not any(map(alive, [*up, *daemon])), 60, "the end of the processes")
        door.server.start()
        door.open()
        door.until_written("held", b"released")
        assert door.task("once")["running"] == 0 and b"over" in door.output("once")["once:1"]
        door.until_up("daemon", but=daemon)
        assert door.put("over") == OK and door.delete("cron") == OK
        door.restart_server()
        assert "cron" not in door.get()["tasks"] and door.delete("cron") == NOT_EXISTS
        door.clear()
        door.restart_server()
        assert door.get() == {"running": [], "tasks": {}}


def test_the_last_time_is_known_after_a_crash_while_a_restart_is_held(tmp_path: Path) -> None:
    with meproc(tmp_path) as door:
        door.start("t", "true", deps=["dep"])
        launched = door.until_ended("t")["last_time"]
        door.start("dep", "sleep 600")
        door.until_up("dep")
        assert door.put("t") == OK
        held = door.task("t")
        assert (held["run_flag"], held["last_time"]) == (True, launched)
        door.restart_server()
        assert door.task("t") == held
        door.clear()


def test_a_stop_goes_on_after_a_kill_of_the_server(tmp_path: Path) -> None:
    with meproc(tmp_path, env={"RUNYARD_DOORS__MEPROC__STOP_GRACE": "3"}) as door:
        door.start("t", "trap '' TERM; echo up; while :; do sleep 0.1; done")
        door.until_written("t", b"up")
        (pid,) = door.until_up("t")
        assert door.delete("t") == OK
        door.restart_server()
        assert "t" not in door.get()["tasks"]
        wait_until(lambda: not alive(pid), 60, "the end of the process")
        wait_until(lambda: not door.get()["running"])


# Other doors ------------------------------------------------------------------------------------------------------


def test_tasks_are_jobs_of_the_native_door(door: Door) -> None:
    door.start("m", "sleep 600", "daemon", replica=2, interval=7)
    door.until_up("m", 2)
    with door.server.client() as client:
        (job,) = client.jobs(origin="meproc", name="m")
        assert (job.name, job.origin, job.kind, job.spec.replicas) == ("m", "meproc", "service", 2)
        assert job.spec.restart is not None and job.spec.restart.delay == 7
        assert [run.pid for run in job.runs] == door.pids("m")
        client.cancel("m")
        client.wait(job.id, 60)
    task = door.task("m")
    assert (task["running"], task["run_flag"]) == (0, False), "stopped by another door, but still registered here"
    assert door.post("m", "true") == EXISTS
    assert door.put("m") == OK
    door.until_up("m", 2)


def test_jobs_of_the_native_door_are_tasks_while_they_live(door: Door) -> None:
    with door.server.client() as client:
        job = client.submit(command=["sleep", "600"], name="native", replicas=2)
        pids = door.until_up("native", 2)
        task = door.task("native")
        assert (task["cmd"], task["type"], task["replica"], task["running"]) == ("sleep 600", "once", 2, 2)
        assert set(task) == {
            "name", "cmd", "type", "replica", "deps", "interval", "last_time", "run_flag", "start_time", "running",
            "user", "group",
        }  # fmt: skip
        assert door.post("native", "true") == EXISTS
        assert set(door.output("native")) == {"native:0", "native:1"}
        assert door.put("native") == OK
        door.until_up("native", 2, but=pids)
        # It holds those who depend on it.
        door.start("waits", "echo went on", deps=["native"])
        assert door.task("waits")["run_flag"]
        assert door.delete("native") == OK
        assert client.wait(job.id, 60).state == "cancelled"
        door.until_written("waits", b"went on")
        assert "native" not in door.get()["tasks"] and door.delete("native") == NOT_EXISTS
        cron = client.submit(command=["true"], name="cron", lifecycle="cron", schedule={"cron": "@daily"})
        assert (door.task("cron")["type"], door.task("cron")["cron"]) == ("cron", "@daily")
        client.cancel(cron.id)


# Bounds -----------------------------------------------------------------------------------------------------------


def test_many_silent_and_rude_clients_disturb_nobody(door: Door) -> None:
    door.start("t", "sleep 600")
    (pid,) = door.until_up("t")
    crowd = [socket.create_connection((LOOPBACK, door.port), 60) for _ in range(200)]
    for number, connection in enumerate(crowd[:100]):
        connection.sendall(os.urandom(50) if number % 2 else b"POST /proc HTTP/1.1\r\nContent-Length: 99\r\n\r\n{")
    for _ in range(20):
        assert door.pids("t") == [pid]
    assert door.put("t") == OK
    door.until_up("t", but=[pid])
    for connection in crowd:
        connection.close()
    assert door.delete("t") == OK


def test_two_hundred_short_tasks_and_five_hundred_replicas(door: Door) -> None:
    for number in range(200):
        door.start(f"t{number}", "true")
    door.start("many", "sleep 600", replica=500)
    assert len(door.until_up("many", 500)) == 500
    ask_until(
        lambda: door.get()["tasks"],
        lambda tasks: all(task["last_time"] and not task["running"] for name, task in tasks.items() if name != "many"),
        60,
        "the end of all",
    )
    assert door.delete("many") == OK
    wait_until(lambda: not door.server.processes(), 60, "the end of all replicas")


# Scripts ----------------------------------------------------------------------------------------------------------


def test_scripts_that_can_not_be_started(door: Door) -> None:
    for kind in ("melang", "coroutine"):
        for cmd in ("script.txt", "no script", "task.m" if not melang() else "x"):
            answer = door.post("t", cmd, kind)
            assert answer["code"] == 400 and answer["msg"].startswith("Start failed"), cmd
    assert door.get()["tasks"] == {}


def melang() -> bool:
    return any(os.access(f"{folder}/melang", os.X_OK) for folder in os.environ["PATH"].split(":"))


SCRIPT = """
import json, os
data = json.loads(os.environ["EVAL_DATA"])
print(data["alias"], data["conf"]["note"], json.loads(EVAL_DATA) == data)
"""


@pytest.mark.parametrize("kind", ["melang", "coroutine"])
def test_a_python_script(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "task.py").write_text(SCRIPT)
    (folder / "fails.py").write_text("raise SystemExit('it does not work')")
    # The worker for Python ends soon after its last script.
    settings = {"RUNYARD_DOORS__MEPROC__SCRIPT_DIR": str(folder), "RUNYARD_AGENT__IDLE_EXIT": "0.5"}
    with meproc(tmp_path / "server", env=settings) as door:
        door.start("t", "task.py", kind, replica=2, note="from the client")
        assert door.until_written("t", b"\n", 1) == b"t:1 from the client True\n"
        assert door.task("t")["type"] == kind
        door.until_ended("t")
        door.start("bad", "fails.py", kind)
        door.until_written("bad", b"it does not work")
        door.until_ended("bad")
