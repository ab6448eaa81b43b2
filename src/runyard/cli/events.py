"""`events`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from runyard.cli import exits
from runyard.cli.columns import EVENT
from runyard.cli.options import connect
from runyard.cli.output import echo, echo_line, output_option, show

if TYPE_CHECKING:
    from runyard.client import EventDoc


@click.command()
@click.argument("job", required=False)
@click.option("-f", "--follow", is_flag=True, help="Show events as they happen, until Ctrl-C.")
@click.option("--after", metavar="SEQ", help="Only events after this number; with -f, the default is: from now on.")
@click.option("-t", "--type", "types", multiple=True, metavar="TYPE", help="Only this type, such as run.exited.")
@click.option("-s", "--state", multiple=True, help="Only events that leave the job in this state.")
@click.option("-n", "--limit", type=click.IntRange(1), metavar="N", help="At most N.")
@output_option
def events(
    job: str | None,
    follow: bool,
    after: str | None,
    types: tuple[str, ...],
    state: tuple[str, ...],
    limit: int | None,
    form: str,
) -> int:
    """Show what happened, of one job or of all; with -f what happens."""
    if after is not None and after != "latest" and not after.isdigit():
        raise click.BadParameter(f"{after!r} is neither a number nor `latest`", param_hint="--after")
    with connect() as client:
        found = client.events(
            follow=follow, after=after, job=job, types=types or None, state=state or None, limit=limit
        )
        if not follow or form == "jsonl":
            echo(found, EVENT, form)
        elif form == "json":
            raise click.UsageError("-f never ends, so there is no JSON array; use -o jsonl")
        else:
            for event in found:
                echo_line(_line(event))
    return exits.OK


def _line(event: EventDoc) -> str:
    """One event of an endless list: columns of fixed width, because the widest is never known."""
    seq, time, kind, subject, state, data = (show(column.value(event)) for column in EVENT)
    return f"{seq:>8}  {time}  {kind:<14}  {subject:<24}  {state:<10}  {'' if data == '-' else data}".rstrip()
