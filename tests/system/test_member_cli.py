"""`runyard member`: programs that do not want to end, and members that are killed."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import free_port, wait_until
from tests.system.manager import FakeManager
from tests.system.member_rig import PROGRAM, USER, Rig, process
from tests.system.members import LOOPBACK
from tests.system.server import alive, clean_env

#: Deaf to SIGTERM, with a child in a session of its own; it writes down both.
STUBBORN = (
    'trap "" TERM; cd "$TANGO_PROJECT_DIR"; echo $$ > pids; setsid sh -c "echo \\$\\$ >> pids; exec sleep 1000" & '
)
STUBBORN += "while :; do wait; done"


@pytest.fixture(scope="module")
def manager() -> Iterator[FakeManager]:
    with FakeManager() as manager:
        yield manager


def options(manager: FakeManager, folder: Path, port: int = 0) -> list[str]:
    return ["--name", "codeGen", "--port", str(port), "--pm", manager.url, "--shared", str(folder), "--grace", "0.3"]


def pids(folder: Path, project: str) -> list[int]:
    """The two processes of a stubborn program, once they are there."""
    file = folder / "common" / USER / project / "pids"
    wait_until(lambda: file.exists() and len(file.read_text().split("\n")) == 3, 60, f"two processes in {file}")
    return [int(line) for line in file.read_text().split()]


def test_a_stop_reaches_everything_that_the_program_has_started(manager: FakeManager, tmp_path: Path) -> None:
    with process(tmp_path, *options(manager, tmp_path), "--reports", "all", "--", "sh", "-c", STUBBORN) as member:
        rig = Rig(member.url, tmp_path)
        assert rig.say("start", "deaf") == "starting"
        tree = pids(tmp_path, "deaf")
        assert rig.say("start", "other") == "error", "it works for one project at a time"
        assert rig.say("stop", "deaf") == "finished"
        manager.until("deaf", "started", "running", "stopped")
        assert rig.until("deaf", "stopped")
        wait_until(lambda: not any(map(alive, tree)), 60, f"the end of {tree}")
        # The member itself is told to end: so are its tasks, and the manager hears of it.
        assert rig.say("start", "again") == "starting"
        tree = pids(tmp_path, "again")
        assert member.end(signal.SIGTERM) == 0
    assert manager.words("again")[-1] == "stopped" and not any(map(alive, tree))


def test_a_killed_member_comes_back_without_its_task(manager: FakeManager, tmp_path: Path) -> None:
    more = ["--state", str(tmp_path / "state.json"), "--", "sh", "-c", STUBBORN]
    port = free_port()
    with process(tmp_path, *options(manager, tmp_path, port), *more) as member:
        assert Rig(member.url, tmp_path).say("start", "lost") == "starting"
        tree = pids(tmp_path, "lost")
        member.end(signal.SIGKILL)
    assert all(map(alive, tree)), "nobody was there to end them"
    (tmp_path / "common" / USER / "lost" / "pids").unlink()
    with process(tmp_path, *options(manager, tmp_path, port), *more) as member:
        manager.until("lost", "failed")
        assert not any(map(alive, tree)), "two of them would work on one project"
        rig = Rig(member.url, tmp_path)
        assert rig.say("status_request", "lost") == "failed" and rig.say("status_request") == "ready"
        assert rig.say("start", "lost") == "starting"
        pids(tmp_path, "lost")
        assert rig.say("stop", "lost") == "finished"
        manager.until("lost", "failed", "stopped")


def test_exit_codes_and_programs_that_are_not_there(manager: FakeManager, tmp_path: Path) -> None:
    with process(tmp_path, *options(manager, tmp_path), "--quote-bodies", "--", "sh", "-c", PROGRAM) as member:
        rig = Rig(member.url, tmp_path)
        for project, good in (("good", True), ("bad", False)):
            assert rig.say("start", project) == '"starting"'
            rig.end(project, good)
            manager.until(project, "success" if good else "failed")
            assert rig.until(project, '"completed"', '"failed"') == ('"completed"' if good else '"failed"')
        assert "exit code 3" in member.log.read_text()
    with process(tmp_path, *options(manager, tmp_path), "--", "no-such-program") as member:
        assert Rig(member.url, tmp_path).say("start", "none") == "starting"
        manager.until("none", "failed")
        assert "no-such-program: No such file" in member.log.read_text()


def test_a_command_line_that_makes_no_sense_is_explained(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, text in (
            (["--name", "bms", "--port", "0"], "COMMAND"),
            (["--name", "mine", "--", "true"], "port"),
            (["--name", "a/b", "--port", "0", "--", "true"], "name"),
            (["--name", "bms", "--port", "0", "--pm", "ftp://x", "--", "true"], "pm: must be a URL"),
            (["--name", "bms", "--port", port, "--", "true"], f"can't listen on 127.0.0.1:{port}"),
        ):
            done = subprocess.run(
                ["runyard", "member", *arguments], env=clean_env(), capture_output=True, text=True, timeout=60
            )
            assert done.returncode == 2 and text in done.stderr and "Traceback" not in done.stderr, done.stderr
