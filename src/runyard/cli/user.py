"""`user`: the accounts of this host's server. Works on its store, whether the server runs or not."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from runyard.cli import exits
from runyard.cli.output import Column, echo, echo_record, output_option

if TYPE_CHECKING:
    from runyard.auth.accounts import Accounts
    from runyard.model.account import User

config_option = click.option("--config", "file", metavar="FILE", help="The configuration file.  [RUNYARD_CONFIG]")
data_dir_option = click.option(
    "--data-dir", metavar="DIR", help="Where the server keeps everything.  [RUNYARD_DATA_DIR]"
)
ROLES = ("viewer", "user", "admin")
_role = click.Choice(ROLES)
_password_stdin = click.option("--password-stdin", is_flag=True, help="Read the password's line from standard input.")


@contextmanager
def open_accounts(file: str | None, data_dir: str | None) -> Iterator[Accounts]:
    """The accounts that the configuration means."""
    import getpass
    from pathlib import Path

    from runyard.auth.accounts import Accounts
    from runyard.config import load_config
    from runyard.store.accounts import AccountStore

    config = load_config(file, flags={"data_dir": data_dir}).config
    folder = Path(config.data_dir)
    store = AccountStore.open(config.store.url or folder, folder)
    try:
        yield Accounts(store, getpass.getuser())
    finally:
        store.close()


def _record(user: User) -> dict[str, Any]:
    """An account as it is printed: without its hash."""
    from datetime import UTC, datetime

    return {
        "name": user.name,
        "role": str(user.role),
        "disabled": user.disabled,
        "password": user.password is not None,
        "os_user": user.os_user,
        "created_at": datetime.fromtimestamp(user.created_at, UTC),
    }


_COLUMNS = (
    Column("NAME", lambda user: user["name"]),
    Column("ROLE", lambda user: user["role"]),
    Column("STATE", lambda user: "disabled" if user["disabled"] else "enabled"),
    Column("PASSWORD", lambda user: "yes" if user["password"] else "no"),
    Column("OS USER", lambda user: user["os_user"]),
    Column("CREATED", lambda user: user["created_at"]),
)
_FIELDS = tuple(column._replace(title=column.title.lower()) for column in _COLUMNS)


def _read_password(stdin: bool) -> str:
    if stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask for the password: use --password-stdin")
    return str(click.prompt("Password", hide_input=True, confirmation_prompt="Once more", err=True))


@click.group()
def user() -> None:
    """Look after the accounts of this host's server.

    Works on the server's store, whether the server runs or not; a running one sees each change at once.
    """


@user.command("add")
@click.argument("name")
@click.option("--role", type=_role, default="user", show_default=True, help="What the account may do.")
@_password_stdin
@click.option("--no-password", is_flag=True, help="Only tokens open the account.")
@click.option("--os-user", metavar="USER", help="Account of this host that its jobs run as, with [auth] run_as.")
@data_dir_option
@config_option
@output_option
def add_user(
    name: str,
    role: str,
    password_stdin: bool,
    no_password: bool,
    os_user: str | None,
    data_dir: str | None,
    file: str | None,
    form: str,
) -> int:
    """Add an account. Asks for its password, unless told otherwise."""
    from runyard.model.account import Role, check_account_name

    if password_stdin and no_password:
        raise click.UsageError("--password-stdin and --no-password exclude each other")
    check_account_name(name)
    password = None if no_password else _read_password(password_stdin)
    with open_accounts(file, data_dir) as accounts:
        made = accounts.add_user(name, time.time(), Role(role), password, os_user)
    echo_record(_record(made), _FIELDS, form)
    return exits.OK


@user.command("list")
@data_dir_option
@config_option
@output_option
def list_users(data_dir: str | None, file: str | None, form: str) -> int:
    """List the accounts."""
    with open_accounts(file, data_dir) as accounts:
        echo([_record(user) for user in accounts.users()], _COLUMNS, form)
    return exits.OK


@user.command("passwd")
@click.argument("name")
@_password_stdin
@data_dir_option
@config_option
def set_password(name: str, password_stdin: bool, data_dir: str | None, file: str | None) -> int:
    """Give an account a new password. Ends its logins; its tokens stay."""
    with open_accounts(file, data_dir) as accounts:
        accounts.set_password(name, _read_password(password_stdin), time.time())
    return exits.OK


@user.command("role")
@click.argument("name")
@click.argument("role", type=_role)
@data_dir_option
@config_option
def set_role(name: str, role: str, data_dir: str | None, file: str | None) -> int:
    """Change what an account may do."""
    from runyard.model.account import Role

    with open_accounts(file, data_dir) as accounts:
        accounts.set_role(name, Role(role), time.time())
    return exits.OK


@user.command("disable")
@click.argument("name")
@data_dir_option
@config_option
def disable_user(name: str, data_dir: str | None, file: str | None) -> int:
    """Keep an account out. Its jobs go on."""
    with open_accounts(file, data_dir) as accounts:
        accounts.set_disabled(name, True, time.time())
    return exits.OK


@user.command("enable")
@click.argument("name")
@data_dir_option
@config_option
def enable_user(name: str, data_dir: str | None, file: str | None) -> int:
    """Let a disabled account in again."""
    with open_accounts(file, data_dir) as accounts:
        accounts.set_disabled(name, False, time.time())
    return exits.OK


@user.command("remove")
@click.argument("name")
@data_dir_option
@config_option
def remove_user(name: str, data_dir: str | None, file: str | None) -> int:
    """Remove an account and its tokens. Its jobs stay."""
    with open_accounts(file, data_dir) as accounts:
        accounts.remove_user(name, time.time())
    return exits.OK
