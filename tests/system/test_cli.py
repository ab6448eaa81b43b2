"""The `runyard` command against a real server: what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runyard.client import Client
from runyard.model.job import JobDoc
from tests.helpers import wait_until
from tests.system.server import LOOPBACK, Server, alive, ask_until, clean_env, read_until


def out(server: Server, *arguments: str, code: int = 0, **options: Any) -> str:
    """What a command prints; it must end with `code` and without a word on stderr if that is 0."""
    ended = server.run(*arguments, **options)
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert code or not ended.stderr, ended.stderr
    return ended.stdout


def jobs_of(text: str) -> list[JobDoc]:
    return msgspec.json.decode(text, type=list[JobDoc])


# Submitting -------------------------------------------------------------------------------------------------------


def test_submit_says_the_id_and_every_option_arrives(server: Server, client: Client) -> None:
    first = out(server, "submit", "--name", "cli-first", "--hold", "--", "true").strip()
    job = client.job(
        out(
            server,
            *("submit", "--name", "cli-all", "-e", "A=1", "--env", "B=x=y", "--cwd", "/", "--replicas", "2"),
            *(
                "--after",
                "cli-first:finished",
                "--cores",
                "1",
                "--memory",
                "1M",
                "--tasks",
                "1",
                "--time-limit",
                "1m30s",
            ),
            *("--priority", "7", "--hold", "-l", "k=v", "--restart", "on-failure", "--max-restarts", "2"),
            *("sh", "-c", "exit 0"),
        ).strip()
    )
    spec = job.spec
    assert (job.name, spec.command, spec.cwd, spec.replicas) == ("cli-all", ["sh", "-c", "exit 0"], "/", 2)
    assert spec.env == {"A": "1", "B": "x=y"} and job.labels == {"k": "v"}
    assert (spec.time_limit, job.priority, job.hold) == (90.0, 7, True)
    assert (spec.resources.cores_per_task, spec.resources.memory) == (1, 1024**2)
    assert spec.restart is not None and (spec.restart.policy, spec.restart.max) == ("on-failure", 2)
    out(server, "stop", first, job.id)


def test_a_job_runs_where_one_stands_and_with_what_one_hands_it(server: Server, tmp_path: Path) -> None:
    ended = server.run("run", "--env", "MINE", "sh", "-c", "pwd; echo $MINE", cwd=tmp_path, env={"MINE": "handed"})
    assert ended.stdout == f"{tmp_path}\nhanded\n"


def test_service_and_cron(server: Server, client: Client) -> None:
    service = client.job(out(server, "submit", "--service", "sleep", "1000").strip())
    cron = client.job(out(server, "submit", "--cron", "@daily", "--timezone", "Europe/Berlin", "true").strip())
    assert (service.kind, cron.kind) == ("service", "cron")
    listed = out(server, "schedule", "list")
    assert cron.id in listed and "@daily" in listed and "Europe/Berlin" in listed
    out(server, "stop", "--wait", service.id, cron.id)


@pytest.mark.parametrize("suffix", ["ndjson", "json", "toml"])
def test_a_file_of_jobs(server: Server, client: Client, tmp_path: Path, suffix: str) -> None:
    specs = [{"command": ["true"], "name": f"{suffix}-{number}"} for number in range(5)]
    text = {
        "ndjson": "\n".join(map(json.dumps, specs)),
        "json": json.dumps(specs),
        "toml": "\n".join(f'[[jobs]]\nname = "{spec["name"]}"\ncommand = ["true"]\n' for spec in specs),
    }[suffix]
    file = tmp_path / f"jobs.{suffix}"
    file.write_text(text)
    ids = out(server, "submit", "-f", str(file)).split()
    assert [job.name for job in client.wait_many(ids, 60)] and len(ids) == 5
    assert [client.job(job).name for job in ids] == [spec["name"] for spec in specs]


def test_bulk_names_the_bad_ones_and_its_ids_can_be_piped_on(server: Server) -> None:
    lines = [json.dumps({"command": ["true"]}) for _ in range(1200)]
    lines[1100] = json.dumps({"comand": ["true"]})
    ended = server.run("submit", "-f", "-", input="\n".join(lines))
    assert ended.returncode == 1
    ids = ended.stdout.split()
    assert len(ids) == len(set(ids)) == 1199
    assert "job 1101 of 1200" in ended.stderr and "did you mean 'command'" in ended.stderr
    assert "1 of 1200 jobs were refused" in ended.stderr
    waited = server.run("wait", "-", "-o", "json", "--timeout", "90s", input=ended.stdout)
    assert waited.returncode == 0 and {job.state for job in jobs_of(waited.stdout)} == {"succeeded"}


def test_progress_shows_on_a_terminal_only(server: Server) -> None:
    lines = "\n".join(json.dumps({"command": ["true"]}) for _ in range(1100))
    quiet = server.run("submit", "-f", "-", input=lines)
    assert quiet.returncode == 0 and quiet.stderr == ""
    file = server.folder / "many.ndjson"
    file.write_text(lines)
    shown = on_a_terminal(server, "submit", "-f", str(file), "-o", "json", stdout=subprocess.DEVNULL)
    assert "submitting" in shown and "1100/1100" in shown
    out(server, "wait", "-", "-o", "json", input=quiet.stdout)


def on_a_terminal(server: Server, *arguments: str, stdout: int | None = None, **env: str) -> str:
    """What a command writes to its terminal."""
    main, side = pty.openpty()
    process = subprocess.Popen(
        server.command(*arguments),
        stdin=side,
        stdout=side if stdout is None else stdout,
        stderr=side,
        env=clean_env(TERM="xterm-256color", COLUMNS="200", **env),
    )
    os.close(side)
    seen = b""
    try:
        while select.select([main], [], [], 30)[0]:
            try:
                part = os.read(main, 65_536)
            except OSError:
                break
            if not part:
                break
            seen += part
        assert process.wait(60) == 0
    finally:
        os.close(main)
        process.kill()
        process.wait()
    return seen.decode()


# Running in the foreground ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["false"], 1),
        (["sh", "-c", "exit 42"], 42),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["sh", "-c", "kill -KILL $$"], 137),
        (["--time-limit", "100ms", "sleep", "1000"], 124),
        (["/no/such/program"], 1),
    ],
)
def test_run_ends_as_its_job_does(server: Server, command: list[str], code: int) -> None:
    ended = server.run("run", *command)
    assert ended.returncode == code, ended.stderr
    assert ended.stdout == ""
    if command == ["/no/such/program"]:
        assert "/no/such/program" in ended.stderr


def test_run_passes_both_streams_through_byte_for_byte(server: Server) -> None:
    script = r"printf 'out\377\n'; printf 'err\376' >&2; exit 3"
    ended = subprocess.run(server.command("run", "sh", "-c", script), capture_output=True, env=clean_env(), timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, b"out\xff\n", b"err\xfe")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_cancels_the_job_and_its_tree(server: Server, client: Client, number: int, code: int) -> None:
    script = "sleep 1000 & echo $! $$; wait"
    process = server.popen("run", "--name", f"ctrl-{number}", "sh", "-c", script)
    with process:
        assert process.stdout is not None
        pids = [int(word) for word in read_until(process.stdout, " ").split()]
        assert all(map(alive, pids))
        process.send_signal(number)
        assert process.wait(60) == code
    assert client.wait(f"ctrl-{number}", 60).state == "cancelled"
    wait_until(lambda: not any(map(alive, pids)), 60, "the end of the tree")


def test_run_goes_on_over_a_restart_of_the_server(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with server.popen("run", "sh", "-c", f"echo before; cat {fifo}; echo end; exit 9") as process:
        assert process.stdout is not None
        read_until(process.stdout, "before")
        server.kill()
        # Written while there is no server: the job's file takes it all the same.
        fifo.write_text("between\n")
        server.start()
        assert process.stdout.read() == "between\nend\n"
        assert process.wait(60) == 9


def test_a_reader_that_goes_away_ends_the_job(server: Server, client: Client) -> None:
    run = " ".join(server.command("run", "--name", "piped", "yes"))
    ended = subprocess.run(
        ["bash", "-c", f"{run} | head -2; echo ${{PIPESTATUS[0]}}"],
        env=clean_env(),
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert ended.stdout == "y\ny\n141\n" and ended.stderr == ""
    assert client.wait("piped", 60).state == "cancelled"


# Looking ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown(server: Server, client: Client) -> JobDoc:
    """A job with output on both streams, and a label to find it by."""
    job = client.submit(
        script="for n in 1 2 3; do echo out $n; echo err $n >&2; done; exit 5", name="shown", labels={"see": "me"}
    )
    return client.wait(job.id, 60)


def test_ps_in_every_form(server: Server, client: Client, shown: JobDoc) -> None:
    table = out(server, "ps", "-a", "-l", "see=me").splitlines()
    assert table[0].split() == ["ID", "NAME", "KIND", "STATE", "TIME", "RESULT", "COMMAND"]
    assert table[1].split()[:4] == [shown.id, "shown", "batch", "failed"] and "exit 5" in table[1]
    assert jobs_of(out(server, "ps", "-a", "-l", "see=me", "-o", "json")) == [client.job(shown.id)]
    (line,) = out(server, "ps", "-a", "-l", "see=me", "-o", "jsonl").splitlines()
    assert msgspec.json.decode(line, type=JobDoc) == client.job(shown.id)
    # Without -a only what lives.
    assert out(server, "ps", "-l", "see=me", "-o", "json") == "[]\n"
    held = out(server, "submit", "--hold", "-l", "see=me", "true").strip()
    assert [job.id for job in jobs_of(out(server, "ps", "-l", "see=me", "-o", "json"))] == [held]
    for narrow in (["-s", "failed"], ["--name", "shown"], ["-q", "for n in"], ["-a", "--since", "1h", "-s", "failed"]):
        assert [job.id for job in jobs_of(out(server, "ps", "-a", "-l", "see=me", *narrow, "-o", "json"))] == [shown.id]
    more = server.run("ps", "-a", "-n", "1", "-o", "json")
    assert len(jobs_of(more.stdout)) == 1 and "more than 1" in more.stderr
    out(server, "stop", held)


def test_colour_on_a_terminal_only_and_not_with_no_color(server: Server, shown: JobDoc) -> None:
    arguments = ("ps", "-a", "-l", "see=me", "-s", "failed")
    assert "\x1b[31mfailed" in on_a_terminal(server, *arguments)
    assert "\x1b[3" not in on_a_terminal(server, *arguments, NO_COLOR="1")
    assert "\x1b" not in out(server, *arguments)


def test_names_of_strangers_cannot_command_the_terminal(server: Server, client: Client) -> None:
    job = client.submit(command=["echo", "\x1b]0;owned\x07"], hold=True, labels={"evil": "\x1b[2J"})
    for arguments in (("ps",), ("show", job.id)):
        shown = out(server, *arguments)
        assert "\x1b" not in shown and "\x07" not in shown and r"\x1b" in shown
    client.cancel(job.id)


def test_show(server: Server, shown: JobDoc) -> None:
    table = out(server, "show", "shown")
    assert shown.id in table and shown.f58 in table and "exit 5" in table and "REPLICA" in table
    assert msgspec.json.decode(out(server, "show", shown.f58, "-o", "json"), type=JobDoc).id == shown.id


def test_logs(server: Server, shown: JobDoc) -> None:
    both = server.run("logs", shown.id)
    assert both.stdout == "out 1\nout 2\nout 3\n" and both.stderr == "err 1\nerr 2\nerr 3\n"
    assert out(server, "logs", "--stderr", "-n", "1", "shown") == "err 3\n"
    assert out(server, "logs", "--stdout", "-n", "2", "shown") == "out 2\nout 3\n"
    followed = server.run("logs", "-f", "--attempt", "1", "--replica", "0", "shown")
    assert (followed.stdout, followed.stderr) == (both.stdout, both.stderr)


def test_logs_follow_a_running_job(server: Server, client: Client, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    job = client.submit(command=["cat", str(fifo)])
    with server.popen("logs", "-f", job.id) as process, fifo.open("w") as end:
        assert process.stdout is not None
        for line in ("one\n", "two\n"):
            end.write(line)
            end.flush()
            assert process.stdout.readline() == line
        end.close()
        assert process.wait(60) == 0 and process.stdout.read() == ""


def test_why(server: Server, client: Client) -> None:
    job = client.submit(command=["true"], hold=True)
    assert f"runyard release {job.id}" in out(server, "why", job.id)
    found = json.loads(out(server, "why", job.id, "-o", "json"))
    assert (found["reason"], found["blockers"]) == ("held", [{"kind": "hold"}])
    client.cancel(job.id)


def test_events(server: Server, client: Client, shown: JobDoc) -> None:
    events = [json.loads(line) for line in out(server, "events", shown.id, "-o", "jsonl").splitlines()]
    assert events[0]["type"] == "job.submitted" and events[-1]["type"] == "job.failed"
    assert len(out(server, "events", shown.id, "-t", "run.exited").splitlines()) == 2, "a title and one line"
    after = str(events[-2]["seq"])
    assert [e["type"] for e in json.loads(out(server, "events", shown.id, "--after", after, "-o", "json"))] == [
        "job.failed"
    ]
    now = str(client.job(client.submit(command=["true"], hold=True, labels={"see": "events"}).id).version)
    with server.popen("events", "-f", "--after", now, "-n", "3", "-o", "jsonl", "-t", "job.submitted") as process:
        assert process.stdout is not None
        ids = [client.submit(command=["true"]).id for _ in range(3)]
        assert [json.loads(line)["job"] for line in process.stdout] == ids
        assert process.wait(60) == 0
    with server.popen("events", "-f", "--after", after) as process:
        assert process.stdout is not None
        read_until(process.stdout, "job.failed")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def test_nodes_and_top(server: Server) -> None:
    table = out(server, "nodes").splitlines()
    assert table[0].startswith("NAME") and ["local", "up"] in [line.split()[1:3] for line in table]
    (node,) = (node for node in json.loads(out(server, "nodes", "-o", "json")) if node["executor"] == "local")
    assert node["cores"]["total"] == sorted(os.sched_getaffinity(0))
    picture = out(server, "top", "--once")
    assert server.url in picture and node["name"] in picture


# Acting -----------------------------------------------------------------------------------------------------------


def test_hold_release_stop_restart_signal(server: Server, client: Client) -> None:
    script = 'trap "echo signalled" USR1; echo up; while :; do sleep 0.02; done'
    job = out(server, "submit", "--name", "acted", "--hold", "sh", "-c", script).strip()
    assert "pending" in out(server, "release", "acted") or client.job(job).state != "pending"
    ask_until(lambda: out(server, "logs", "--stdout", job), lambda text: text == "up\n")
    out(server, "signal", "USR1", job)
    ask_until(lambda: out(server, "logs", "--stdout", job), lambda text: text == "up\nsignalled\n")
    out(server, "restart", job)
    ask_until(lambda: client.job(job), lambda doc: doc.state == "running" and doc.runs[0].attempt == 2)
    assert jobs_of(out(server, "stop", "--wait", job, "-o", "json"))[0].state == "cancelled"
    assert out(server, "wait", job, code=1)
    other = out(server, "submit", "--hold", "true").strip()
    out(server, "release", other)
    assert "succeeded" in out(server, "wait", other)


def test_several_jobs_one_of_which_is_not_there(server: Server, client: Client) -> None:
    jobs = [client.submit(command=["true"], hold=True).id for _ in range(2)]
    ended = server.run("stop", jobs[0], "no-such-job", jobs[1], "-o", "json")
    assert ended.returncode == 4 and "no-such-job" in ended.stderr
    assert [job.id for job in jobs_of(ended.stdout)] == jobs
    assert {client.job(job).state for job in jobs} == {"cancelled"}


def test_wait_gives_up_in_time(server: Server, client: Client) -> None:
    job = client.submit(command=["true"], hold=True)
    ended = server.run("wait", "--timeout", "100ms", job.id)
    assert ended.returncode == 124 and job.id in ended.stderr
    client.cancel(job.id)


def test_schedule_preview(server: Server) -> None:
    lines = out(server, "schedule", "preview", "30 2 * * *", "--timezone", "Europe/Berlin", "-n", "3").splitlines()
    assert len(lines) == 4 and all(" 02:30:00 +0" in line for line in lines[1:])
    bad = server.run("schedule", "preview", "30 25 * * *")
    assert bad.returncode == 2 and "hour '25' at column 4" in bad.stderr


# Without a server, and with mistakes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["show", "no-such-job"], 4, "no-such-job"),
        (["logs", "-f", "no-such-job"], 4, "no-such-job"),
        (["wait", "no-such-job"], 4, "no-such-job"),
        (["stop", "shown"], 5, "failed"),
        (["signal", "USR1", "shown"], 5, "failed"),
        (["signal", "NOPE", "shown"], 2, "SIGUSR1"),
        (["hold", "shown"], 5, "failed"),
        (["submit", "--priority", "9999999", "true"], 2, "between -1000000 and 1000000"),
        (["submit", "--after", "no-such-job", "true"], 2, "no such job"),
        (["submit"], 2, "nothing to run"),
        (["submit", "--service", "--cron", "@daily", "true"], 2, "exclude each other"),
        (["submit", "-f", "no-such-file.toml"], 2, "no-such-file.toml"),
        (["sumbit", "true"], 2, "did you mean submit"),
        (["ps", "--stat", "x"], 2, "--stat"),
        (["ps", "-s", "asleep"], 2, "asleep"),
        (["events", "--after", "soon"], 2, "latest"),
    ],
)
def test_mistakes(server: Server, shown: JobDoc, arguments: list[str], code: int, says: str) -> None:
    ended = server.run(*arguments)
    assert ended.returncode == code, ended.stderr
    assert says in ended.stderr and "Traceback" not in ended.stderr and ended.stdout == ""
    assert len(ended.stderr.strip().splitlines()) <= 3


@pytest.mark.parametrize("arguments", [["ps"], ["submit", "true"], ["version"], ["stop", "x"], ["nodes", "-o", "json"]])
def test_no_server(tmp_path: Path, arguments: list[str]) -> None:
    # Port 1 is nobody's.
    ended = subprocess.run(
        ["runyard", "--url", f"http://{LOOPBACK}:1", *arguments],
        env=clean_env(),
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert ended.returncode == 3 and "runyard serve" in ended.stderr and "Traceback" not in ended.stderr
    variable = subprocess.run(
        ["runyard", *arguments],
        env=clean_env(RUNYARD_URL=f"http://{LOOPBACK}:1"),
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert (variable.returncode, variable.stderr) == (3, ended.stderr)


def test_version(server: Server) -> None:
    found = json.loads(out(server, "version", "-o", "json"))
    assert found["client"] == found["server"] and found["api"] == "v1"


def test_config_show_says_where_each_value_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "runyard.toml"
    file.write_text('[server]\nport = 8081\nmax_body = "1M"\n')
    ended = subprocess.run(
        ["runyard", "config", "show", "--origin", "-o", "json"],
        cwd=tmp_path,
        env=clean_env(RUNYARD_SERVER__PORT="8082"),
        text=True,
        capture_output=True,
        timeout=60,
    )
    rows = {row["key"]: row for row in json.loads(ended.stdout)}
    assert rows["server.port"] | {"key": ""} == {
        "key": "",
        "value": 8082,
        "origin": "environment",
        "place": "RUNYARD_SERVER__PORT",
    }
    assert (rows["server.max_body"]["value"], rows["server.max_body"]["place"]) == (1024**2, str(file))
    assert rows["server.host"]["origin"] == "default"


def test_agent_status_and_its_refusal_to_leave_runs(serve: Callable[..., Server]) -> None:
    server = serve()
    folder = ("--data-dir", str(server.data))
    with server.client() as client:
        job = client.submit(command=["sleep", "1000"])
        server.until(client, job.id, "running")
        status = json.loads(out(server, "agent", "status", *folder, "-o", "json"))
        assert alive(status["pid"]) and status["live"] == [f"{job.id}.0.1"]
        refused = server.run("agent", "stop", *folder)
        assert refused.returncode == 5 and "--kill" in refused.stderr
        assert client.job(job.id).state == "running"
        client.cancel(job.id)
        client.wait(job.id, 60)
    server.end()
    assert out(server, "agent", "stop", *folder) == "stopped\n"
    assert out(server, "agent", "stop", *folder) == "no agent was running\n"


def test_the_server_ends_in_good_order_and_says_so_to_nobody(serve: Callable[..., Server]) -> None:
    server = serve()
    with server.client() as client:
        job = client.submit(command=["sleep", "1000"])
        pid = server.until(client, job.id, "running").runs[0].pid
        assert pid is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        assert server.end(number) == 0
        assert alive(pid), "jobs outlive the server"
        server.start()
    assert server.log.read_text() == ""


def test_completion(server: Server) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_RUNYARD_COMPLETE" in out(server, "completion", shell)
    env = {"_RUNYARD_COMPLETE": "bash_complete", "COMP_WORDS": "runyard su", "COMP_CWORD": "1"}
    ended = subprocess.run(["runyard"], env=clean_env(**env), text=True, capture_output=True, timeout=60)
    assert "submit" in ended.stdout
