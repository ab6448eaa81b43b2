"""Commands for whoever keeps the server: `serve`, `agent`, `config`, `completion`, `version`."""

from __future__ import annotations

import gc
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runyard.cli import exits
from runyard.cli.options import connect
from runyard.cli.output import Column, echo, echo_line, echo_record, output_option

if TYPE_CHECKING:
    from runyard.config import Loaded

_config = click.option("--config", "file", metavar="FILE", help="The configuration file.  [RUNYARD_CONFIG]")
_data_dir = click.option("--data-dir", metavar="DIR", help="Where the server keeps everything.  [RUNYARD_DATA_DIR]")


@click.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), metavar="PORT", help="0 takes any.  [default: 7070]")
@_data_dir
@_config
@click.option("--jobs", multiple=True, metavar="FILE", help="Submit the jobs in this file, or these, when it is up.")
@click.option("--seed-ports", is_flag=True, help="Let each front door listen on its protocol's own port as well.")
@click.option("--modelbox-conf", metavar="FILE", help="Serve what this modelbox.conf says, where it says.")
def serve(
    host: str | None,
    port: int | None,
    data_dir: str | None,
    file: str | None,
    jobs: tuple[str, ...],
    seed_ports: bool,
    modelbox_conf: str | None,
) -> int:
    """Start the server, in the foreground.

    Jobs outlive it: they belong to the agent, and the next server finds them again.
    """
    from runyard.config import load_config

    conf = _modelbox_conf(modelbox_conf) if modelbox_conf is not None else {}
    loaded = load_config(file, flags=conf | {"server.host": host, "server.port": port, "data_dir": data_dir})

    from runyard.client.jobfile import read_jobs
    from runyard.model.check import build_spec

    specs = [build_spec(job) for file_of_jobs in jobs for job in read_jobs(file_of_jobs)]

    # To look for garbage among what is loaded here would take a tenth of the time that the start takes.
    gc.disable()
    try:
        from runyard.api.server import run
    finally:
        gc.enable()
    return run(loaded.config, specs, seed_ports)


def _modelbox_conf(file: str) -> dict[str, Any]:
    """The settings, by dotted key, that a `modelbox.conf` comes to; what has no effect is said on stderr."""
    import getpass
    import os
    from glob import glob

    from runyard.importers.modelbox import read_conf
    from runyard.model.errors import ConfigError

    def read(path: str) -> str:
        try:
            return Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from None

    folder = os.path.dirname(os.path.abspath(file))

    def included(pattern: str) -> list[tuple[str, str]]:
        return [(path, read(path)) for path in sorted(glob(os.path.join(folder, pattern)))]

    found = read_conf(read(file), file, os.environ, included)
    if found.user is not None and found.user != getpass.getuser():
        raise ConfigError(
            f"{file}: server.user = {found.user!r}: start the server as that user, for example by `runuser -u "
            f"{found.user} -- runyard serve …`; one that has started does not change it"
        )
    for note in found.notes:
        click.echo(f"{file}: {note}", err=True)
    return found.settings


@click.group()
def agent() -> None:
    """Look after this host's agent: the process that owns the jobs' processes."""


def _agent_folder(file: str | None, data_dir: str | None) -> Path:
    from runyard.config import load_config

    return Path(load_config(file, flags={"data_dir": data_dir}).config.data_dir) / "agent"


@agent.command()
@_data_dir
@_config
@output_option
def status(data_dir: str | None, file: str | None, form: str) -> int:
    """Say whether the agent is up and what it runs. Needs no server."""
    import msgspec

    from runyard.executors.local import agent_status

    found = agent_status(_agent_folder(file, data_dir))
    record = msgspec.to_builtins(found) | {"live": [str(run) for run in found.live]}
    echo_record(record, [Column(key.replace("_", " "), itemgetter(key)) for key in record], form)
    return exits.OK


@agent.command("stop")
@click.option("--kill", is_flag=True, help="End every run first; without it the agent refuses while runs are up.")
@_data_dir
@_config
def stop_agent(kill: bool, data_dir: str | None, file: str | None) -> int:
    """Stop the agent, and the worker that keeps the Python runs."""
    import asyncio

    from runyard.executors import local
    from runyard.model.errors import Conflict

    folder = _agent_folder(file, data_dir)
    try:
        was_up = [asyncio.run(local.stop_agent(place, kill)) for place in (folder.with_name("python"), folder)][-1]
    except Conflict as error:
        raise Conflict(f"{error.detail} (--kill does)") from None
    echo_line("stopped" if was_up else "no agent was running")
    return exits.OK


@click.group()
def config() -> None:
    """Show the configuration."""


@config.command("show")
@click.option("--origin", is_flag=True, help="Say where each value comes from: default, file, environment.")
@_config
@output_option
def show_config(origin: bool, file: str | None, form: str) -> int:
    """Show each effective value, as `runyard serve` would see it from here."""
    from runyard.config import load_config

    settings = _settings(load_config(file))
    shown = ("key", "value", "origin", "place") if origin else ("key", "value")
    columns = [Column(name.upper(), itemgetter(name)) for name in shown]
    echo([{name: setting[name] for name in shown} for setting in settings], columns, form)
    return exits.OK


def _settings(loaded: Loaded) -> list[dict[str, Any]]:
    from runyard.config import KEYS, get

    rows = []
    for key in KEYS:
        value, origin = get(loaded.config, key), loaded.origins[key]
        if key in ("store.url", "doors.k12ai.redis_url") and value:
            import re

            value = re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", value)
        elif key == "hooks":
            # What a hook holds besides may be secret as well: a receiver's address often is its password.
            value = [hook.name for hook in value]
        elif key == "services":
            value = list(value)
        elif key in ("doors.k12ai.key", "doors.k12ai.callback_secret") and value:
            value = "***"
        rows.append({"key": key, "value": value, "origin": origin.kind, "place": origin.place or None})
    return rows


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> int:
    """Print a shell's completion script.

    \b
      bash: eval "$(runyard completion bash)"         in ~/.bashrc
      zsh:  eval "$(runyard completion zsh)"          in ~/.zshrc
      fish: runyard completion fish > ~/.config/fish/completions/runyard.fish
    """
    from click.shell_completion import get_completion_class

    root = click.get_current_context().find_root().command
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(root, {}, "runyard", "_RUNYARD_COMPLETE").source())
    return exits.OK


@click.command()
@click.option("--client", "local", is_flag=True, help="Do not ask the server.")
@output_option
def version(local: bool, form: str) -> int:
    """Print the versions of client and server."""
    from runyard import __version__

    record = {"client": __version__}
    try:
        if not local:
            with connect() as client:
                answer = client.version()
            record |= {"server": answer.version, "api": answer.api}
    finally:
        # Without a server this much is known all the same.
        echo_record(record, [Column(key, itemgetter(key)) for key in record], form)
    return exits.OK
