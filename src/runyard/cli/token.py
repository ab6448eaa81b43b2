"""`token`: secrets by which programs come in as an account."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from runyard.cli import exits
from runyard.cli.options import Duration
from runyard.cli.output import Column, echo, echo_line, echo_record, output_option
from runyard.cli.user import config_option, data_dir_option, open_accounts

if TYPE_CHECKING:
    from runyard.model.account import Token

SCOPES = ("read", "write", "admin")
NEVER = "never"


class _Lifetime(Duration):
    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return float("inf") if value == NEVER else super().convert(value, param, ctx)


def _record(token: Token) -> dict[str, Any]:
    """A token as it is printed: without its hash."""
    return {
        "id": token.id,
        "user": token.user,
        "label": token.label,
        "scopes": sorted(token.scopes),
        "created_at": datetime.fromtimestamp(token.created_at, UTC),
        "expires_at": None if token.expires_at is None else datetime.fromtimestamp(token.expires_at, UTC),
    }


_COLUMNS = (
    Column("ID", lambda token: token["id"]),
    Column("USER", lambda token: token["user"]),
    Column("LABEL", lambda token: token["label"]),
    Column("SCOPES", lambda token: token["scopes"]),
    Column("CREATED", lambda token: token["created_at"]),
    Column("EXPIRES", lambda token: token["expires_at"] or NEVER),
)


@click.group()
def token() -> None:
    """Look after the tokens by which programs come in.

    A token belongs to an account, and is sent as `Authorization: Bearer TOKEN`. Works on the server's store, whether
    the server runs or not; a running one sees each change at once.
    """


@token.command("create")
@click.argument("user")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    help="What it may be used for; may be repeated.  [default: read and write]",
)
@click.option(
    "--expires", "lifetime", type=_Lifetime(), default="90d", show_default=True, help="After this time; or `never`."
)
@click.option("--label", default="", metavar="TEXT", help="What it is for.")
@data_dir_option
@config_option
@output_option
def create_token(
    user: str,
    scopes: tuple[str, ...],
    lifetime: float,
    label: str,
    data_dir: str | None,
    file: str | None,
    form: str,
) -> int:
    """Make a token of the account USER, and print it: this is the only time that it can be seen."""
    from runyard.model.account import Scope

    chosen = frozenset(Scope(scope) for scope in scopes or ("read", "write"))
    with open_accounts(file, data_dir) as accounts:
        made = accounts.create_token(user, time.time(), chosen, None if lifetime == float("inf") else lifetime, label)
    if form == "table":
        echo_line(made.secret)
    else:
        echo_record({"token": made.secret} | _record(made.token), (), form)
    return exits.OK


@token.command("list")
@click.argument("user", required=False)
@data_dir_option
@config_option
@output_option
def list_tokens(user: str | None, data_dir: str | None, file: str | None, form: str) -> int:
    """List the tokens of all accounts, or of one. The secrets are not kept."""
    with open_accounts(file, data_dir) as accounts:
        echo([_record(token) for token in accounts.tokens(user)], _COLUMNS, form)
    return exits.OK


@token.command("revoke")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@data_dir_option
@config_option
def revoke_token(ids: tuple[str, ...], data_dir: str | None, file: str | None) -> int:
    """Make tokens worthless, by their ids."""
    with open_accounts(file, data_dir) as accounts:
        for id in ids:
            accounts.revoke_token(id, time.time())
    return exits.OK
