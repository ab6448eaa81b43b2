"""One run through the agent: environment, output, limits, and what is said when it can't be started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.executors.local import agent_status, start_agent
from runyard.model import wire
from tests.agents import AgentProcess, alive, is_root, new_run
from tests.helpers import wait_until

SECRET = "RUNYARD_TEST_SECRET"


def sh(text: str) -> list[str]:
    return ["/bin/sh", "-c", text]


def test_a_run_is_started_once_and_reported_in_order(agent: AgentProcess) -> None:
    client = agent.client()
    assert client.hello.protocol == wire.PROTOCOL
    assert client.hello.pid == agent.pid
    assert client.hello.live == [] and client.hello.unacked == 0
    assert client.hello.cores and client.hello.memory > 0
    launch = agent.launch(sh("echo out; echo err >&2; exit 3"))
    client.send(launch, launch)
    client.send(launch)
    ended = client.exited(launch.run)
    started = client.started(launch.run)
    assert (ended.exit_code, ended.signal, ended.timed_out, ended.reason) == (3, None, False, None)
    assert ended.pid == started.pid and started.seq < ended.seq and started.at <= ended.at
    assert ended.cpu_seconds is not None and 0 <= ended.cpu_seconds < 10
    assert agent.output(launch) == "out\n"
    assert Path(launch.stderr).read_text() == "err\n"
    assert Path(launch.stdout).stat().st_mode & 0o777 == 0o600
    client.send(launch)
    other = agent.launch(["true"])
    client.send(other)
    client.exited(other.run)
    assert sum(isinstance(m, wire.Started) for m in client.messages) == 2


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder below /dev that is no device."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no /dev/shm to write to")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.mark.parametrize("place", ["tmp_path", "in_memory"])
def test_a_run_whose_output_exists_is_never_started_again(
    agent: AgentProcess, tmp_path: Path, request: pytest.FixtureRequest, place: str
) -> None:
    client = agent.client()
    proof = tmp_path / "proof"
    output: Path = request.getfixturevalue(place) / "output"
    launch = wire.Launch(new_run(), sh(f"echo x >> {proof}"), {}, None, f"{output}/out", f"{output}/err")
    client.send(launch)
    client.send(wire.Ack(client.exited(launch.run).seq))
    client.messages.clear()
    client.send(launch)
    again = client.exited(launch.run)
    assert again.exit_code is None and again.signal is None
    assert again.reason is not None and launch.stdout in again.reason
    assert proof.read_text() == "x\n"


def test_the_peak_of_memory_is_told_where_it_is_the_programs_own(agent: AgentProcess) -> None:
    client = agent.client()
    large = agent.launch([sys.executable, "-c", "x = b'x' * (150 << 20)"])
    small = agent.launch(["true"])
    client.send(large, small)
    peak = client.exited(large.run).max_rss
    assert peak is not None and 150 << 20 < peak < 400 << 20
    assert client.exited(small.run).max_rss is None


def test_children_inherit_no_secret_no_descriptor_no_signal_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET, "hunter2")
    agent = AgentProcess(tmp_path)
    try:
        agent.start()
        client = agent.client()
        launch = agent.launch(
            sh("env; ls -l /proc/self/fd; grep -E '^Sig(Blk|Ign)' /proc/self/status; pwd"),
            env={"GIVEN": "yes", "RUNYARD_RUN": "forged"},
        )
        client.send(launch)
        assert client.exited(launch.run).exit_code == 0
        output = agent.output(launch)
        lines = output.splitlines()
        job, replica, attempt = launch.run
        assert SECRET not in output and SECRET.encode() not in Path(f"/proc/{agent.pid}/environ").read_bytes()
        assert "GIVEN=yes" in lines and f"RUNYARD_RUN={launch.run}" in lines
        assert {f"RUNYARD_JOB_ID={job}", f"RUNYARD_REPLICA={replica}", f"RUNYARD_ATTEMPT={attempt}"} <= set(lines)
        assert not any(line.startswith(("PYTHONPATH=", "VIRTUAL_ENV=")) for line in lines)
        assert any(line.startswith("PATH=") for line in lines)
        targets = [line.partition(" -> ")[2] for line in lines if " -> " in line]
        assert targets[:3] == ["/dev/null", launch.stdout, launch.stderr]
        assert len(targets) == 4 and targets[3].startswith("/proc/")
        masks = [int(line.split()[1], 16) for line in lines if line.startswith("Sig")]
        # glibc's posix_spawn itself ignores 32 and 33, its own two signals.
        assert [mask & ~(0b11 << 31) for mask in masks] == [0, 0]
        assert lines[-1] == "/"
    finally:
        agent.close()


def test_named_variables_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET, "wanted")
    agent = AgentProcess(tmp_path)
    process = start_agent(agent.folder, 60, [SECRET])
    try:
        wait_until(lambda: agent_status(agent.folder).running)
        client = agent.client()
        launch = agent.launch(sh(f"printf %s ${SECRET}"))
        client.send(launch)
        client.exited(launch.run)
        assert agent.output(launch) == "wanted"
    finally:
        process.terminate()
        assert process.wait(60) == 0
        agent.close()


def test_output_that_is_not_text_lands_in_the_file_as_it_is(agent: AgentProcess) -> None:
    client = agent.client()
    launch = agent.launch(["printf", r"\377\000\200\n"])
    client.send(launch)
    assert client.exited(launch.run).exit_code == 0
    assert Path(launch.stdout).read_bytes() == b"\xff\x00\x80\n"


def test_one_file_for_both_streams_and_dev_null(agent: AgentProcess) -> None:
    client = agent.client()
    both = agent.launch(sh("echo one; echo two >&2; echo three"))
    both = wire.Launch(both.run, both.argv, {}, None, both.stdout, both.stdout)
    null = wire.Launch(new_run(), ["true"], {}, None, "/dev/null", "/dev/null")
    client.send(both, null)
    assert client.exited(both.run).exit_code == 0
    assert client.exited(null.run).exit_code == 0
    assert Path(both.stdout).read_text() == "one\ntwo\nthree\n"


def test_cwd_umask_cores_and_path(agent: AgentProcess, tmp_path: Path) -> None:
    client = agent.client()
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "hello-runyard"
    program.write_text("#!/bin/sh\npwd; umask; grep Cpus_allowed_list /proc/self/status\n")
    program.chmod(0o755)
    core = client.hello.cores[-1]
    path = f"{tmp_path}/bin:/usr/bin:/bin"
    fast = agent.launch(["hello-runyard"], env={"PATH": path}, cwd=str(tmp_path), umask=0o027, cores=[core])
    slow = agent.launch(["hello-runyard"], env={"PATH": path}, cwd=str(tmp_path), umask=0o777, cores=[core], nice=1)
    relative = agent.launch(["bin/hello-runyard"], cwd=str(tmp_path))
    client.send(fast, slow, relative)
    for launch, mask in ((fast, "0027"), (slow, "0777")):
        assert client.exited(launch.run).exit_code == 0
        assert agent.output(launch) == f"{tmp_path}\n{mask}\nCpus_allowed_list:\t{core}\n"
        assert Path(launch.stdout).stat().st_mode & 0o777 == 0o600
    assert client.exited(relative.run).exit_code == 0
    assert len(os.sched_getaffinity(agent.pid)) == len(client.hello.cores)


def test_limits_and_niceness(agent: AgentProcess) -> None:
    client = agent.client()
    text = "ulimit -n; ulimit -c; ulimit -v; nice"
    launch = agent.launch(sh(text), nice=7, rlimits={"nofile": 123, "core": 0, "as": 1 << 30})
    loop = agent.launch(sh("while :; do :; done"), rlimits={"cpu": 1})
    memory = agent.launch([sys.executable, "-c", "x = b'x' * (300 << 20)"], memory=200 << 20)
    client.send(launch, loop, memory)
    assert client.exited(launch.run).exit_code == 0
    assert agent.output(launch) == f"123\n0\n{1 << 20}\n7\n"
    assert client.exited(memory.run).exit_code == 1
    assert "MemoryError" in Path(memory.stderr).read_text()
    # Soft and hard limit are the same, so the kernel kills without asking.
    assert client.exited(loop.run).signal in (signal.SIGXCPU, signal.SIGKILL)


@pytest.mark.skipif(not is_root(), reason="only root may start processes for others")
def test_another_account(agent: AgentProcess, tmp_path: Path) -> None:
    client = agent.client()
    text = "id -u; id -g; id -G; echo $HOME $USER; echo again >> /dev/stdout"
    launch = agent.launch(sh(text), user="nobody", umask=0o022)
    group = agent.launch(sh("id -u; id -g"), group="nogroup")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    barred = agent.launch(["true"], user="nobody", cwd=str(closed))
    client.send(launch, group, barred)
    assert client.exited(launch.run).exit_code == 0
    assert agent.output(launch) == "65534\n65534\n65534\n/nonexistent nobody\nagain\n"
    assert client.exited(group.run).exit_code == 0
    assert agent.output(group) == "0\n65534\n"
    refused = client.exited(barred.run)
    assert refused.pid == 0 and refused.reason is not None
    assert str(closed) in refused.reason and "nobody" in refused.reason


def test_what_cannot_be_started_says_why(agent: AgentProcess, tmp_path: Path) -> None:
    client = agent.client()
    plain = tmp_path / "plain.txt"
    plain.write_text("#!/no/such/interpreter\n")
    headless = tmp_path / "headless"
    headless.write_text("echo no first line\n")
    headless.chmod(0o755)
    lost = tmp_path / "lost"
    lost.write_text("#!/no/such/interpreter\n")
    lost.chmod(0o755)
    cases: list[tuple[wire.Launch, list[str]]] = [
        (agent.launch(["no-such-program-here"]), ["no-such-program-here", "PATH"]),
        (agent.launch(["/no/such/program"]), ["/no/such/program"]),
        (agent.launch([str(plain)]), [str(plain), "chmod"]),
        (agent.launch([str(tmp_path)]), [str(tmp_path), "folder"]),
        (agent.launch([str(headless)]), [str(headless), "#!/bin/sh"]),
        (agent.launch([str(lost)]), ["/no/such/interpreter"]),
        (agent.launch([]), ["empty"]),
        (agent.launch(["true"], cwd="/no/such/folder"), ["/no/such/folder", "cwd"]),
        (agent.launch(["true"], cwd=str(plain)), [str(plain), "cwd"]),
        (agent.launch(["true", "a\0b"]), ["argument 1", "NUL"]),
        (agent.launch(["true"], env={"A": "b\0"}), ["variable A", "NUL"]),
        (agent.launch(["true"], env={"A=B": "c"}), ["A=B"]),
        (agent.launch(["true"], cwd="/tmp\0"), ["NUL"]),
        (agent.launch(["true", "x" * (3 << 20)]), ["bytes", "file"]),
        (agent.launch(["true"], user="no-such-user"), ["no-such-user"]),
        (agent.launch(["true"], group="no-such-group"), ["no-such-group"]),
        (agent.launch(["true"], cores=[4095]), ["4095"]),
        (agent.launch(["true"], rlimits={"nonsense": 1}), ["nonsense"]),
        (agent.launch(["no-such-program-here"], nice=1), ["no-such-program-here", "PATH"]),
        (agent.launch(["true", "a\0b"], nice=1), ["argument 1", "NUL"]),
        (agent.launch(["true", "x" * (3 << 20)], nice=1), ["bytes", "file"]),
        (agent.launch([str(headless)], nice=1), [str(headless), "#!/bin/sh"]),
        (agent.launch(["true"], cwd="/no/such/folder", nice=1), ["/no/such/folder", "cwd"]),
        (wire.Launch(new_run(), ["true"], {}, None, "relative", "/dev/null"), ["relative", "absolute"]),
        (wire.Launch(new_run(), ["true"], {}, None, "/proc/no/out", "/dev/null"), ["/proc/no"]),
        (wire.Launch(new_run(), ["true"], {}, None, "/proc/out", "/dev/null"), ["/proc/out"]),
    ]
    client.send(*[launch for launch, _ in cases])
    for launch, words in cases:
        refused = client.exited(launch.run)
        assert (refused.pid, refused.exit_code, refused.signal) == (0, None, None), launch
        assert refused.reason is not None
        for word in words:
            assert word in refused.reason, (word, refused.reason)
    good = agent.launch(["true"])
    client.send(good)
    assert client.exited(good.run).exit_code == 0


def test_a_program_that_appears_is_found_and_one_that_leaves_is_missed(agent: AgentProcess, tmp_path: Path) -> None:
    client = agent.client()
    program = tmp_path / "tool"
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    first, second, third = (agent.launch(["tool"], env=path) for _ in range(3))
    client.send(first)
    assert client.exited(first.run).pid == 0
    program.write_text("#!/bin/sh\nexit 5\n")
    program.chmod(0o755)
    client.send(second)
    assert client.exited(second.run).exit_code == 5
    program.unlink()
    client.send(third)
    assert client.exited(third.run).pid == 0


def test_the_output_folder_is_made_again_when_somebody_removed_it(agent: AgentProcess) -> None:
    client = agent.client()
    for _ in range(2):
        launch = agent.launch(["echo", "here"])
        client.send(launch)
        assert client.exited(launch.run).exit_code == 0
        assert agent.output(launch) == "here\n"
        for path in (launch.stdout, launch.stderr):
            Path(path).unlink()
        Path(launch.stdout).parent.rmdir()


def test_more_runs_than_files_allowed_at_first(tmp_path: Path) -> None:
    """The agent needs a descriptor a run; the programs keep the limit that it was started with."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    agent = AgentProcess(tmp_path)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (48, hard))
        try:
            agent.start()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        client = agent.client()
        many = [agent.launch(["sleep", "600"]) for _ in range(80)]
        fast = agent.launch(sh("ulimit -n; echo more > /dev/null"))
        slow = agent.launch(sh("ulimit -n; echo more > /dev/null"), nice=1)
        tasks = agent.launch(sh("ulimit -n"), tasks=wire.Tasks([wire.Place(2, None, None)], 60.0))
        warm = agent.launch([sys.executable, "-P", "-m", "runyard.flowhost", "--spec", "/there/is/none"], warm=4)
        client.send(*many, fast, slow, tasks, warm)
        for launch, output in ((fast, "48\n"), (slow, "48\n"), (tasks, "48\n48\n")):
            assert client.exited(launch.run).exit_code == 0
            assert agent.output(launch) == output
        assert client.exited(warm.run).exit_code == 2
        client.send(*[wire.Stop(launch.run, signal.SIGTERM, 10) for launch in many])
        assert {client.exited(launch.run).signal for launch in many} == {signal.SIGTERM}
    finally:
        agent.close()


def test_news_of_a_descriptor_that_another_run_had_ends_nothing(tmp_path: Path) -> None:
    """In a process of its own, which takes on the limits and the folder of an agent."""
    text = """
import os, select, signal, sys
from runyard.agent.cgroup import Cgroups
from runyard.agent.journal import Journal
from runyard.agent.log import Log
from runyard.agent.runs import Runs
from runyard.model.ids import RunKey
from runyard.model.wire import Launch

folder = sys.argv[1]
log = Log(f"{folder}/log")
runs = Runs("x", {"PATH": os.environ["PATH"]}, Journal(folder, log), Cgroups("x"), log, select.epoll())
runs.launch([Launch(RunKey(1, 0, 1), ["sleep", "600"], {}, None, f"{folder}/out", f"{folder}/err")])
runs.turn()
(run,) = runs.watched.values()
runs.ready(run, select.EPOLLIN)
os.kill(run.pid, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(run.pid, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", text, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"{-signal.SIGTERM}\n", "")


def test_thousands_at_once(agent: AgentProcess) -> None:
    client = agent.client()
    launches = [agent.launch(sh(f"exit {number % 7}")) for number in range(1500)]
    client.send(*launches)
    client.wait(wire.Exited, lambda _: sum(isinstance(m, wire.Exited) for m in client.messages) == 1500, 120)
    exits = {m.run: m for m in client.messages if isinstance(m, wire.Exited)}
    starts = {m.run: m for m in client.messages if isinstance(m, wire.Started)}
    assert len(exits) == len(starts) == 1500
    for number, launch in enumerate(launches):
        assert exits[launch.run].exit_code == number % 7
        assert starts[launch.run].seq < exits[launch.run].seq
    seqs = [m.seq for m in client.messages if isinstance(m, wire.Started | wire.Exited)]
    assert seqs == list(range(seqs[0], seqs[0] + 3000))
    assert agent.memory() < 40_000
    assert len(list(Path(f"/proc/{agent.pid}/fd").iterdir())) < 20


def test_an_agent_leaves_as_it_should_though_its_server_is_gone(agent: AgentProcess) -> None:
    client = agent.client()
    # Both are there when it goes on.
    os.kill(agent.pid, signal.SIGSTOP)
    os.kill(agent.pid, signal.SIGTERM)
    client.close()
    os.kill(agent.pid, signal.SIGCONT)
    assert agent.wait() == 0
    assert (agent.folder / "agent.log").read_text().rstrip().endswith("ended")


def test_orphans_are_collected(agent: AgentProcess, tmp_path: Path) -> None:
    client = agent.client()
    pidfile = tmp_path / "orphan"
    daemon = f"echo $$ > {pidfile}.new; mv {pidfile}.new {pidfile}; exec sleep 1"
    launch = agent.launch(sh(f"setsid sh -c '{daemon}' & while [ ! -e {pidfile} ]; do sleep 0.01; done"))
    client.send(launch)
    assert client.exited(launch.run).exit_code == 0
    pid = int(wait_until(lambda: pidfile.exists() and pidfile.read_text()))
    wait_until(lambda: not alive(pid))
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 60, "the agent to collect the orphan")
