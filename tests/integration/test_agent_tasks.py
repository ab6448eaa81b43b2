"""Runs of several tasks through a real agent: one run, many processes, and nothing started twice."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from runyard.agent.process import read
from runyard.model import wire
from tests.agents import AgentProcess, alive, is_root
from tests.helpers import wait_until
from tests.integration.test_agent_recovery import kernel_tells


def sh(text: str) -> list[str]:
    return ["/bin/sh", "-c", text]


def many(count: int, cores: list[int] | None = None, gpus: list[int] | None = None, after: float = 60.0) -> wire.Tasks:
    return wire.Tasks([wire.Place(count, cores, gpus)], after)


def pids_in(folder: Path, count: int) -> list[int]:
    """The pids that so many tasks have written into files of their own."""

    def read_all() -> list[int]:
        found = [path.read_text() for path in folder.iterdir() if path.suffix != ".new"] if folder.exists() else []
        return [int(text) for text in found] if len(found) == count else []

    return wait_until(read_all, 60, f"{count} tasks")


def telling(folder: Path, then: str = "exec sleep 600") -> list[str]:
    """A task that leaves its pid in the folder."""
    folder.mkdir()
    return sh(f"f={folder}/$RUNYARD_TASK_RANK; echo $$ > $f.new; mv $f.new $f; {then}")


def test_each_task_has_its_rank_its_cores_its_gpus_and_the_runs_output(agent: AgentProcess) -> None:
    client = agent.client()
    cores = client.hello.cores
    text = (
        "echo $RUNYARD_TASK_RANK $RUNYARD_TASK_LOCAL_ID $RUNYARD_NODE_RANK $FLUX_TASK_RANK $FLUX_TASK_LOCAL_ID"
        " $CUDA_VISIBLE_DEVICES $RUNYARD_CORES $(taskset -pc $$ | sed 's/.*: //') $GIVEN $RUNYARD_RUN; echo e >&2"
    )
    own = len(cores) >= 2
    places = [wire.Place(2, cores[:2], [6, 7]), wire.Place(1, cores[:1], [])]
    launch = agent.launch(sh(text), env={"GIVEN": "yes"}, tasks=wire.Tasks(places, 60.0))
    client.send(launch, launch)
    started, ended = client.started(launch.run), client.exited(launch.run)
    assert (ended.exit_code, ended.signal, ended.reason, ended.pid) == (0, None, None, started.pid)
    if own:
        assert sorted(agent.output(launch).splitlines()) == [
            f"0 0 0 0 0 6 {cores[0]} {cores[0]} yes {launch.run}",
            f"1 1 0 1 1 7 {cores[1]} {cores[1]} yes {launch.run}",
            f"2 0 1 2 0 {cores[0]} {cores[0]} yes {launch.run}",
        ]
    assert Path(launch.stderr).read_text() == "e\n" * 3
    assert ended.cpu_seconds is not None and ended.cpu_seconds > 0


def test_the_exit_code_is_the_greatest_and_memory_and_time_are_sums(agent: AgentProcess) -> None:
    client = agent.client()
    codes = agent.launch(sh("exit $((RUNYARD_TASK_RANK * 2))"), tasks=many(4))
    killed = agent.launch(sh("[ $RUNYARD_TASK_RANK = 1 ] && kill -KILL $$; exit 5"), tasks=many(3))
    burn = "import time; x = b'x' * (60 << 20)\nwhile time.process_time() < 0.3: pass"
    large = agent.launch([sys.executable, "-c", burn], tasks=many(2))
    client.send(codes, killed, large)
    ended = client.exited(codes.run)
    assert ended.exit_code == 6 and ended.reason is not None
    assert ended.reason.startswith("task ") and " of 4 failed first: exit code " in ended.reason
    ended = client.exited(killed.run)
    assert (ended.exit_code, ended.signal) == (None, signal.SIGKILL), "128 + 9 is greater than 5"
    ended = client.exited(large.run)
    assert ended.exit_code == 0 and ended.max_rss is not None and ended.max_rss > 120 << 20
    assert ended.cpu_seconds is not None and ended.cpu_seconds >= 0.6


@pytest.mark.parametrize(
    ("text", "code", "number", "reason"),
    [
        ("exit 255", 255, None, "exit code 255"),
        ("exit 200", 200, None, "exit code 200"),
        # Not the signals 9 and 19, which the last of them would be halted by.
        ("exit 137", 137, None, "exit code 137"),
        ("exit 147", 147, None, "exit code 147"),
        ("kill -TERM $$", None, signal.SIGTERM, "ended by SIGTERM"),
        ("kill -40 $$", None, 40, "ended by signal 40"),
    ],
)
def test_great_exit_codes_are_no_signals(
    agent: AgentProcess, text: str, code: int | None, number: int | None, reason: str
) -> None:
    client = agent.client()
    launch = agent.launch(sh(f"[ $RUNYARD_TASK_RANK = 1 ] || exit 0; {text}"), tasks=many(2))
    client.send(launch)
    ended = client.exited(launch.run)
    assert (ended.exit_code, ended.signal) == (code, number)
    assert ended.reason == f"task 1 of 2 failed first: {reason}"
    assert Path(launch.stderr).read_text() == ""


def test_the_first_bad_exit_ends_the_others(agent: AgentProcess, tmp_path: Path) -> None:
    client = agent.client()
    folder = tmp_path / "pids"
    wait = f"while [ $(ls {folder} | grep -vc new) -lt 3 ]; do sleep 0.02; done"
    text = telling(folder, f"[ $RUNYARD_TASK_RANK = 1 ] || exec sleep 600; {wait}; exit 7")
    launch = agent.launch(text, tasks=many(3, after=0.1))
    stubborn = agent.launch(sh("[ $RUNYARD_TASK_RANK = 0 ] && exit 9; trap '' TERM; while :; do sleep 0.05; done"),
                            tasks=many(2, after=0.0), grace=0.2)  # fmt: skip
    client.send(launch, stubborn)
    ended = client.exited(launch.run)
    assert (ended.exit_code, ended.signal) == (7, None)
    assert ended.reason == "task 1 of 3 failed first: exit code 7; 2 that were still up 0.1 s later were ended"
    assert not any(alive(pid) for pid in pids_in(folder, 3))
    assert client.exited(stubborn.run).exit_code == 9


def test_stop_time_limit_and_signals_reach_every_task_and_what_it_started(agent: AgentProcess, tmp_path: Path) -> None:
    client = agent.client()
    launches, stops = [], ("stop", "limit", "signal", "kill")
    for name in stops:
        then = "setsid sleep 600 & exec sleep 600"
        seconds = 6.0 if name == "limit" else None
        launches.append(agent.launch(telling(tmp_path / name, then), tasks=many(3), time_limit=seconds))
    client.send(*launches)
    for launch in launches:
        client.started(launch.run)
    pids = [pid for name in stops for pid in pids_in(tmp_path / name, 3)]
    stop, limit, sig, kill = launches
    client.send(wire.Stop(stop.run, signal.SIGTERM, 20.0), wire.Signal(sig.run, signal.SIGUSR1))
    os.kill(client.started(kill.run).pid, signal.SIGKILL)
    ended = client.exited(stop.run)
    assert (ended.signal, ended.reason) == (signal.SIGTERM, None)
    ended = client.exited(limit.run)
    assert ended.timed_out and ended.signal == signal.SIGTERM
    ended = client.exited(sig.run)
    assert ended.signal == signal.SIGUSR1 and " of 3 failed first: ended by SIGUSR1" in (ended.reason or "")
    assert client.exited(kill.run).signal == signal.SIGKILL, "the starter stands for its tasks"
    wait_until(lambda: not any(alive(pid) for pid in pids), 60, "the end of all tasks")
    # What had left the session of a stopped run has ended with it; of the others it is a daemon of its own.
    marks = {run for run in (stop.run, limit.run)}
    left = [proc for proc in agent.marked() if proc.alive]
    assert not [proc for proc in left if any(f"RUNYARD_RUN={run}".encode() in _environ(proc.pid) for run in marks)]


def _environ(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if read(pid) else []


def test_a_stop_that_comes_while_tasks_are_being_started(agent: AgentProcess) -> None:
    client = agent.client()
    launches = [agent.launch(["sleep", "600"], tasks=many(40)) for _ in range(3)]
    for launch in launches:
        client.send(launch)
        wait_until(Path(launch.stdout).exists, 60, "the starter")
        client.send(wire.Stop(launch.run, signal.SIGTERM, 60.0))
    for launch in launches:
        ended = client.exited(launch.run)
        assert (ended.exit_code, ended.signal, ended.timed_out) == (None, signal.SIGTERM, False)
    assert agent.marked() == []


def test_what_cannot_be_started_says_why_and_leaves_nothing(agent: AgentProcess, tmp_path: Path) -> None:
    client = agent.client()
    cases: list[tuple[wire.Launch, list[str]]] = [
        (agent.launch(["no-such-program-here"], tasks=many(2)), ["task 0 of 2", "no-such-program-here", "PATH"]),
        (agent.launch(["true"], cwd="/no/such/folder", tasks=many(2)), ["/no/such/folder", "cwd"]),
        (agent.launch(["true"], user="no-such-user", tasks=many(2)), ["no-such-user"]),
        (agent.launch(["true", "a\0b"], tasks=many(2)), ["argument 1", "NUL"]),
        (agent.launch(["true"], rlimits={"nonsense": 1}, tasks=many(2)), ["nonsense"]),
        (agent.launch(["true"], tasks=many(2, cores=[4094, 4095])), ["4094"]),
        (agent.launch(["true", "x" * (3 << 20)], tasks=many(2)), ["bytes", "file"]),
    ]
    client.send(*[launch for launch, _ in cases])
    for launch, words in cases:
        refused = client.exited(launch.run)
        assert (refused.pid, refused.exit_code, refused.signal) == (0, None, None), launch
        for word in words:
            assert word in (refused.reason or ""), (word, refused.reason)
    assert not any(isinstance(message, wire.Started) for message in client.messages)
    assert agent.marked() == [] and len(list(Path(f"/proc/{agent.pid}/fd").iterdir())) < 20


@pytest.mark.skipif(not is_root(), reason="only root may start processes for others")
def test_tasks_of_another_account_under_limits(agent: AgentProcess) -> None:
    client = agent.client()
    text = (
        "echo $(id -u) $(id -g) $(id -G) $HOME $USER $LOGNAME $(ulimit -n) $(nice) $(umask); echo again >> /dev/stdout"
    )
    launch = agent.launch(sh(text), user="nobody", umask=0o027, nice=3, rlimits={"nofile": 99}, tasks=many(2))
    client.send(launch)
    assert client.exited(launch.run).exit_code == 0
    line = "65534 65534 65534 /nonexistent nobody nobody 99 3 0027"
    assert sorted(agent.output(launch).splitlines()) == [line, line, "again", "again"]


@pytest.mark.parametrize("after", [0, 1, 20, 40])
def test_an_agent_that_dies_between_two_tasks(agent: AgentProcess, tmp_path: Path, after: int) -> None:
    """Killed when so many have begun: the run is found again whole, and no task of it is started twice."""
    count = 40
    proof = tmp_path / "proof"
    proof.mkdir()
    text = f"echo x >> {proof}/$RUNYARD_TASK_RANK; while [ ! -e {tmp_path}/go ]; do sleep 0.1; done; exit 3"
    client = agent.client()
    launch = agent.launch(sh(text), tasks=many(count))
    client.send(launch)
    wait_until(lambda: len(list(proof.iterdir())) >= after, 60, f"{after} tasks")
    agent.kill()
    agent.start()
    client = agent.client()
    client.send(launch)
    started = client.started(launch.run)
    wait_until(lambda: len(list(proof.iterdir())) == count, 60, "all tasks")
    (tmp_path / "go").touch()
    ended = client.exited(launch.run)
    assert ended.pid == started.pid
    assert {path.read_text() for path in proof.iterdir()} == {"x\n"}
    if ended.exit_code is None:
        assert not kernel_tells() and "nobody could observe" in (ended.reason or "")
    else:
        assert ended.exit_code == 3
    assert agent.marked() == []


def test_a_run_whose_starter_died_unseen_is_ended_and_reported(agent: AgentProcess, tmp_path: Path) -> None:
    client = agent.client()
    folder = tmp_path / "pids"
    launch = agent.launch(telling(folder), tasks=many(3))
    client.send(launch)
    starter = client.started(launch.run).pid
    pids = pids_in(folder, 3)
    agent.kill()
    os.kill(starter, signal.SIGKILL)
    wait_until(lambda: not alive(starter))
    agent.start()
    ended = agent.client().exited(launch.run)
    assert (ended.exit_code, ended.signal) == (None, None)
    assert ended.reason == "nobody could observe how it ended: the agent was not running"
    assert not any(alive(pid) for pid in pids)


def test_secrets_of_the_server_are_not_inherited_even_if_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runyard.executors.local import agent_status, start_agent

    secrets = ["FLUX_TOKEN", "FLUX_SECRET_KEY", "FLUX_USER", "RUNYARD_TOKEN", "RUNYARD_STORE__URL"]
    for name in (*secrets, "WANTED"):
        monkeypatch.setenv(name, "hunter2")
    agent = AgentProcess(tmp_path)
    process = start_agent(agent.folder, 60, [*secrets, "WANTED"])
    try:
        wait_until(lambda: agent_status(agent.folder).running, 60)
        client = agent.client()
        launches = [agent.launch(["env"]), agent.launch(["env"], tasks=many(2)), agent.launch(["env"], nice=1)]
        client.send(*launches)
        for launch in launches:
            assert client.exited(launch.run).exit_code == 0
            text = agent.output(launch)
            assert "WANTED=hunter2" in text.splitlines() and not any(name in text for name in secrets)
        environ: Any = Path(f"/proc/{process.pid}/environ").read_bytes()
        assert not any(name.encode() in environ for name in secrets)
    finally:
        process.terminate()
        assert process.wait(60) == 0
        agent.close()
