"""A program that is kept warm and does not do what it should: the agent's other runs don't notice."""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path

from runyard.agent.log import Log
from runyard.agent.run import FOREVER, Run, intent_of
from runyard.agent.warm import Answer, Warm
from runyard.model import wire
from tests.agents import AgentProcess, Client, alive, new_run
from tests.helpers import wait_until

#: Kept warm it takes requests, and never answers. Otherwise it sleeps.
SILENT = """
import os, socket, sys, time

here = os.path.dirname(__file__)
if sys.argv[-2] == "--warm":
    agent = socket.socket(fileno=int(sys.argv[-1]))
    agent.send(b"ready")
    open(f"{here}/warm-{os.getpid()}", "w").close()
    while agent.recv(65536):
        open(f"{here}/asked", "w").close()
else:
    time.sleep(600)
"""


def script(folder: Path, text: str = SILENT) -> list[str]:
    path = folder / "program.py"
    path.write_text(text)
    return [sys.executable, str(path)]


def warm_pids(folder: Path) -> set[int]:
    return {int(path.name.removeprefix("warm-")) for path in folder.glob("warm-*")}


def has_started(client: Client, launch: wire.Launch) -> bool:
    client.receive()
    return any(isinstance(message, wire.Started) and message.run == launch.run for message in client.messages)


def test_one_that_never_answers_delays_its_own_run_only(agent: AgentProcess, tmp_path: Path) -> None:
    client = agent.client()
    argv = script(tmp_path)
    others = []
    while not (tmp_path / "asked").exists():
        # Before it is loaded runs are started cold, and so is the first one, which starts it.
        run, other = agent.launch([*argv, "x"], warm=2), agent.launch(["/bin/echo", "here"])
        client.send(run, other)
        others.append(other)
        wait_until(lambda run=run: (tmp_path / "asked").exists() or has_started(client, run), 60)  # type: ignore[misc]
        client.send(wire.Stop(run.run, signal.SIGTERM, 30.0))
    last = others[-1]
    assert client.exited(last.run).exit_code == 0
    ended = client.exited(run.run)
    assert (ended.exit_code, ended.signal) == (None, signal.SIGTERM), "stopped, though its pid was not known then"
    assert client.started(last.run).seq < client.started(run.run).seq
    assert wait_until(lambda: not any(alive(pid) for pid in warm_pids(tmp_path)), 60)


def test_another_edition_is_loaded_anew(agent: AgentProcess, tmp_path: Path) -> None:
    client = agent.client()
    argv = script(tmp_path)
    old: set[int] = set()
    for edition in ("1", "2"):
        run = agent.launch([*argv, "x"], warm=2, edition=edition)
        client.send(run)
        client.started(run.run)
        new = wait_until(lambda: warm_pids(tmp_path) - old, 60)  # noqa: B023
        assert wait_until(lambda: not any(alive(pid) for pid in old), 60)  # noqa: B023
        old = new
        client.send(wire.Stop(run.run, signal.SIGKILL, 0.0))
        client.exited(run.run)


def test_what_an_interpreter_reads_at_its_start_needs_a_start(agent: AgentProcess, tmp_path: Path) -> None:
    client = agent.client()
    argv = script(tmp_path)
    first, second = agent.launch([*argv, "x"], warm=2), agent.launch([*argv, "x"], warm=2, env={"PYTHONPATH": "/x"})
    client.send(first)
    client.started(first.run)
    wait_until(lambda: warm_pids(tmp_path), 60)
    client.send(second)
    client.started(second.run)
    assert not (tmp_path / "asked").exists()


#: Kept warm it takes a while for each run, which then sleeps, as it does otherwise.
LATE = """
import json, os, socket, sys, time

here = os.path.dirname(__file__)
if sys.argv[-2] == "--warm":
    agent = socket.socket(fileno=int(sys.argv[-1]))
    agent.send(b"ready")
    open(f"{here}/warm-{os.getpid()}", "w").close()
    while data := agent.recv(65536):
        time.sleep(1.2)
        receive, tell = os.pipe()
        if os.fork() == 0:
            if os.fork() == 0:
                os.setsid()
                open(json.loads(data)["stdout"], "x").close()
                os.write(tell, str(os.getpid()).encode())
                time.sleep(600)
            os._exit(0)
        os.wait()
        agent.send(os.read(receive, 32))
else:
    time.sleep(600)
"""


def test_one_that_had_to_wait_is_found_again(agent: AgentProcess, tmp_path: Path) -> None:
    client = agent.client()
    argv = script(tmp_path, LATE)
    first, second = agent.launch([*argv, "x"], warm=2), agent.launch([*argv, "x"], warm=2)
    client.send(first)
    client.started(first.run)
    wait_until(lambda: warm_pids(tmp_path), 60)
    client.send(second)
    client.started(second.run)
    agent.kill()
    agent.start()
    client = agent.client()
    assert set(client.hello.live) == {first.run, second.run}
    for launch in (first, second):
        client.send(wire.Stop(launch.run, signal.SIGTERM, 30.0))
        assert "the agent was not running" not in (client.exited(launch.run).reason or "")


#: Answers with the last word of each request; not at all if that is empty.
PARROT = """
import json, socket, sys

agent = socket.socket(fileno=int(sys.argv[-1]))
agent.send(b"ready")
while data := agent.recv(65536):
    if answer := json.loads(data)["arguments"][-1]:
        agent.send(answer.encode())
"""


def test_patience_begins_anew_with_each_answer_and_nonsense_ends_it(tmp_path: Path) -> None:
    epoll = select.epoll()
    warm = Warm({}, epoll, Log(str(tmp_path / "log")))

    def ask(answer: str) -> tuple[bool, Run]:
        argv = [sys.executable, "-c", PARROT, answer]
        launch = wire.Launch(new_run(), argv, {}, None, str(tmp_path / "out"), str(tmp_path / "err"), warm=3)
        run = Run(intent_of(launch, None), launch)
        return warm.ask(run, launch, {}, 0o22, (64, 64)), run

    def hear() -> list[Answer]:
        return warm.hear() if epoll.poll(30) else []

    assert not ask("")[0], "it is only being started"
    pid = warm.pid
    try:
        assert hear() == []
        asked, run = ask("11")
        others = [ask(answer) for answer in ("", "nonsense")]
        due = warm.due
        assert asked and all(asked for asked, _ in others)
        answers = wait_until(hear)
        assert [(answer.run, answer.pid) for answer in answers[:1]] == [(run, 11)]
        assert due < warm.due
        while warm.pid:
            answers += hear()
        assert [(answer.run, answer.pid) for answer in answers[1:]] == [(run, 0) for _, run in others]
        assert warm.due == FOREVER
    finally:
        warm.give_up()
        os.waitpid(pid, 0)
        epoll.close()
