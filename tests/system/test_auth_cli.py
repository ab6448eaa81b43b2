"""`runyard user` and `runyard token`, and what the command line says where it may not do something."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runyard.cli import exits
from runyard.cli.app import run
from tests.system.server import Server

Json = dict[str, object]
Command = Callable[..., str]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in this process, on a data folder of its own; gives what it prints, or what it complains."""
    monkeypatch.setenv("RUNYARD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("RUNYARD_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)

    def act(*arguments: str, stdin: str = "", code: int = exits.OK) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        found = run(arguments)
        output = capsys.readouterr()
        assert found == code, output.err
        return output.out if code == exits.OK else output.err

    return act


def test_nothing_heavy_is_loaded_before_it_is_needed() -> None:
    """Every start of the server, and every command, would pay for it."""
    heavy = "{'jwt', 'pwdlib', 'argon2', 'cryptography', 'alembic'} & set(sys.modules)"
    code = (
        f"import sys, runyard.api.server, runyard.cli.user, runyard.cli.token; sys.exit(str({heavy}) if {heavy} else 0)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stderr) == (0, "")


def listed(text: str) -> dict[str, Json]:
    return {record.get("name") or record["id"]: record for record in json.loads(text)}


def test_accounts_from_the_first_to_the_last(command: Command) -> None:
    made = json.loads(command("user", "add", "ann", "--password-stdin", "-o", "json", stdin="sesame-open\n"))
    assert made | {"created_at": ""} == {
        "name": "ann",
        "role": "user",
        "disabled": False,
        "password": True,
        "os_user": None,
        "created_at": "",
    }
    shown = command("user", "add", "bob", "--role", "admin", "--no-password", "--os-user", "nobody")
    assert "admin" in shown and "nobody" in shown
    assert command("user", "passwd", "ann", "--password-stdin", stdin="another-one") == ""
    command("user", "role", "ann", "viewer")
    command("user", "disable", "ann")
    found = listed(command("user", "list", "-o", "json"))
    assert (found["ann"]["role"], found["ann"]["disabled"], found["bob"]["password"]) == ("viewer", True, False)
    command("user", "enable", "ann")
    table = command("user", "list").splitlines()
    assert table[0].split() == ["NAME", "ROLE", "STATE", "PASSWORD", "OS", "USER", "CREATED"]
    assert table[1].split()[:4] == ["ann", "viewer", "enabled", "yes"]
    command("user", "remove", "ann")
    assert list(listed(command("user", "list", "-o", "json"))) == ["bob"]
    assert "argon2" not in command("user", "list", "-o", "jsonl")


def test_tokens_are_shown_once(command: Command) -> None:
    command("user", "add", "ann", "--no-password")
    secret = command("token", "create", "ann").strip()
    assert secret.startswith("ryd_") and len(secret) > 40
    scopes = ("--scope", "read", "--scope", "admin")
    made = json.loads(
        command("token", "create", "ann", *scopes, "--expires", "never", "--label", "for ci", "-o", "json")
    )
    assert made["token"].startswith(f"ryd_{made['id']}_")
    assert (made["scopes"], made["expires_at"], made["label"]) == (["admin", "read"], None, "for ci")
    text = command("token", "list", "-o", "json")
    found = listed(text)
    assert len(found) == 2 and secret not in text and made["token"] not in text
    (usual,) = (record for record in found.values() if record["id"] != made["id"])
    assert usual["scopes"] == ["read", "write"] and usual["expires_at"]
    assert "never" in command("token", "list", "ann")
    command("token", "revoke", *found)
    assert command("token", "list", "-o", "json").split() == ["[]"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("user", "add", "a:b", "--no-password"), exits.USAGE, "can't be the name"),
        (("user", "add", "ann", "--password-stdin", "--no-password"), exits.USAGE, "exclude each other"),
        (("user", "add", "ann"), exits.USAGE, "use --password-stdin"),
        (("user", "add", "ann", "--role", "king"), exits.USAGE, "king"),
        (("user", "add", "ann", "--password-stdin"), exits.USAGE, "8 to 1024 characters"),
        (("user", "add", "bob", "--no-password"), exits.REFUSED, "runyard user passwd"),
        (("user", "disable", "nobody"), exits.NOT_FOUND, "runyard user list"),
        (("user", "role", "nobody", "admin"), exits.NOT_FOUND, "nobody"),
        (("user", "remove", "nobody"), exits.NOT_FOUND, "nobody"),
        (("token", "create", "nobody"), exits.NOT_FOUND, "nobody"),
        (("token", "create", "bob", "--expires", "soon"), exits.USAGE, "soon"),
        (("token", "create", "bob", "--expires", "0"), exits.USAGE, "more than nothing"),
        (("token", "create", "bob", "--scope", "all"), exits.USAGE, "all"),
        (("token", "list", "nobody"), exits.NOT_FOUND, "nobody"),
        (("token", "revoke", "0123456789"), exits.NOT_FOUND, "runyard token list"),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(
    command: Command, arguments: tuple[str, ...], code: int, says: str
) -> None:
    command("user", "add", "bob", "--no-password")
    before = command("user", "list", "-o", "json")
    assert says in command(*arguments, code=code)
    assert command("user", "list", "-o", "json") == before
    assert command("token", "list", "-o", "json").split() == ["[]"]


def test_the_command_line_comes_in_by_token_or_password(
    server: Server, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a server whose accounts this same command line makes, beside it and while it runs."""
    monkeypatch.setenv("RUNYARD_URL", server.url)
    command("user", "add", "ann", "--password-stdin", "--data-dir", str(server.data), stdin="sesame-open\n")
    secret = command("token", "create", "ann", "--data-dir", str(server.data)).strip()
    job = command("--token", secret, "submit", "--hold", "--", "true").strip()
    monkeypatch.setenv("RUNYARD_TOKEN", "ann:sesame-open")
    (shown,) = json.loads(command("ps", "-o", "json"))
    assert (shown["id"], shown["owner"]) == (job, "ann")
    assert "no admin" not in command("events")
    monkeypatch.setenv("RUNYARD_TOKEN", "ryd_wrong")
    assert "not known here" in command("ps", code=exits.REFUSED)
    monkeypatch.delenv("RUNYARD_TOKEN")
    assert "credentials are needed" in command("ps", code=exits.REFUSED)
    command("--token", secret, "stop", job)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> object:
    server = Server(tmp_path_factory.mktemp("server"), env={"RUNYARD_AUTH__ENABLED": "true"})
    try:
        yield server.start()
    finally:
        server.close()
