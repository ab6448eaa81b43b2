"""The command line in this process, against a real HTTP server."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from runyard.cli.app import COMMANDS, cli, run
from tests.unit.native_server import NativeServer, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NativeServer]:
    with serving() as server:
        monkeypatch.setenv("RUNYARD_URL", server.url)
        server.programs |= {
            "three": lambda server, ref: play(server, ref, "failed", 3),
            "fine": lambda server, ref: play(server, ref, "succeeded", 0),
            "slow": lambda server, ref: play(server, ref, "timed_out", None, "SIGTERM"),
            "killed": lambda server, ref: play(server, ref, "failed", None, "SIGKILL"),
            "unstartable": lambda server, ref: server.end(ref, "failed"),
            "forever": lambda server, ref: server.start(ref),
        }
        yield server


def play(server: NativeServer, ref: str, state: str, code: int | None, by: str | None = None) -> None:
    server.start(ref)
    server.write(ref, b"out \xff\n")
    server.write(ref, b"err\n", "stderr")
    server.end(ref, state, code, by)


@pytest.fixture
def runyard(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*args: str) -> tuple[int, str, str]:
        code = run(args)
        out, err = capfd.readouterr()
        return code, out, err

    return call


Runyard = Callable[..., tuple[int, str, str]]


def cli_process(*args: str, **options: Any) -> subprocess.Popen[bytes]:
    source = Path(__file__).parents[2] / "src"
    environment = os.environ | {"PYTHONPATH": str(source)} | options.pop("env", {})
    return subprocess.Popen([sys.executable, "-m", "runyard.cli", *args], env=environment, **options)


# The command line itself --------------------------------------------------------------------------------------------


def test_help_imports_nothing_that_is_slow() -> None:
    code = (
        "import sys; from runyard.cli.app import run; run(['--help']); "
        "slow = {'rich', 'httpx2', 'asyncio', 'litestar', 'msgspec', 'uvicorn', 'sqlalchemy', 'platformdirs'};"
        "ours = [name for name in sys.modules if name.startswith('runyard.') and '.cli' not in name];"
        "print(sorted(slow & set(sys.modules)), ours)"
    )
    source = Path(__file__).parents[2] / "src"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(source)}, capture_output=True, check=True
    )
    assert done.stdout.decode().splitlines()[-1] == "[] []"


def test_the_table_of_commands_says_what_the_commands_say() -> None:
    context = click.Context(cli)
    for name, (_, line) in COMMANDS.items():
        command = cli.get_command(context, name)
        assert command is not None and command.help is not None
        assert command.name == name
        assert " ".join(command.help.split()).startswith(line)
    assert cli.get_command(context, "nothing") is None


def every_command() -> Iterator[list[str]]:
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        yield [name]
        if isinstance(command, click.Group):
            yield from ([name, inner] for inner in command.commands)


@pytest.mark.parametrize("command", list(every_command()), ids=" ".join)
def test_every_command_has_help_with_each_option_explained(command: list[str], runyard: Runyard) -> None:
    code, out, err = runyard(*command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: runyard {' '.join(command)}")
    found: Any = cli
    for name in command:
        found = found.get_command(click.Context(found), name)
    assert [option.name for option in found.params if isinstance(option, click.Option) and not option.help] == []


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["sbumit"], "did you mean submit?"),
        (["ps", "--stat", "x"], "--stat"),
        (["ps", "--state", "runing"], "running"),
        (["submit"], "nothing to run"),
        (["submit", "--service", "--cron", "@daily", "x"], "exclude each other"),
        (["submit", "--timezone", "UTC", "x"], "belongs to --cron"),
        (["submit", "--memory", "much", "x"], "is not a size"),
        (["submit", "--time-limit", "long", "x"], "is not a duration"),
        (["submit", "--label", "x", "--", "x"], "KEY=VALUE"),
        (["submit", "--env", "RUNYARD_TEST_UNSET", "x"], "it is not set here"),
        (["submit", "--after", "1:succeded", "x"], "did you mean succeeded?"),
        (["submit", "-f", "jobs.toml", "x"], "exclude each other"),
        (["submit", "-f", "jobs.toml", "--name", "x"], "--name"),
        (["submit", "-f", "jobs.yaml"], "unknown kind of file"),
        (["submit", "-f", "absent.toml"], "cannot be read"),
        (["ps", "--since", "yesterdayish"], "neither a time"),
        (["events", "--after", "x"], "neither a number"),
        (["show"], "Missing argument"),
        (["config", "show", "--config", "absent.toml"], "no such configuration file"),
    ],
)
def test_usage_errors_are_code_2_and_say_what_to_do(args: list[str], hint: str, runyard: Runyard) -> None:
    code, out, err = runyard(*args)
    assert code == 2
    assert out == ""
    assert hint in err
    assert "Traceback" not in err


def test_no_server_is_code_3(runyard: Runyard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNYARD_URL", "http://127.0.0.1:1")
    code, _, err = runyard("ps")
    assert code == 3
    assert "runyard serve" in err
    assert err.count("\n") == 1


def test_a_fault_of_our_own_is_one_line(runyard: Runyard, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("runyard.config.load_config", broken)
    code, _, err = runyard("config", "show")
    assert code == 1
    assert "ZeroDivisionError: oops" in err
    assert "Traceback" not in err


def test_a_reader_that_goes_away_is_no_traceback(server: NativeServer) -> None:
    for _ in range(300):
        server.submit({"command": ["x" * 300]})
    process = cli_process("ps", "-o", "jsonl", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 141


# Submitting ---------------------------------------------------------------------------------------------------------


def test_submit_prints_the_id(server: NativeServer, runyard: Runyard) -> None:
    code, out, err = runyard("submit", "--", "echo", "--name", "not ours")
    assert (code, err) == (0, "")
    spec = server.jobs[out.strip()]["spec"]
    assert spec["command"] == ["echo", "--name", "not ours"]
    assert spec["cwd"] == str(Path.cwd())


def test_options_after_the_command_belong_to_the_command(server: NativeServer, runyard: Runyard) -> None:
    _, out, _ = runyard("submit", "--name", "mine", "grep", "-v", "--name", "x")
    job = server.jobs[out.strip()]
    assert (job["name"], job["spec"]["command"]) == ("mine", ["grep", "-v", "--name", "x"])


def test_submit_fills_in_the_whole_specification(
    server: NativeServer, runyard: Runyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_HERE", "here")
    args = (
        "--env A=1=2 --env FROM_HERE --cwd / --after 12 --after prep:finished --tasks 2 --cores 3 --gpus 1 --memory 1G "
        "--nodes 1 --exclusive --time-limit 1h30m --priority 7 --hold --label k=v --user nobody --group nogroup "
        "--replicas 2 --service --max-restarts 4"
    )
    code, out, err = runyard("submit", *args.split(), "-o", "json", "--", "x")
    assert (code, err) == (0, "")
    (job,) = json.loads(out)
    spec = job["spec"]
    assert spec["env"] == {"A": "1=2", "FROM_HERE": "here"}
    assert spec["after"] == ["12", {"job": "prep", "condition": "finished"}]
    assert spec["resources"] == {
        "nodes": 1, "tasks": 2, "cores_per_task": 3, "gpus_per_task": 1, "memory": 1 << 30, "exclusive": True
    }  # fmt: skip
    assert (spec["cwd"], spec["time_limit"], spec["priority"], spec["hold"]) == ("/", 5400, 7, True)
    assert (spec["labels"], spec["user"], spec["group"], spec["replicas"]) == ({"k": "v"}, "nobody", "nogroup", 2)
    assert (spec["lifecycle"], spec["restart"]["policy"], spec["restart"]["max"]) == ("service", "always", 4)


def test_submit_a_schedule(server: NativeServer, runyard: Runyard) -> None:
    _, out, _ = runyard("submit", "--cron", "@daily", "--timezone", "Europe/Berlin", "--restart", "on-failure", "x")
    spec = server.jobs[out.strip()]["spec"]
    assert spec["lifecycle"] == "cron"
    assert (spec["schedule"]["cron"], spec["schedule"]["timezone"]) == ("@daily", "Europe/Berlin")
    assert spec["restart"]["policy"] == "on-failure"


def test_the_servers_refusal_is_shown(server: NativeServer, runyard: Runyard) -> None:
    code, out, err = runyard("submit", "--priority", "99999999", "x")
    assert (code, out) == (2, "")
    assert "priority: must be between" in err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("jobs.toml", '[[jobs]]\nname = "a"\ncommand = ["x"]\ncwd = "sub"\n[[jobs]]\nname = "b"\nscript = "y"\n'),
        ("jobs.json", '[{"name": "a", "command": ["x"], "cwd": "sub"}, {"name": "b", "script": "y"}]'),
        ("wrapped.json", '{"jobs": [{"name": "a", "command": ["x"], "cwd": "sub"}, {"name": "b", "script": "y"}]}'),
        ("jobs.ndjson", '{"name": "a", "command": ["x"], "cwd": "sub"}\n\n{"name": "b", "script": "y"}\n'),
    ],
)
def test_submit_a_file(name: str, text: str, server: NativeServer, runyard: Runyard, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    code, out, err = runyard("submit", "-f", str(tmp_path / name))
    assert (code, err) == (0, "")
    first, second = (server.jobs[ref] for ref in out.split())
    assert (first["name"], first["spec"]["cwd"]) == ("a", str(tmp_path / "sub"))
    assert (second["name"], second["spec"]["cwd"], second["spec"]["script"]) == ("b", None, "y")


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [
        ("a.toml", "[[jobs]\n", "not valid TOML"),
        ("a.json", "[", "not valid JSON"),
        ("a.ndjson", '{"command": ["x"]}\n{"command"\n', "a.ndjson, line 2: not valid JSON"),
        ("a.json", "[1]", "job 1: a job must be a table"),
        ("a.json", "[]", "there is no job in it"),
        ("a.ndjson", "\n", "there is no job in it"),
        ("a.toml", 'name = "x"\n[[jobs]]\ncommand = ["x"]', "nothing else, found name"),
        ("a.toml", 'jobs = "x"', "must be a list"),
    ],
)
def test_a_broken_file_submits_nothing(
    name: str, text: str, hint: str, server: NativeServer, runyard: Runyard, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    code, _, err = runyard("submit", "-f", str(tmp_path / name))
    assert code == 2
    assert hint in err
    assert server.jobs == {}


def test_a_refused_job_in_a_file_is_named_and_the_others_stand(
    server: NativeServer, runyard: Runyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "".join(json.dumps({"command": ["x"] if number != 1500 else []}) + "\n" for number in range(2000))
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    code, out, err = runyard("submit", "-f", "-")
    assert code == 1
    assert len(out.split()) == len(server.jobs) == 1999
    assert "job 1501 of 2000: command" in err


# Running ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "code"),
    [("fine", 0), ("three", 3), ("killed", 137), ("slow", 124)],
    ids=["fine", "3", "killed", "slow"],
)
def test_run_exits_as_the_job_does(
    program: str, code: int, server: NativeServer, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert run(["run", program]) == code
    out, err = capfdbinary.readouterr()
    assert out == b"out \xff\n"
    assert err == b"err\n"


def test_run_of_what_cannot_start_says_so(server: NativeServer, runyard: Runyard) -> None:
    code, out, err = runyard("run", "unstartable")
    assert (code, out) == (1, "")
    assert "failed" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_cancels_its_job(number: int, code: int, server: NativeServer) -> None:
    process = cli_process("run", "forever", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    followed = "/api/v1/jobs/1000/logs"
    assert server.until(lambda: sum(request[1] == followed for request in server.requests) == 2, 20)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert server.jobs["1000"]["state"] == "cancelled"
    assert err == b""


def test_a_run_whose_reader_goes_away_cancels_its_job(server: NativeServer) -> None:
    process = cli_process("run", "forever", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    followed = "/api/v1/jobs/1000/logs"
    assert server.until(lambda: sum(request[1] == followed for request in server.requests) == 2, 20)
    server.write("1000", b"line\n")
    assert process.stdout.readline() == b"line\n"
    process.stdout.close()
    server.write("1000", b"line\n")
    assert process.wait(60) == 141
    assert process.stderr.read() == b""
    process.stderr.close()
    assert server.jobs["1000"]["state"] == "cancelled"


# Looking ------------------------------------------------------------------------------------------------------------


def test_ps_lists_live_jobs_and_with_a_all(server: NativeServer, runyard: Runyard) -> None:
    live = server.submit({"command": ["x", "a b"], "name": "alive"})["id"]
    ended = server.submit({"command": ["x"], "name": "gone"})["id"]
    server.end(ended, "failed", 3)
    _, out, _ = runyard("ps")
    assert "alive" in out and "x 'a b'" in out and "gone" not in out
    _, out, _ = runyard("ps", "-a")
    assert re.search(rf"{ended} +gone +batch +failed +.*exit 3", out)
    _, out, _ = runyard("ps", "-a", "-o", "jsonl")
    assert [json.loads(line)["id"] for line in out.splitlines()] == [ended, live]
    _, out, err = runyard("ps", "-a", "-n", "1", "-o", "json")
    assert [job["id"] for job in json.loads(out)] == [ended]
    assert "more than 1" in err


def test_ps_passes_its_filters_on(server: NativeServer, runyard: Runyard) -> None:
    args = "-s failed --kind cron --owner me --name n -l a=b -q text --since 100"
    assert runyard("ps", *args.split())[0] == 0
    params = server.requests[-1][2]
    assert {key: params[key] for key in ("state", "kind", "owner", "name", "label", "q", "since")} == {
        "state": "failed", "kind": "cron", "owner": "me", "name": "n", "label": "a=b", "q": "text", "since": "100.0"
    }  # fmt: skip


def test_names_cannot_steer_the_terminal(server: NativeServer, runyard: Runyard) -> None:
    job = server.submit({"command": ["x", "\x1b[2J\x07[red]"]})["id"]
    for command in (("ps",), ("show", job)):
        _, out, _ = runyard(*command)
        assert "\x1b" not in out and "\x07" not in out
        assert "\\x1b[2J\\x07[red]" in out


@pytest.mark.parametrize(("variable", "coloured"), [("FORCE_COLOR", True), ("NO_COLOR", False), ("UNRELATED", False)])
def test_colour_only_when_wanted(
    variable: str, coloured: bool, server: NativeServer, runyard: Runyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv(variable, "1")
    server.submit({"command": ["x"]})
    assert ("\x1b[" in runyard("ps")[1]) is coloured


def test_show_why_nodes_schedules_version(server: NativeServer, runyard: Runyard) -> None:
    job = server.submit({"command": ["x"], "name": "it"})["id"]
    server.start(job)
    _, out, _ = runyard("show", "it")
    assert job in out and "running" in out and "ATTEMPT" in out
    assert json.loads(runyard("show", "it", "-o", "json")[1])["id"] == job
    assert "it waits for nothing" in runyard("why", "it")[1]
    assert re.search(r"here +local +up +1 +1/2", runyard("nodes")[1])
    assert "@daily" in runyard("schedule", "list")[1]
    _, out, _ = runyard("schedule", "preview", "@daily", "--timezone", "Europe/Berlin", "-n", "2")
    assert out.count("2026-11-21 09:00:00 +0100") == 2
    assert json.loads(runyard("version", "-o", "json")[1])["server"] == "9.9"
    _, out, _ = runyard("top")
    assert "here" in out and job in out


def test_nobody_is_code_4(server: NativeServer, runyard: Runyard) -> None:
    code, _, err = runyard("show", "nobody")
    assert code == 4
    assert "there is no job nobody" in err


def test_logs(server: NativeServer, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    job = server.submit({"command": ["x"]})["id"]
    play(server, job, "succeeded", 0)
    server.write(job, b"last\n")
    for args, expected in (
        (["logs", job], (b"out \xff\nlast\n", b"err\n")),
        (["logs", job, "-f"], (b"out \xff\nlast\n", b"err\n")),
        (["logs", job, "--stderr"], (b"err\n", b"")),
        (["logs", job, "--stdout", "-n", "1"], (b"last\n", b"")),
    ):
        assert run(args) == 0
        assert tuple(capfdbinary.readouterr()) == expected
    assert run(["logs", "-f", "nobody"]) == 4


def test_events(server: NativeServer, runyard: Runyard) -> None:
    job = server.submit({"command": ["x"]})["id"]
    server.start(job)
    _, out, _ = runyard("events")
    assert "job.submitted" in out and f"{job}.0.1" in out
    _, out, _ = runyard("events", job, "-t", "run.started", "-o", "jsonl")
    assert [json.loads(line)["type"] for line in out.splitlines()] == ["run.started"]
    code, out, _ = runyard("events", "-f", "--after", "0", "-n", "2")
    assert code == 0
    assert len(out.splitlines()) == 2
    assert runyard("events", "-f", "-o", "json")[0] == 2


def test_following_events_ends_with_an_interrupt(server: NativeServer) -> None:
    job = server.submit({"command": ["x"]})["id"]
    process = cli_process("events", "-f", "--after", "0", "-o", "jsonl", stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["job"] == job
    server.start(job)
    assert json.loads(process.stdout.readline())["type"] == "run.started"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130


# Changing -----------------------------------------------------------------------------------------------------------


def test_stop_several_and_go_on_past_a_failure(server: NativeServer, runyard: Runyard) -> None:
    first, second = (server.submit({"command": ["x"]})["id"] for _ in range(2))
    code, out, err = runyard("stop", first, "nobody", second, "--wait")
    assert code == 4
    assert err == "error: nobody: there is no job nobody\n"
    assert [server.jobs[ref]["state"] for ref in (first, second)] == ["cancelled", "cancelled"]
    assert out.count("cancelled") == 2
    assert runyard("stop", first)[0] == 5


def test_restart_signal_hold_release(server: NativeServer, runyard: Runyard) -> None:
    job = server.submit({"command": ["x"]})["id"]
    assert runyard("restart", job)[0] == 0
    assert server.events[-1]["type"] == "job.restart"
    assert runyard("signal", "USR1", job)[0] == 0
    assert server.events[-1]["data"] == {"signal": "USR1"}
    assert runyard("hold", job)[0] == 0 and server.jobs[job]["hold"] is True
    assert runyard("release", job)[0] == 0 and server.jobs[job]["hold"] is False


def test_wait(server: NativeServer, runyard: Runyard, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad, live = (server.submit({"command": ["x"]})["id"] for _ in range(3))
    server.end(good, "succeeded", 0)
    server.end(bad, "failed", 1)
    assert runyard("wait", good)[0] == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{good}\n{bad}\n"))
    code, out, _ = runyard("wait", "-", "-o", "json")
    assert code == 1
    assert [job["id"] for job in json.loads(out)] == [good, bad]
    code, _, err = runyard("wait", live, "--timeout", "0")
    assert code == 124
    assert live in err


# Keeping ------------------------------------------------------------------------------------------------------------


def test_config_show(runyard: Runyard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[store]\nurl = "postgresql://me:secret@db/x"\n[server]\nport = 1234\n')
    monkeypatch.setenv("RUNYARD_AGENT__IDLE_EXIT", "5m")
    code, out, _ = runyard("config", "show", "--origin", "--config", str(file), "-o", "json")
    assert code == 0
    rows = {row["key"]: row for row in json.loads(out)}
    assert (rows["server.port"]["value"], rows["server.port"]["origin"], rows["server.port"]["place"]) == (
        1234, "file", str(file)
    )  # fmt: skip
    assert rows["agent.idle_exit"]["place"] == "RUNYARD_AGENT__IDLE_EXIT"
    assert rows["agent.idle_exit"]["value"] == 300
    assert rows["limits.max_jobs"]["origin"] == "default"
    assert rows["store.url"]["value"] == "postgresql://me:***@db/x"
    assert re.search(r"server\.port +1234\b", runyard("config", "show", "--config", str(file))[1])


def test_the_agent_is_asked_without_a_server(runyard: Runyard, tmp_path: Path) -> None:
    code, out, _ = runyard("agent", "status", "--data-dir", str(tmp_path), "-o", "json")
    assert code == 0
    status = json.loads(out)
    assert (status["folder"], status["running"], status["live"]) == (str(tmp_path / "agent"), False, [])
    assert runyard("agent", "stop", "--data-dir", str(tmp_path)) == (0, "no agent was running\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, runyard: Runyard) -> None:
    code, out, _ = runyard("completion", shell)
    assert code == 0
    assert "_RUNYARD_COMPLETE" in out


def test_completion_knows_the_commands() -> None:
    environment = {"_RUNYARD_COMPLETE": "bash_complete", "COMP_WORDS": "runyard su", "COMP_CWORD": "1"}
    process = cli_process(env=environment, stdout=subprocess.PIPE)
    out, _ = process.communicate(timeout=60)
    assert out.decode().split() == ["plain,submit"]


def test_version_without_a_server(runyard: Runyard, monkeypatch: pytest.MonkeyPatch) -> None:
    from runyard import __version__

    code, out, err = runyard("version", "--client")
    assert (code, err) == (0, "")
    assert __version__ in out
    monkeypatch.setenv("RUNYARD_URL", "http://127.0.0.1:1")
    code, out, _ = runyard("version")
    assert code == 3
    assert __version__ in out
