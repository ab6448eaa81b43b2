"""`modelbox.conf` in our words, flows as specifications, and folders of flows (spec/modelbox.md, 2)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from runyard.cli.flowjobs import Watcher, submit, watch
from runyard.client import Unreachable
from runyard.config import parse
from runyard.flowfiles import FlowFile, Known, plan, signature
from runyard.importers.modelbox import Conf, read_conf
from runyard.model.check import MAX_GRAPH, build_spec
from runyard.model.errors import ConfigError, InvalidInput
from runyard.model.flow import Flow, Format, format_of
from runyard.model.job import JobSpec
from tests.helpers import wait_until

ENV = {"MODELBOX_ROOT": "/opt/mb", "EMPTY": ""}


def read(text: str, files: dict[str, str] | None = None) -> Conf:
    def included(pattern: str) -> Iterable[tuple[str, str]]:
        return [(path, more) for path, more in sorted((files or {}).items()) if path.startswith(pattern.rstrip("*"))]

    return read_conf(text, "modelbox.conf", ENV, included)


def setting(text: str, key: str) -> Any:
    return read(text).settings.get(key)


def test_what_the_document_says_of_keys_that_are_not_there() -> None:
    conf = read("")
    assert conf.settings == {
        "doors.modelbox.host": "127.0.0.1",
        "doors.modelbox.port": 1104,
        "doors.modelbox.flow_path": "/usr/local/etc/modelbox/graph",
        "doors.modelbox.application_root": "",
        "doors.modelbox.allow": [],
        "doors.modelbox.enabled": True,
    }
    assert conf.notes == []
    assert conf.user is None


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ('server.ip = "127.0.0.2"', "doors.modelbox.host", "127.0.0.2"),
        ('server.port = "1105"', "doors.modelbox.port", 1105),
        ("server.port = 0", "doors.modelbox.port", 0),
        ('server.flow_path = "${MODELBOX_ROOT}/graph"', "doors.modelbox.flow_path", "/opt/mb/graph"),
        (r"server.flow_path = '/a\${MODELBOX_ROOT}'", "doors.modelbox.flow_path", "/a${MODELBOX_ROOT}"),
        ('server.flow_path = "${EMPTY}"', "doors.modelbox.flow_path", ""),
        ('server.application_root = "/opt/app"', "doors.modelbox.application_root", "/opt/app"),
        ('acl.allow = ["10.0.0.0/8", "${MODELBOX_ROOT}"]', "doors.modelbox.allow", ["10.0.0.0/8", "/opt/mb"]),
        ('plugin.files = ["/usr/local/lib/modelbox-plugin.so"]', "doors.modelbox.enabled", True),
        ('plugin.files = ["/usr/local/lib/modelbox-plugin-editor.so"]', "doors.modelbox.enabled", False),
        ('plugin.files = ["libmine.so"]', "doors.modelbox.enabled", False),
        ('log.level = "NOTICE"', "log.level", "info"),
        ('log.level = "off"', "log.level", "off"),
        ('log.path = "/var/log/mb.log"', "log.path", "/var/log/mb.log"),
        ('log = {path = "/x", screen = "true"}', "log.screen", True),
        ('log.size = "64MB"', "log.max_size", 64 << 20),
        ("log.num = 7", "log.keep", 7),
    ],
)
def test_keys_that_count(text: str, key: str, value: Any) -> None:
    conf = read(text)
    assert conf.settings[key] == value
    config, _ = parse(flags=conf.settings)
    assert config.doors.modelbox.port == conf.settings["doors.modelbox.port"]


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("server.init_timeout = 720", "init_timeout"),
        ("control.enable = true", "control.enable"),
        ('editor.enable = "true"', "editor"),
        ('plugin.files = ["modelbox-plugin.so", "a/b/mine.js"]', "mine.js is passed over"),
        ('plugin.files = ["other.so"]', "/v1/modelbox/job is not served"),
    ],
)
def test_what_has_no_effect_is_said(text: str, note: str) -> None:
    assert any(note in said for said in read(text).notes)


def test_keys_of_plugins_and_switches_that_are_off_are_passed_over() -> None:
    assert read('[mine]\nkey = 1\n[editor]\nenable = false\nip = "x"\n[server]\nnew = 1').notes == []


def test_the_user_is_for_the_caller_to_compare() -> None:
    assert read('server.user = "modelbox"').user == "modelbox"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("server.port = 70000", "server.port = 70000"),
        ('server.port = "http"', "a port"),
        ("server.port = true", "a port"),
        ("server.ip = 1", "a text"),
        ("server = 1", r"\[server\]"),
        ("[plugin]", "plugin.files"),
        ("plugin.files = []", "plugin.files"),
        ('plugin.files = "x.so"', "an array"),
        ("acl.allow = [1]", "acl.allow"),
        ('log.level = "LOUD"', "DEBUG INFO"),
        ('log.size = "big"', "log.size"),
        ("log.num = -1", "log.num"),
        ("editor.enable = 1", "editor.enable"),
        ('server.ip = "${NOT_SET}"', "NOT_SET"),
        ("include.files = 1", "include.files"),
        ("not toml", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        read(text)
    assert caught.value.detail.startswith("modelbox.conf: ")


def test_included_files_are_merged_and_their_plugins_added_up() -> None:
    files = {
        "conf.d/a.conf": '[server]\nport = 1\n[plugin]\nfiles = ["modelbox-plugin-editor.so", "x.so"]',
        "conf.d/b.conf": "[server]\nport = 2",
        "other/c.conf": "[server]\nport = 3",
    }
    text = (
        '[include]\nfiles = ["conf.d/*"]\n[server]\nport = 9\nip = "127.0.0.3"\n'
        '[plugin]\nfiles = ["modelbox-plugin.so", "x.so"]'
    )
    conf = read(text, files)
    assert conf.settings["doors.modelbox.port"] == 2
    assert conf.settings["doors.modelbox.host"] == "127.0.0.3"
    assert conf.settings["doors.modelbox.enabled"] is True
    assert len(conf.notes) == 1
    with pytest.raises(ConfigError, match=r"conf.d/a.conf: not valid TOML"):
        read('include.files = ["conf.d/*"]', {"conf.d/a.conf": "="})


# Folders ------------------------------------------------------------------------------------------------------------


def file(path: str, digest: str = "1") -> FlowFile:
    return FlowFile(path, path.rpartition("/")[2], digest, "[graph]", Format.TOML)


@pytest.mark.parametrize(
    ("files", "jobs", "revive", "end", "start"),
    [
        ([], [], True, [], []),
        ([file("/a")], [], True, [], ["/a"]),
        ([file("/a")], [Known("/a", "1", True)], True, [], []),
        ([file("/a", "2")], [Known("/a", "1", True)], True, ["/a"], ["/a"]),
        ([file("/a", "2")], [Known("/a", "1", False)], False, ["/a"], ["/a"]),
        ([file("/a")], [Known("/a", "1", False)], True, ["/a"], ["/a"]),
        ([file("/a")], [Known("/a", "1", False)], False, [], []),
        ([], [Known("/a", "1", True), Known("/b", "1", False)], True, ["/a", "/b"], []),
        ([file("/b"), file("/c")], [Known("/a", "1", True)], False, ["/a"], ["/b", "/c"]),
    ],
)
def test_jobs_follow_files(
    files: list[FlowFile], jobs: list[Known], revive: bool, end: list[str], start: list[str]
) -> None:
    todo = plan(files, jobs, revive=revive)
    assert (todo.end, [file.path for file in todo.start]) == (end, start)


@pytest.mark.parametrize(
    ("unread", "end"),
    [
        ([], ["/x/a", "/x/b"]),
        (["/x/a"], ["/x/b"]),
        (["/x"], []),
        (["/"], []),
        (["/x/"], []),
        (["/xx", "/x/ab"], ["/x/a", "/x/b"]),
    ],
)
def test_what_can_not_be_read_is_not_gone(unread: list[str], end: list[str]) -> None:
    jobs = [Known("/x/a", "1", True), Known("/x/b", "1", True)]
    assert plan([], jobs, revive=True, unread=unread).end == end


class FakeClient:
    """Takes all flows, and keeps what was asked for."""

    def __init__(self) -> None:
        self.submitted: list[str] = []
        self.ended: list[str] = []

    def jobs(self, **_: Any) -> list[Any]:
        return []

    def submit_flow(self, spec: dict[str, Any]) -> Any:
        self.submitted.append(spec["name"])
        return SimpleNamespace(id=spec["name"])

    def cancel(self, job: str) -> None:
        self.ended.append(job)

    wait = cancel

    def flow_status(self, _: str) -> Any:
        """Of a flow that has crashed."""
        return SimpleNamespace(state="failed", flow_state="running", error="ended by SIGKILL")


def test_a_flow_that_crashes_while_it_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "one.toml"
    file.write_text("[graph]")
    client = FakeClient()
    monkeypatch.setattr("runyard.cli.flowjobs.connect", lambda: nullcontext(client))
    done = CliRunner().invoke(submit, [str(file), "--wait"], standalone_mode=False)
    assert (done.return_value, done.stdout, done.stderr) == (1, "one\n", "error: ended by SIGKILL\n")


def test_the_flows_of_a_folder_that_is_away_go_on(tmp_path: Path) -> None:
    folder, away = tmp_path / "flows", tmp_path / "away"
    folder.mkdir()
    (folder / "one").write_text("[graph]")
    (folder / "loop").symlink_to("loop")
    client = FakeClient()
    watcher = Watcher(client, str(folder))  # type: ignore[arg-type]
    watcher.look()
    folder.rename(away)
    watcher.look()
    away.rename(folder)
    watcher.look()
    assert (client.submitted, client.ended) == (["one"], [])
    (folder / "one").unlink()
    watcher.look()
    assert set(client.ended) == {"one"}


class LostClient(FakeClient):
    """Its server goes away with the first submission, and it ends the command with the second."""

    def submit_flow(self, spec: dict[str, Any]) -> Any:
        super().submit_flow(spec)
        if len(self.submitted) == 1:
            raise Unreachable("no server answers")
        os.kill(os.getpid(), signal.SIGTERM)
        return SimpleNamespace(id="1")


def test_a_folder_is_watched_on_when_the_server_was_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").write_text("[graph]")
    client = LostClient()
    monkeypatch.setattr("runyard.cli.flowjobs.connect", lambda: nullcontext(client))
    before = signal.getsignal(signal.SIGTERM)
    try:
        done = CliRunner().invoke(watch, [str(tmp_path), "--interval", "0.05"], standalone_mode=False)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (done.return_value, done.stderr) == (0, "no server answers; trying again\n")
    assert client.submitted == ["one", "one"]


def test_a_file_as_old_and_as_large_is_another_one(tmp_path: Path) -> None:
    file = tmp_path / "one"
    file.write_text("1")
    before, times = signature(str(tmp_path)), (file.stat().st_atime_ns, file.stat().st_mtime_ns)

    def differs() -> bool:
        file.write_text("2")
        os.utime(file, ns=times)
        return signature(str(tmp_path)) != before

    wait_until(differs, 60, "a later time of change")


@pytest.mark.parametrize(
    ("text", "path", "form"),
    [
        ("{}", None, "json"),
        (" \n {", None, "json"),
        ("[graph]", None, "toml"),
        ("", None, "toml"),
        ("{}", "/x/a.toml", "toml"),
        ("[graph]", "a.JSON", "json"),
        ("{", "graph.conf", "json"),
        ("x", "toml", "toml"),
    ],
)
def test_the_language_of_a_document(text: str, path: str | None, form: str) -> None:
    assert format_of(text, path) is Format(form)


# Specifications -----------------------------------------------------------------------------------------------------


def test_a_flow_is_a_job() -> None:
    spec = build_spec({"name": "x", "flow": {"graph": "[graph]", "arguments": {"a": "1"}, "unit_dirs": ["/u"]}})
    assert spec.kind == "flow"
    assert spec.flow == Flow(graph="[graph]", arguments={"a": "1"}, unit_dirs=["/u"])
    assert msgspec.json.decode(msgspec.json.encode(spec), type=JobSpec) == spec


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"flow": {"graph": "x"}, "command": ["true"]}, "command"),
        ({"flow": {"graph": "x"}, "script": "true"}, "command"),
        ({"flow": {}}, "flow"),
        ({"flow": {"graph": "x", "path": "/x"}}, "flow"),
        ({"flow": {"graph": " \n"}}, "flow.graph"),
        ({"flow": {"graph": "a\0b"}}, "flow.graph"),
        ({"flow": {"graph": "x" * (MAX_GRAPH + 1)}}, "flow.graph"),
        ({"flow": {"path": "x.toml"}}, "flow.path"),
        ({"flow": {"graph": "x", "format": "yaml"}}, "flow.format"),
        ({"flow": {"graph": "x", "unit_dirs": ["units"]}}, "flow.unit_dirs[0]"),
        ({"flow": {"graph": "x", "unit_dirs": ["/u"] * 65}}, "flow.unit_dirs"),
        ({"flow": {"graph": "x", "arguments": {"": "1"}}}, "flow.arguments"),
        ({"flow": {"graph": "x", "trace": "t.json"}}, "flow.trace"),
        ({"flow": {"graph": "x", "graf": 1}}, "flow.graf"),
        ({"flow": {"graph": "x"}, "user": "root"}, "user"),
        ({"flow": {"graph": "x"}, "executor": "python"}, "executor"),
        ({"flow": {"graph": "x"}, "replicas": 2}, "replicas"),
        ({"flow": {"graph": "x"}, "resources": {"tasks": 2}}, "resources.tasks"),
    ],
)
def test_flows_that_are_refused(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        build_spec(spec)
    assert caught.value.fields["errors"][0]["field"] == field
