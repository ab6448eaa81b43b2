"""Imports: real files in, jobs out, and a report that says what became of everything."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runyard.cli.app import run
from runyard.client.jobfile import read_jobs
from runyard.importers.crontab import read_crontab
from runyard.importers.meproc import read_meproc
from runyard.importers.procfile import read_procfile
from runyard.importers.report import Entry, Report, plain
from runyard.importers.supervisord import Surroundings, read_supervisord
from runyard.model.check import build_spec, check_spec
from runyard.model.errors import InvalidInput
from runyard.model.job import JobSpec
from tests.unit.native_server import serving

DATA = Path(__file__).parents[1] / "data/imports"


def text(name: str) -> str:
    return (DATA / name).read_text(encoding="utf-8")


def entry(report: Report, name: str) -> Entry:
    (found,) = [entry for entry in report.entries if entry.name == name]
    return found


def job(report: Report, name: str) -> dict[str, Any]:
    """The one job of an entry, without what is not the default, and without the label that all have."""
    (found,) = entry(report, name).jobs
    result = plain(found)
    assert result["labels"].pop("imported-from") == report.format
    return {key: value for key, value in result.items() if value != {}}


# Meproc -----------------------------------------------------------------------------------------------------------


def test_the_answer_of_a_meproc_server() -> None:
    report = read_meproc(text("meproc-proc.json"))
    assert [entry.name for entry in report.entries] == ["task0", "task1", "api", "collect", "score", "legacy"]
    assert job(report, "task1") == {
        "name": "task1",
        "script": "sleep 5",
        "replicas": 2,
        "user": "guest",
        "after": [{"job": "task0", "condition": "idle"}],
    }
    assert job(report, "api") == {
        "name": "api",
        "script": "./api --port 8000",
        "replicas": 3,
        "group": "www-data",
        "lifecycle": "service",
        "restart": {"policy": "always", "delay": 5.0, "backoff": 1.0, "max_delay": 5.0},
        "after": [{"job": "task0", "condition": "idle"}],
    }
    assert job(report, "collect") == {
        "name": "collect",
        "script": "collect | gzip > /var/tmp/c.gz",
        "lifecycle": "cron",
        "schedule": {"cron": "*/10 8-18 * * mon-fri", "missed": "skip"},
    }
    assert job(report, "score") == {"name": "score", "command": ["jobs/score.py:main"], "executor": "python"}
    legacy = entry(report, "legacy")
    assert legacy.jobs == [] and legacy.error is not None and "Melang" in legacy.error
    assert entry(report, "api").ignored["team"] == "is no field of Meproc's"
    assert entry(report, "api").ignored["running"] == "is state of the old server"
    assert entry(report, "task1").warnings == ["it has run there already; imported, it runs again"]
    assert entry(report, "task0").warnings == []


RECORD = {"name": "a", "cmd": "true", "type": "once"}


@pytest.mark.parametrize(
    ("document", "names"),
    [
        (RECORD, ["a"]),
        ([RECORD, RECORD | {"name": "b"}], ["a", "b"]),
        ({"x": {"cmd": "true", "type": "once"}, "y": RECORD | {"name": "z"}}, ["x", "z"]),
        ({"tasks": {"x": {"cmd": "true", "type": "once"}}}, ["x"]),
        ({"code": 200, "data": {"running": [], "tasks": []}}, []),
        ({}, []),
        (
            [RECORD | {"deps": ["b", "gone"]}, RECORD | {"name": "b", "deps": ["c"]}, RECORD | {"name": "c"}],
            list("cba"),
        ),
        ([RECORD | {"deps": ["b"]}, RECORD | {"name": "b", "deps": ["a"]}], ["b", "a"]),
        ([RECORD | {"deps": ["a"]}], ["a"]),
    ],
)
def test_every_form_of_meproc_tasks(document: object, names: list[str]) -> None:
    report = read_meproc(json.dumps(document))
    assert [spec.name for spec in report.jobs] == names
    assert [entry.error for entry in report.entries] == [None] * len(names)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"name": ""}, "name: must be a text that is not empty"),
        ({"cmd": None}, "cmd: must be a text"),
        ({"type": "Once"}, "type: 'Once' is none of once, daemon"),
        ({"replica": 0}, "replica: must be a whole number from 1"),
        ({"replica": True}, "replica: must be a whole number"),
        ({"replica": 1.5}, "replica: must be a whole number"),
        ({"replica": 100_000}, "replicas: must be between 1 and 10000"),
        ({"type": "daemon", "interval": 10**400}, "interval: must be a whole number"),
        ({"interval": "3"}, "interval: must be a whole number"),
        ({"deps": {"a": 1}}, "deps: must be an array of names"),
        ({"deps": [1]}, "deps: must be an array of names"),
        ({"user": 3}, "user: must be a text"),
        ({"type": "melang", "cmd": "x.m"}, "Melang script"),
        ({"name": "123"}, "name: must not be a number"),
    ],
)
def test_what_meproc_would_refuse_is_refused_with_the_field(change: dict[str, Any], error: str) -> None:
    report = read_meproc(json.dumps([RECORD | change, RECORD | {"name": "good"}]))
    assert [spec.name for spec in report.jobs] == ["good"]
    assert error in (report.entries[0].error or "")


def test_one_meproc_entry_that_is_no_object_spoils_no_other() -> None:
    report = read_meproc(json.dumps([1, RECORD, 1]))
    assert [entry.error for entry in report.entries] == [
        "a task is an object, not int",
        None,
        "a task is an object, not int",
    ]


@pytest.mark.parametrize(
    ("fields", "unit", "delay", "warns"),
    [
        ({}, "seconds", 3.0, False),
        ({"interval": 2.0}, "seconds", 2.0, False),
        ({"interval": 3000}, "seconds", 3000.0, True),
        ({"interval": 3000}, "milliseconds", 3.0, False),
        ({"interval": None}, "milliseconds", 3.0, False),
    ],
)
def test_the_unit_of_intervals_is_said_not_guessed(
    fields: dict[str, Any], unit: str, delay: float, warns: bool
) -> None:
    report = read_meproc(json.dumps(RECORD | {"type": "daemon"} | fields), unit)
    (spec,) = report.jobs
    assert spec.restart is not None and spec.restart.delay == spec.restart.max_delay == delay
    assert any("--interval-unit" in warning for warning in report.entries[0].warnings) == warns


def test_meproc_reads_five_fields_of_a_cron_text_and_has_a_default() -> None:
    report = read_meproc(
        json.dumps([RECORD | {"type": "cron"}, RECORD | {"type": "cron", "cron": " 1  2 * * * extra"}])
    )
    assert [spec.schedule.cron for spec in report.jobs if spec.schedule] == ["* * * * *", "1 2 * * *"]
    assert "6 fields" in report.entries[1].warnings[0]


def test_a_long_chain_of_meproc_tasks_is_put_in_order() -> None:
    tasks = [RECORD | {"name": f"t{number}", "deps": [f"t{number + 1}"]} for number in range(3000)]
    assert [spec.name for spec in read_meproc(json.dumps(tasks)).jobs] == [
        f"t{number}" for number in reversed(range(3000))
    ]


# supervisord ------------------------------------------------------------------------------------------------------


def supervisord(config: str, **env: str) -> Report:
    return read_supervisord(config, Surroundings("/etc/supervisor", "box", env))


def included(pattern: str) -> list[tuple[str, str]]:
    return [(str(path), path.read_text(encoding="utf-8")) for path in sorted(DATA.glob(pattern))]


def test_a_supervisord_configuration() -> None:
    around = Surroundings("/etc/supervisor", "box", {"APP_HOME": "/srv/home"})
    report = read_supervisord(text("supervisord.conf"), around, included)
    shared = {"user": "www-data", "umask": "022"}
    assert job(report, "web") == shared | {
        "name": "web",
        "command": [
            *("/srv/app/venv/bin/gunicorn", "--bind", "127.0.0.1:8000", "--access-logformat", "%(h)s %(r)s", "app:wsgi")
        ],
        "cwd": "/srv/app",
        "env": {
            "LANG": "C.UTF-8",
            "DJANGO_SETTINGS_MODULE": "app.settings",
            "SECRET": "a,b;c",
            "HOME": "/srv/home",
        },
        "lifecycle": "service",
        "restart": {"policy": "always", "max": 10, "reset_after": 5.0},
        "stop": {"signal": "SIGQUIT", "grace": 30.0},
        "labels": {"group": "app"},
    }
    assert job(report, "worker") == shared | {
        "name": "worker",
        "command": ["/srv/app/venv/bin/celery", "-A", "app", "worker", "--concurrency", "4"],
        "env": {"LANG": "C.UTF-8"},
        "user": "celery",
        "replicas": 4,
        "lifecycle": "service",
        "restart": {"policy": "on-failure", "max": 3, "reset_after": 1.0},
        "stop": {"grace": 600.0},
        "labels": {"group": "app"},
    }
    shards = entry(report, "shard").jobs
    assert [(spec.name, (spec.command or [])[1:], spec.lifecycle, spec.restart) for spec in shards] == [
        ("shard-1", ["--index", "1", "--of", "2"], "once", None),
        ("shard-2", ["--index", "2", "--of", "2"], "once", None),
    ]
    console = job(report, "console")
    assert (console["hold"], console["command"], console["cwd"]) == (
        True,
        ["/etc/supervisor/console"],
        "/etc/supervisor/console",
    )
    assert job(report, "tidy")["restart"]["reset_after"] == 0
    web = entry(report, "web").ignored
    assert web.keys() == {
        *("priority", "redirect_stderr", "stdout_logfile", "stdout_logfile_maxbytes", "stopasgroup", "killasgroup")
    }
    assert entry(report, "tidy").ignored == {"typo": "is no option of a program that is known here"}
    assert entry(report, "worker").warnings == ["exitcodes 0,2: here only exit code 0 is an expected end"]
    errors = {entry.place: entry.error for entry in report.entries if entry.error}
    assert errors.keys() == {"[eventlistener:memmon]", "[fcgi-program:php]", "[program:mailer]", "[program:broken]"}
    assert "ENV_NOWHERE_TO_BE_FOUND" in (errors["[program:mailer]"] or "")
    assert "write %%" in (errors["[program:broken]"] or "")
    assert any("conf.d/*.conf" in note and "mailer.conf" in note for note in report.notes)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ("", "command: is missing"),
        ("command=''", "command: must name a program"),
        ("command='x", "command: No closing quotation"),
        ("command=x\nnumprocs=many", "numprocs: must be a whole number from 1 to 10000, not 'many'"),
        ("command=x\nnumprocs=10001", "numprocs: must be a whole number"),
        ("command=x\nautostart=perhaps", "autostart: must be true or false"),
        ("command=x\nautorestart=perhaps", "autorestart: must be true, false or unexpected"),
        ("command=x\nstopsignal=BOO", "stopsignal: 'BOO' is no signal"),
        ("command=x\nenvironment=A", 'environment: expected KEY="value"'),
        ("command=x\nenvironment=A=1 B=2,C", 'environment: expected KEY="value"'),
        ("command=x\numask=9", "umask: must be octal"),
        ("command=x %(nope)s", "command: %(nope)s is not known here"),
        ("command=x %(program_name)d", "is no number"),
    ],
)
def test_what_supervisord_would_refuse_is_refused_with_the_option(options: str, error: str) -> None:
    report = supervisord(f"[program:a]\n{options}\n[program:good]\ncommand=true\n")
    assert [spec.name for spec in report.jobs] == ["good"]
    assert error in (report.entries[0].error or "")


def test_expansions_of_supervisord() -> None:
    report = supervisord(
        "[program:a]\ncommand=run %(here)s %(host_node_name)s %(group_name)s %(ENV_X)s %(ENV_OWN)s 100%%\n"
        'environment=OWN="%(ENV_X)s!"\n[group:g]\nprograms=a, gone',
        X="é",
    )
    (spec,) = report.jobs
    assert spec.command == ["run", "/etc/supervisor", "box", "g", "é", "é!", "100%"]
    assert "[group:g]: there is no program 'gone'" in report.notes


def test_no_supervisord_configuration_at_all() -> None:
    with pytest.raises(InvalidInput, match="not a supervisord configuration: File contains no section headers"):
        supervisord("command=x")


# crontab ----------------------------------------------------------------------------------------------------------


def test_a_crontab_of_a_user() -> None:
    report = read_crontab(text("crontab"), timezone="Europe/Berlin")
    env = {"HOME": "/home/backup", "GREETING": "two  words"}
    common = {"lifecycle": "cron", "cwd": "/home/backup", "env": env}
    berlin = {"timezone": "Europe/Berlin", "missed": "skip"}
    assert job(report, "crontab-6") == common | {
        "name": "crontab-6",
        "command": ["/bin/bash", "-c", "/usr/local/bin/backup --full >/dev/null 2>&1"],
        "schedule": {"cron": "0 3 * * *"} | berlin,
    }
    assert job(report, "crontab-8")["command"][2] == "find /tmp -mtime +7 -delete; date +%F"
    assert job(report, "crontab-8")["schedule"] == {"cron": "@daily"} | berlin
    assert job(report, "crontab-12")["schedule"]["timezone"] == "America/New_York"
    assert "- before the minute" in entry(report, "crontab-13").ignored
    errors = {entry.place: entry.error or "" for entry in report.entries if entry.error}
    assert errors.keys() == {"line 9", "line 14", "line 15", "line 16"}
    assert "service" in errors["line 9"] and "Bad minute" in errors["line 14"]
    assert any(note.startswith("line 3: MAILTO is ignored") for note in report.notes)


def test_a_system_crontab_has_a_column_of_users() -> None:
    report = read_crontab(text("crontab.system"), system=True)
    found = job(report, "crontab-3")
    assert (found["user"], found["script"]) == ("root", "cd / && run-parts --report /etc/cron.hourly")
    assert found["schedule"] == {"cron": "17 * * * *", "missed": "skip"}
    assert found["env"]["PATH"].startswith("/usr/local/sbin:")
    assert job(report, "crontab-4")["user"] == "www-data"
    assert "no command behind the user" in (report.entries[2].error or "")


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
@pytest.mark.parametrize(
    ("command", "printed"),
    [
        (r"printf '\%s' a", "a"),
        ("cat%one%two", "one\ntwo\n"),
        (r"cat; echo end%50\%%STDIN%$HOME `x`", "50%\nSTDIN\n$HOME `x`\nend\n"),
        ("cat%", "\n"),
    ],
)
def test_percent_signs_mean_what_they_mean_to_cron(shell: str, command: str, printed: str) -> None:
    (spec,) = read_crontab(f"SHELL={shell}\n0 0 * * * {command}").jobs
    done = subprocess.run(spec.argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert done.stdout == printed


def test_standard_input_for_a_shell_that_is_not_known_is_refused() -> None:
    report = read_crontab("SHELL=/usr/bin/fish\n0 0 * * * cat%x\n0 0 * * * date")
    assert "fish takes it from a script is not known" in (report.entries[0].error or "")
    assert report.jobs[0].command == ["/usr/bin/fish", "-c", "date"]


# Procfile ---------------------------------------------------------------------------------------------------------


def test_a_procfile_with_its_variables() -> None:
    report = read_procfile(
        text("Procfile"), cwd="/srv/app", env=text(".env"), concurrency={"web": 2, "worker": 3, "clock": 0, "gone": 1}
    )
    variables = {
        "DATABASE_URL": "postgres://localhost/app?x=1#fragment",
        "MOTTO": "one # two",
        "GREETING": "hello\nworld",
        "EMPTY": "",
    }
    web = entry(report, "web").jobs
    assert [(spec.name, spec.env["PORT"], spec.replicas) for spec in web] == [
        ("web.1", "7000", 1),
        ("web.2", "7001", 1),
    ]
    assert job(report, "worker") == {
        "name": "worker",
        "script": "celery -A app worker",
        "lifecycle": "service",
        "cwd": "/srv/app",
        "replicas": 3,
        "env": variables | {"PORT": "7100"},
    }
    assert "lifecycle" not in job(report, "release")
    assert "--concurrency is 0" in (entry(report, "clock").error or "")
    assert report.entries[-1].error == "is not of the form `name: command`"
    assert ".env, line 7: BARE has no value, and is ignored" in report.notes
    assert "--concurrency gone: there is no such process type in the file" in report.notes


def test_ports_without_variables_begin_at_5000_and_all_means_the_rest() -> None:
    report = read_procfile("a: serve $PORT\nb: work\n", concurrency={"all": 2, "b": 1})
    assert [(spec.name, spec.env["PORT"]) for spec in report.jobs] == [("a.1", "5000"), ("a.2", "5001"), ("b", "5100")]
    many = read_procfile("a: serve $PORT", concurrency={"a": 101})
    assert "wants a port for each of 101" in (many.entries[0].error or "")


# Whatever comes ---------------------------------------------------------------------------------------------------

READERS: dict[str, Callable[[str], Report]] = {
    "meproc": read_meproc,
    "supervisord": lambda text: supervisord(text, A="1"),
    "crontab": read_crontab,
    "system crontab": lambda text: read_crontab(text, system=True),
    "procfile": lambda text: read_procfile(text, cwd="/", env=text, concurrency={"all": 2}),
}
_lines = st.lists(
    st.one_of(
        st.sampled_from(
            text("supervisord.conf").splitlines() + text("crontab").splitlines() + text("Procfile").splitlines()
        ),
        st.text(max_size=30),
        st.builds(
            "{}={}".format, st.sampled_from(["command", "environment", "numprocs", "SHELL"]), st.text(max_size=20)
        ),
    ),
    max_size=12,
).map("\n".join)
_scalar = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just("daemon"))
_records = st.dictionaries(
    st.sampled_from(["name", "cmd", "type", "replica", "interval", "deps", "cron", "data", "tasks"]),
    st.one_of(_scalar, st.lists(_scalar, max_size=3)),
)
_documents = st.one_of(_records, st.lists(st.one_of(_records, _scalar)), st.dictionaries(st.text(max_size=3), _records))


@pytest.mark.parametrize("kind", READERS)
@given(found=st.one_of(st.text(), _lines, _documents.map(json.dumps)))
@example("\0")
@example("[program:x]\n[include]\nfiles=%")
def test_any_text_is_jobs_that_keep_the_rules_or_an_explanation(kind: str, found: str) -> None:
    try:
        report = READERS[kind](found)
    except InvalidInput as error:
        assert error.detail
        return
    for item in report.entries:
        assert (item.error is None) == bool(item.jobs), item
        for spec in item.jobs:
            assert check_spec(spec) is spec
            assert build_spec(plain(spec)) == spec


# The command ------------------------------------------------------------------------------------------------------

FILES = {
    "meproc": ["meproc-proc.json"],
    "supervisord": ["supervisord.conf"],
    "crontab": ["crontab", "--timezone", "Europe/Berlin"],
    "procfile": ["Procfile", "--concurrency", "web=2"],
}


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setenv("RUNYARD_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("APP_HOME", "/srv")

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(["import", *arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return call


Call = Callable[..., tuple[int, str, str]]


def arguments(kind: str) -> list[str]:
    file, *options = FILES[kind]
    return [kind, str(DATA / file), *options]


@pytest.mark.parametrize("kind", FILES)
def test_a_dry_run_prints_jobs_files_that_hold_the_same_jobs(call: Call, kind: str, tmp_path: Path) -> None:
    code, out, err = call(*arguments(kind), "--dry-run")
    assert code == 0 and " -> " in err and "not imported" in err and "jobs from" in err
    jobs = [build_spec(entry) for entry in tomllib.loads(out)["jobs"]]
    assert len(jobs) >= 4 and {spec.labels["imported-from"] for spec in jobs} == {kind}
    code, out, _ = call(*arguments(kind), "--dry-run", "-o", "json")
    assert code == 0 and [build_spec(entry) for entry in json.loads(out)["jobs"]] == jobs
    for suffix in ("toml", "json", "ndjson"):
        target = tmp_path / f"jobs.{suffix}"
        code, out, err = call(*arguments(kind), "--output", str(target))
        assert (code, out) == (0, "") and str(target) in err
        assert [build_spec(entry) for entry in read_jobs(target)] == jobs
        # Environments may hold secrets.
        assert target.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", FILES)
def test_an_import_submits_what_it_reports(call: Call, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        monkeypatch.setenv("RUNYARD_URL", server.url)
        code, out, _ = call(*arguments(kind))
        assert code == 0 and out.split() == list(server.jobs)
        specs = [msgspec.convert(job["spec"], JobSpec) for job in server.jobs.values()]
        code, out, _ = call(*arguments(kind), "-o", "json")
        answer = json.loads(out)
        assert code == 0 and len(answer["jobs"]) == len(specs)
        report = msgspec.convert(answer["report"], Report)
        assert report.jobs == specs and any(entry.error for entry in report.entries)


def test_standard_input_is_a_file_too(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("0 0 * * * date\n"))
    code, out, _ = call("crontab", "-", "--timezone", "UTC", "--dry-run")
    assert code == 0 and tomllib.loads(out)["jobs"][0]["script"] == "date"


@pytest.mark.parametrize(
    ("line", "code", "parts"),
    [
        (["meproc", "/no/such.json"], 2, ["/no/such.json: cannot be read: No such file"]),
        (["meproc", "Procfile"], 2, ["Procfile: not valid JSON"]),
        (["supervisord", "Procfile"], 2, ["Procfile: not a supervisord configuration"]),
        (["crontab", "Procfile"], 2, ["nothing in it becomes a job", "not imported"]),
        (["procfile", "Procfile", "--concurrency", "web"], 2, ["--concurrency 'web' is not of the form NAME=N"]),
        (["crontab", "crontab", "--output", "json"], 2, ["--output json: the name must end in .toml"]),
        (["crontab", "crontab"], 3, ["no server answers"]),
    ],
)
def test_errors_of_imports_teach(
    call: Call, monkeypatch: pytest.MonkeyPatch, line: list[str], code: int, parts: list[str]
) -> None:
    monkeypatch.chdir(DATA)
    found, out, err = call(*line)
    assert (found, out) == (code, "")
    for part in parts:
        assert part in err


@pytest.mark.parametrize(("zone", "shown"), [("Asia/Tokyo", "Asia/Tokyo"), (":Europe/Paris", "Europe/Paris")])
def test_cron_counts_in_the_zone_of_this_host(
    call: Call, monkeypatch: pytest.MonkeyPatch, zone: str, shown: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    _, out, err = call("crontab", str(DATA / "crontab"), "--dry-run")
    assert f"times are meant in {shown}" in err
    assert tomllib.loads(out)["jobs"][0]["schedule"]["timezone"] == shown


def test_a_file_cannot_steer_the_terminal(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "Procfile"
    file.write_text("web: run\n\x1b[31mred\n")
    (tmp_path / ".env").write_text("\x1b[2J\n")
    _, _, err = call("procfile", str(file), "--dry-run")
    assert "\x1b" not in err


def test_the_importers_need_no_server_and_no_settings() -> None:
    code = (
        "import sys; from runyard.importers import crontab, meproc, procfile, supervisord;"
        "ours = [name.split('.')[1] for name in sys.modules if name.startswith('runyard.')];"
        "print(sorted(set(ours) - {'importers', 'model'}))"
    )
    source = Path(__file__).parents[2] / "src"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
