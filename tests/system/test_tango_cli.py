"""`runyard project`, and the client's methods behind it."""

from __future__ import annotations

import json
from pathlib import Path

from runyard.client import Client
from tests.system.members import FakeMember, members
from tests.system.server import Server, ask_until

TOML = """
name = "cli"
project_type = "manual"

[[steps]]
container = "bms"
url = "{url}"

[[steps]]
container = "local"
job = {{ command = ["cat", "data.txt"], cwd = "." }}
"""


def test_a_project_from_the_command_line(server: Server, client: Client, tmp_path: Path) -> None:
    with members(FakeMember()) as (member,):
        file = tmp_path / "project.toml"
        file.write_text(TOML.format(url=member.url))
        (tmp_path / "data.txt").write_text("here\n")
        made = server.run("project", "create", str(file), "--set", "target=cloud", "-o", "json")
        assert made.returncode == 0, made.stderr
        (project,) = json.loads(made.stdout)
        assert (project["phase"], project["target"]) == ("ready", "cloud")
        ready = server.run("project", "members", "cli")
        assert "bms" in ready.stdout and "true" in ready.stdout
        assert client.start_project("cli").name == "cli"
        assert client.project_members("cli")[0].ready
        ask_until(lambda: client.project("cli"), lambda found: found.steps[0].phase in ("started", "running"))
        member.finish()
        assert server.run("project", "report", "cli", "bms", "success").returncode == 0
        advanced = server.run("project", "advance", "cli", "local")
        assert advanced.returncode == 0, advanced.stderr
        over = ask_until(lambda: client.project("cli"), lambda found: found.phase == "completed" and found.ended_at)
        assert b"".join(client.logs(str(over.steps[1].job))) == b"here\n"
        shown = server.run("project", "status", "cli").stdout
        assert "completed" in shown and member.url in shown
        assert "cli" in server.run("project", "list").stdout
        again = server.run("project", "start", "cli", "--fresh")
        assert again.returncode == 0, again.stderr
        assert server.run("project", "stop", "cli").returncode == 0
        ask_until(lambda: client.project("cli"), lambda found: found.phase == "stopped" and found.ended_at)
        assert server.run("project", "delete", "cli").returncode == 0
        assert "cli" not in [found.name for found in client.projects()]


def test_what_is_wrong_is_said(server: Server, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('{"name": "x", "steps": [{"container": "a", "comand": ["true"]}]}')
    refused = server.run("project", "create", str(bad))
    assert refused.returncode != 0 and "did you mean 'command'" in refused.stderr
    bad.write_text("{")
    assert "not valid JSON" in server.run("project", "create", str(bad)).stderr
    missing = server.run("project", "status", "nobody")
    assert missing.returncode != 0 and "no project 'nobody'" in missing.stderr
