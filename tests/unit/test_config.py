"""Precedence, origins, and errors that teach."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard.config import KEYS, get, load_config, parse
from runyard.model.errors import ConfigError
from runyard.settings import Config


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without any configuration, the current one and the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("RUNYARD_CONFIG", "RUNYARD_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_defaults(nowhere: Path) -> None:
    loaded = load_config(env={})
    config = loaded.config
    assert (config.server.host, config.server.port, config.server.max_body) == ("127.0.0.1", 7070, 8 * 1024 * 1024)
    assert config.data_dir == str(nowhere / "state" / "runyard")
    assert config.retention.finished_jobs_max_age == 30 * 86400
    assert config.scheduler.max_running == 4096
    assert not config.auth.enabled
    assert loaded.path is None
    assert set(loaded.origins) == set(KEYS)
    assert {origin.kind for origin in loaded.origins.values()} == {"default"}


def test_each_source_wins_over_the_one_before() -> None:
    text = '[server]\nport = 1\nhost = "file"\nmax_body = "2M"\nmax_streams = 5'
    env = {"RUNYARD_SERVER__PORT": "2", "RUNYARD_SERVER__HOST": "env", "RUNYARD_SERVER__MAX_BODY": "3M"}
    flags = {"server.port": 3, "server.host": "flag", "data_dir": None}
    config, origins = parse(text, path="/etc/c.toml", env=env, flags=flags)
    server = config.server
    assert (server.port, server.host, server.max_body, server.max_streams) == (3, "flag", 3 * 1024 * 1024, 5)
    assert [origins[f"server.{key}"].kind for key in ("port", "max_body", "max_streams", "allowed_hosts")] == [
        "flag",
        "environment",
        "file",
        "default",
    ]
    assert origins["server.port"].place == "--port"
    assert origins["server.max_body"].place == "RUNYARD_SERVER__MAX_BODY"
    assert origins["server.max_streams"].place == "/etc/c.toml"
    assert origins["data_dir"].kind == "default"


@pytest.mark.parametrize(
    ("name", "text", "key", "value"),
    [
        ("RUNYARD_SERVER__PORT", "8080", "server.port", 8080),
        ("RUNYARD_AUTH__ENABLED", "true", "auth.enabled", True),
        ("RUNYARD_AUTH__ENABLED", "0", "auth.enabled", False),
        ("RUNYARD_RETENTION__INTERVAL", "1m30s", "retention.interval", 90.0),
        ("RUNYARD_RETENTION__INTERVAL", "5", "retention.interval", 5.0),
        ("RUNYARD_SERVER__MAX_BODY", "1G", "server.max_body", 1 << 30),
        ("RUNYARD_SCHEDULER__GPUS", "0, 2", "scheduler.gpus", [0, 2]),
        ("RUNYARD_SCHEDULER__GPUS", "", "scheduler.gpus", []),
        ("RUNYARD_AGENT__PASS_ENV", "A,B", "agent.pass_env", ["A", "B"]),
        ("RUNYARD_STORE__URL", "postgresql://x", "store.url", "postgresql://x"),
        ("RUNYARD_DATA_DIR", "/data", "data_dir", "/data"),
    ],
)
def test_environment(name: str, text: str, key: str, value: object) -> None:
    config, origins = parse(env={name: text, "RUNYARD_URL": "x", "RUNYARD_TOKEN": "y", "OTHER__THING": "z"})
    assert get(config, key) == value
    assert origins[key].place == name


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[server]\nprot = 1", ["/etc/c.toml", "server.prot", "did you mean server.port?"]),
        ("[sever]\nport = 1", ["there is no setting sever", "did you mean server?"]),
        ("port = 1", ["did you mean server.port?"]),
        ("[agent]\nport = 1", ["there is no setting agent.port", "did you mean server.port?"]),
        ("[zzz]\n", ["the sections are agent, auth"]),
        ("server = 1", ["server is a section", "[server]"]),
        ('[server]\nport = "x"', ["/etc/c.toml: server.port = 'x'", "a whole number from 0 up to 65535"]),
        ("[server]\nport = 65536", ["server.port = 65536", "up to 65535"]),
        ("[server]\nport = true", ["server.port = True", "a whole number"]),
        ("[server]\nhost = 1", ["server.host = 1", "a text"]),
        ("[limits]\nmax_jobs = 0", ["limits.max_jobs = 0", "from 1"]),
        ("[auth]\nenabled = 1", ["auth.enabled = 1", "true or false"]),
        ('[retention]\ninterval = "soon"', ["retention.interval = 'soon'", '"1h30m"']),
        ("[retention]\ninterval = -1", ["retention.interval = -1", "not negative"]),
        ("[retention]\ninterval = inf", ["retention.interval = inf", "finite"]),
        ('[server]\nmax_body = "big"', ["server.max_body = 'big'", '"8M"']),
        ('[scheduler]\ngpus = [0, "a"]', ["scheduler.gpus", "a list, each a whole number"]),
        ("[scheduler]\ngpus = 1", ["scheduler.gpus = 1", "a list"]),
        ("[server]\nport = = 1", ["/etc/c.toml: not valid TOML", "line 2"]),
    ],
)
def test_errors_in_a_file_teach(text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, path="/etc/c.toml")
    for part in parts:
        assert part in caught.value.detail


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("RUNYARD_SERVER__PROT", "1", ["RUNYARD_SERVER__PROT", "did you mean server.port?"]),
        ("RUNYARD_SEVER__PORT", "1", ["RUNYARD_SEVER__PORT", "server.port"]),
        ("RUNYARD_SERVER__PORT", "x", ["RUNYARD_SERVER__PORT = 'x'", "a whole number"]),
        ("RUNYARD_AUTH__ENABLED", "maybe", ["RUNYARD_AUTH__ENABLED = 'maybe'", "true or false"]),
    ],
)
def test_errors_in_the_environment_teach(name: str, value: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(env={name: value})
    for part in parts:
        assert part in caught.value.detail


def test_an_unknown_flag_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"did you mean server\.port"):
        parse(flags={"server.prot": 1})


def test_the_file_is_searched_in_order(nowhere: Path) -> None:
    user = nowhere / "config" / "runyard" / "config.toml"
    user.parent.mkdir(parents=True)
    user.write_text("[server]\nport = 1")
    assert load_config(env={}).config.server.port == 1
    (nowhere / "runyard.toml").write_text("[server]\nport = 2")
    assert load_config(env={}).config.server.port == 2
    named = nowhere / "named.toml"
    named.write_text("[server]\nport = 3")
    assert load_config(env={"RUNYARD_CONFIG": str(named)}).config.server.port == 3
    flag = nowhere / "flag.toml"
    flag.write_text("[server]\nport = 4")
    loaded = load_config(flag, env={"RUNYARD_CONFIG": str(named)})
    assert loaded.config.server.port == 4
    assert loaded.path == str(flag)


def test_a_named_file_must_exist(nowhere: Path) -> None:
    with pytest.raises(ConfigError, match="--config names it"):
        load_config("absent.toml", env={})
    with pytest.raises(ConfigError, match="RUNYARD_CONFIG names it"):
        load_config(env={"RUNYARD_CONFIG": "absent.toml"})
    binary = nowhere / "binary.toml"
    binary.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(binary, env={})


def test_a_relative_data_dir_starts_where_it_was_written(nowhere: Path) -> None:
    place = nowhere / "etc" / "c.toml"
    place.parent.mkdir()
    place.write_text('data_dir = "data"')
    assert load_config(place, env={}).config.data_dir == str(nowhere / "etc" / "data")
    assert load_config(place, env={"RUNYARD_DATA_DIR": "data"}).config.data_dir == str(nowhere / "data")
    assert load_config(place, env={}, flags={"data_dir": "../x"}).config.data_dir == str(nowhere.parent / "x")


@given(st.text(max_size=60))
def test_any_text_is_a_configuration_or_a_config_error(text: str) -> None:
    try:
        config, _ = parse(text)
    except ConfigError:
        return
    assert isinstance(config, Config)


@given(st.sampled_from(sorted(KEYS)), st.text(alphabet=st.characters(exclude_characters="\0"), max_size=20))
def test_any_variable_is_a_value_or_a_config_error(key: str, value: str) -> None:
    name = "RUNYARD_" + key.upper().replace(".", "__")
    try:
        _, origins = parse(env={name: value})
    except ConfigError as error:
        assert error.detail.startswith(name)
        return
    assert origins[key].kind == "environment"
