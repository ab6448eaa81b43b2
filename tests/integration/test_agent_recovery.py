"""The agent is killed, its journal torn, its disk full: no run is started twice, and no exit code is invented."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from runyard.agent import process
from runyard.agent.journal import Boot, Born, Intent, Journal, Record
from runyard.agent.log import Log
from runyard.executors.local import agent_status
from runyard.model import wire
from tests.agents import AgentProcess, alive, is_root, new_run
from tests.helpers import deadline, wait_until


def sh(text: str) -> list[str]:
    return ["/bin/sh", "-c", text]


def journal_of(agent: AgentProcess) -> Path:
    return agent.folder / "journal" / "journal.jsonl"


def write_journal(agent: AgentProcess, *records: Record, tail: bytes = b"") -> None:
    path = journal_of(agent)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.Encoder().encode_lines(records) + tail)


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[AgentProcess]:
    """An agent that is not running yet."""
    agent = AgentProcess(tmp_path)
    try:
        yield agent
    finally:
        agent.close()


def kernel_tells() -> bool:
    """Whether the kernel tells the exit status of a process that somebody else has reaped."""
    child = os.posix_spawn("/bin/true", ["true"], {})
    fd = os.pidfd_open(child)
    os.waitpid(child, 0)
    try:
        return process.exit_status(fd) == 0
    except OSError:
        return False
    finally:
        os.close(fd)


def test_a_new_agent_adopts_the_children_and_learns_their_exit_codes(agent: AgentProcess, tmp_path: Path) -> None:
    client = agent.client()
    go = tmp_path / "go"
    waiting = f"while [ ! -e {go} ]; do sleep 0.02; done"
    coded = agent.launch(sh(f"{waiting}; echo after; exit 7"))
    killed = agent.launch(sh(f"{waiting}; kill -USR1 $$"))
    stopped = agent.launch(["sleep", "600"])
    group = agent.launch(sh(f"sleep 600 & {waiting}"))
    client.send(coded, killed, stopped, group)
    pids = {launch.run: client.started(launch.run).pid for launch in (coded, killed, stopped, group)}
    client.send(wire.Ack(max(m.seq for m in client.messages if isinstance(m, wire.Started))))
    seq = client.started(group.run).seq
    agent.kill()
    agent.start()
    assert all(alive(pid) for pid in pids.values())
    client = agent.client()
    assert sorted(client.hello.live) == sorted(pids)
    client.send(coded, killed)
    go.touch()
    client.send(wire.Stop(stopped.run, signal.SIGTERM, 10))
    for launch, code, number in (
        (coded, 7, None),
        (killed, None, signal.SIGUSR1),
        (stopped, None, signal.SIGTERM),
        (group, 0, None),
    ):
        ended = client.exited(launch.run)
        assert ended.pid == pids[launch.run] and ended.seq > seq
        if kernel_tells():
            assert (ended.exit_code, ended.signal, ended.reason) == (code, number, None)
        else:
            assert (ended.exit_code, ended.signal) == (None, None) and ended.reason is not None
    assert agent.output(coded) == "after\n"
    assert not any(isinstance(m, wire.Started) for m in client.messages[1:5]) or client.hello.unacked
    assert agent.marked() == []


def test_reports_come_again_until_they_are_acknowledged(agent: AgentProcess) -> None:
    client = agent.client()
    launch = agent.launch(sh("exit 5"))
    client.send(launch)
    first = client.exited(launch.run)
    started = client.started(launch.run)
    second = agent.client()
    assert second.hello.unacked == 2
    assert second.exited(launch.run) == first and second.started(launch.run) == started
    wait_until(client.hung_up, 60, "the older connection to be ended")
    agent.kill()
    agent.start()
    third = agent.client()
    assert third.hello.unacked == 2 and third.exited(launch.run) == first
    third.send(wire.Ack(started.seq))
    other = agent.launch(["true"])
    third.send(other)
    third.exited(other.run)
    agent.kill()
    agent.start()
    fourth = agent.client()
    assert fourth.hello.unacked == 3
    fourth.send(wire.Ack(fourth.exited(other.run).seq))
    wait_until(lambda: agent_status(agent.folder).unacked == 0)


def test_numbers_go_on_over_restarts_and_a_lost_journal(agent: AgentProcess) -> None:
    last = 0
    for lose in (False, False, True, False):
        client = agent.client()
        launch = agent.launch(["true"])
        client.send(launch)
        seq = client.exited(launch.run).seq
        assert seq > last
        last = seq
        client.send(wire.Ack(seq))
        wait_until(lambda: agent_status(agent.folder).unacked == 0)
        agent.kill()
        if lose:
            journal_of(agent).unlink()
        agent.start()


def test_sigterm_leaves_the_runs_for_the_next_agent(agent: AgentProcess) -> None:
    client = agent.client()
    launch = agent.launch(["sleep", "600"])
    client.send(launch)
    pid = client.started(launch.run).pid
    os.kill(agent.pid, signal.SIGTERM)
    assert agent.wait() == 0
    assert client.wait(wire.Farewell).refused is None
    assert alive(pid)
    agent.start()
    client = agent.client()
    assert client.hello.live == [launch.run]
    client.send(wire.Stop(launch.run, signal.SIGTERM, 10))
    client.exited(launch.run)
    assert not alive(pid)


def test_a_run_that_ended_while_no_agent_ran_is_unknown(agent: AgentProcess, tmp_path: Path) -> None:
    client = agent.client()
    child = tmp_path / "child"
    launch = agent.launch(sh(f"sleep 600 & echo $! > {child}; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done"))
    client.send(launch)
    pid = client.started(launch.run).pid
    wait_until(lambda: child.exists() and child.read_text().strip())
    agent.kill()
    (tmp_path / "go").touch()
    wait_until(lambda: not alive(pid))
    agent.start()
    ended = agent.client().exited(launch.run)
    assert (ended.pid, ended.exit_code, ended.signal) == (pid, None, None)
    assert ended.reason == "nobody could observe how it ended: the agent was not running"
    assert not alive(int(child.read_text())), "the rest of its process group ends with it"


def test_promises_are_kept_by_the_next_agent(agent: AgentProcess) -> None:
    client = agent.client()
    stubborn = agent.launch(sh("trap '' TERM; echo ready; while :; do sleep 0.05; done"))
    limited = agent.launch(["sleep", "600"], time_limit=2.0, grace=0.5)
    client.send(stubborn, limited)
    wait_until(lambda: Path(stubborn.stdout).exists() and agent.output(stubborn) == "ready\n")
    client.started(limited.run)
    client.send(wire.Stop(stubborn.run, signal.SIGTERM, 2.0))
    # An answer to a later message: the stop has been dealt with.
    marker = agent.launch(["true"])
    client.send(marker)
    client.exited(marker.run)
    agent.kill()
    agent.start()
    client = agent.client()
    ended, timed = client.exited(stubborn.run), client.exited(limited.run)
    assert not ended.timed_out and timed.timed_out
    if kernel_tells():
        assert (ended.signal, timed.signal) == (signal.SIGKILL, signal.SIGTERM)


def test_an_intent_without_a_start(idle: AgentProcess, tmp_path: Path) -> None:
    """The three things that can be true of it: never started, started and up, started and gone."""
    idle.start()
    os.kill(idle.pid, signal.SIGTERM)
    idle.wait()
    name = (idle.folder / "id").read_text()
    never, up, gone = (idle.launch(sh("echo ran; exit 3")) for _ in range(3))
    (tmp_path / "output").mkdir()
    Path(gone.stdout).touch()
    with open(up.stdout, "w") as out:
        child = subprocess.Popen(
            sh("while :; do sleep 0.05; done"),
            env={"PATH": os.environ["PATH"], "RUNYARD_AGENT": name, "RUNYARD_RUN": str(up.run)},
            stdout=out,
            start_new_session=True,
        )
    write_journal(
        idle,
        Boot(process.boot_id(), 41),
        *[Intent(launch.run, launch.stdout, 15, 10.0, None, None) for launch in (never, up, gone)],
    )
    idle.start()
    client = idle.client()
    assert client.hello.live == [up.run]
    lost = client.exited(gone.run)
    assert (lost.pid, lost.exit_code, lost.signal, lost.seq) == (0, None, None, 43)
    assert lost.reason is not None and gone.stdout in lost.reason
    assert client.started(up.run).pid == child.pid
    client.send(wire.Stop(up.run, signal.SIGTERM, 10))
    # Its parent is this test, which has to collect it before the agent can learn anything.
    assert child.wait(60) == -signal.SIGTERM
    ended = client.exited(up.run)
    if kernel_tells():
        assert ended.signal == signal.SIGTERM
    client.send(never)
    assert client.exited(never.run).exit_code == 3
    assert idle.output(never) == "ran\n"


def test_after_a_restart_of_the_host_everything_is_unknown(idle: AgentProcess, tmp_path: Path) -> None:
    launch = idle.launch(["true"])
    # The pid is that of a living process, this test's, which must be left alone.
    write_journal(
        idle,
        Boot("another-boot", 10),
        Intent(launch.run, launch.stdout, 15, 10.0, None, None),
        Born(11, launch.run, os.getpid(), 1.0, process.uptime()),
    )
    idle.start()
    client = idle.client()
    ended = client.exited(launch.run)
    assert (ended.exit_code, ended.signal) == (None, None)
    assert ended.reason is not None and "restarted" in ended.reason
    assert client.hello.live == []


def test_a_pid_that_was_given_to_another_process_is_left_alone(idle: AgentProcess) -> None:
    launch = idle.launch(["true"])
    other = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        write_journal(
            idle,
            Boot(process.boot_id(), 10),
            Intent(launch.run, launch.stdout, 15, 10.0, None, None),
            Born(11, launch.run, other.pid, 1.0, process.uptime() - 100),
        )
        idle.start()
        ended = idle.client().exited(launch.run)
        assert (ended.exit_code, ended.signal) == (None, None)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_torn_and_a_spoilt_line(idle: AgentProcess) -> None:
    first, second = new_run(), new_run()
    path = journal_of(idle)
    records: list[Record] = [
        Boot(process.boot_id(), 10),
        wire.Exited(11, first, 0, 1.0, None, None, reason="x"),
        wire.Exited(12, second, 0, 1.0, None, None, reason="y"),
    ]
    encode = msgspec.json.Encoder().encode_lines
    path.parent.mkdir(parents=True)
    path.write_bytes(encode(records[:2]) + b"no json at all\n" + encode(records[2:]) + b'["Exited",13,[5,0')
    idle.start()
    client = idle.client()
    assert client.hello.unacked == 2
    assert client.exited(first).reason == "x" and client.exited(second).reason == "y"
    assert "journal.jsonl:3" in (idle.folder / "agent.log").read_text()
    launch = idle.launch(["true"])
    client.send(launch)
    assert client.exited(launch.run).seq == 14
    idle.kill()
    idle.start()
    assert idle.client().hello.unacked == 4


def test_the_journal_stays_small(agent: AgentProcess) -> None:
    client = agent.client()
    sleeper = agent.launch(["sleep", "600"])
    client.send(sleeper)
    client.started(sleeper.run)
    long = "x" * 4000
    largest = 0
    for _ in range(12):
        # Launches that fail have long reasons: the file fills without a process.
        launches = [agent.launch([f"/{long}"]) for _ in range(100)]
        client.messages.clear()
        client.send(*launches)
        last = client.exited(launches[-1].run)
        client.send(wire.Ack(last.seq))
        largest = max(largest, journal_of(agent).stat().st_size)
    assert largest > 1 << 20, "the test must have filled it"
    assert journal_of(agent).stat().st_size < 3 << 20
    agent.kill()
    agent.start()
    assert agent.client().hello.live == [sleeper.run]


def test_a_full_disk_loses_no_exit_and_starts_nothing_new(idle: AgentProcess, tmp_path: Path) -> None:
    if not is_root():
        pytest.skip("needs root to mount a small tmpfs")
    small = idle.folder / "journal"
    small.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("this container may not mount a tmpfs")
    try:
        idle.start()
        client = idle.client()
        up = idle.launch(sh(f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; exit 8"))
        client.send(up)
        client.started(up.run)
        ballast = small / "ballast"
        with open(ballast, "wb", buffering=0) as file:
            for size in (4096, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError:
                    continue
        fill = [idle.launch(["true"]) for _ in range(40)]
        client.send(*fill)
        refused = client.exited(fill[-1].run)
        assert refused.pid == 0 and refused.reason is not None and "No space left" in refused.reason
        assert not Path(fill[-1].stdout).exists()
        (tmp_path / "go").touch()
        assert client.exited(up.run).exit_code == 8
        ballast.unlink()
        again = idle.launch(["true"])
        client.send(again)
        assert client.exited(again.run).exit_code == 0
        idle.kill()
        idle.start()
        client = idle.client()
        assert client.exited(up.run).exit_code == 8
        assert client.exited(again.run).exit_code == 0
    finally:
        idle.close()
        subprocess.run(["umount", str(small)], check=True)


def test_a_failed_write_leaves_no_half_line(tmp_path: Path) -> None:
    """In a process of its own, whose files may not grow past 600 bytes."""
    text = (
        "import resource, signal, sys\n"
        "from runyard.agent.journal import *\n"
        "from runyard.agent.log import Log\n"
        "from runyard.model.ids import RunKey\n"
        "journal = Journal(sys.argv[1], Log(sys.argv[1] + '.log'))\n"
        "journal.write([Boot('b', 1)])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    journal.write([Intent(RunKey(n, 0, 1), '/x' * 20, 15, 1.0, None, None) for n in range(50)])\n"
        "    sys.exit(1)\n"
        "except OSError:\n"
        "    pass\n"
        "journal.note(Acked(1))\n"
        "journal.flush()\n"
        "assert not journal.behind\n"
        "journal.note(Stopping(RunKey(1, 0, 1), 15, 1.0, False, 'y' * 1000))\n"
        "journal.flush()\n"
        "assert journal.behind\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "journal.note(Acked(2))\n"
        "journal.flush()\n"
        "assert not journal.behind\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    folder = tmp_path / "journal"
    subprocess.run([sys.executable, "-c", text, str(folder)], check=True, env=env)
    lines = (folder / "journal.jsonl").read_text().splitlines()
    kinds = [msgspec.json.decode(line)[0] for line in lines]
    assert kinds == ["Boot", "Acked", "Stopping", "Acked"]
    journal = Journal(str(folder), Log(str(tmp_path / "log")))
    assert journal.load().boot_id == "b"


def test_a_second_agent_is_refused(agent: AgentProcess) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "runyard.agent", "--dir", str(agent.folder)]
    second = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 3
    assert str(agent.folder) in second.stderr and str(agent.pid) in second.stderr
    assert agent_status(agent.folder).pid == agent.pid


def test_the_folder_is_private_and_its_path_may_be_long(tmp_path: Path) -> None:
    agent = AgentProcess(tmp_path / ("d" * 120))
    agent.root.mkdir()
    agent.folder.mkdir(mode=0o755)
    try:
        agent.start()
        assert stat.S_IMODE(agent.folder.stat().st_mode) == 0o700
        for name in ("agent.sock", "control.sock", "agent.log", "agent.lock"):
            assert stat.S_IMODE((agent.folder / name).stat().st_mode) == 0o600
        client = agent.client()
        launch = agent.launch(["true"])
        client.send(launch)
        assert client.exited(launch.run).exit_code == 0
    finally:
        agent.close()


def test_an_idle_agent_ends_by_itself_and_a_busy_one_does_not(idle: AgentProcess) -> None:
    for _ in deadline(60, "a connection before the agent has been idle for too long"):
        with suppress(AssertionError, OSError):
            idle.start(idle_exit=0.5)
            client = idle.client()
            break
    launch = idle.launch(sh(f"while [ ! -e {idle.root}/go ]; do sleep 0.05; done"))
    client.send(launch)
    client.started(launch.run)
    client.close()
    log = idle.folder / "agent.log"
    begin = time.monotonic()
    wait_until(lambda: time.monotonic() - begin > 0.8, what="more than its time without a connection")
    assert agent_status(idle.folder).live == [launch.run] and "nothing to do" not in log.read_text()
    (idle.root / "go").touch()
    wait_until(lambda: agent_status(idle.folder).unacked == 2, what="the end of the run")
    client = idle.client()
    client.send(wire.Ack(client.exited(launch.run).seq))
    client.close()
    assert idle.wait() == 0
    assert "nothing to do" in log.read_text()


def test_bad_frames_end_the_connection_and_not_the_agent(agent: AgentProcess) -> None:
    for data in (b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", wire.encode_frame([wire.Farewell()])):
        client = agent.client()
        client.sock.sendall(data)
        wait_until(client.hung_up, 60, "a closed connection")
    client = agent.client()
    launch = agent.launch(["true"])
    client.send(launch)
    assert client.exited(launch.run).exit_code == 0


def test_no_exit_is_lost_however_often_the_agent_dies(agent: AgentProcess, tmp_path: Path) -> None:
    """Agents are killed in the midst of launching; every run is started exactly once, and every run ends."""
    proof = tmp_path / "proof"
    proof.mkdir()
    launches = [agent.launch(sh(f"echo x >> {proof}/$RUNYARD_RUN; exit 2")) for _ in range(300)]
    client = agent.client()
    client.send(*launches)
    for _ in range(4):
        client.wait(wire.Started)
        agent.kill()
        agent.start()
        client = agent.client()
        # What a server does: launch again what is not up. What is known to the agent it passes over.
        client.send(*[launch for launch in launches if launch.run not in client.hello.live])
    for launch in launches:
        ended = client.exited(launch.run)
        assert (proof / str(launch.run)).read_text() == "x\n"
        assert ended.exit_code == 2 or (ended.exit_code is None and "nobody could observe" in (ended.reason or ""))
    assert any(client.exited(launch.run).exit_code == 2 for launch in launches)
