"""`ps`, `show`, `why` and `wait`."""

from __future__ import annotations

from itertools import islice

import click

from runyard.cli import exits
from runyard.cli.columns import EXPLANATION, JOB, JOB_FIELDS, RUN
from runyard.cli.options import Duration, Pair, Since, connect, read_refs
from runyard.cli.output import Progress, console, echo, echo_record, output_option, table

_LIVE = ("pending", "starting", "running", "stopping")
_STATES = (*_LIVE, "succeeded", "failed", "cancelled", "timed_out")


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Ended jobs as well.")
@click.option("-s", "--state", multiple=True, type=click.Choice(_STATES), help="Only jobs in this state.")
@click.option("--kind", help="Only this kind, such as batch, service, cron.")
@click.option("--origin", metavar="DOOR", help="Only jobs that came in by this front door.")
@click.option("--owner", help="Only jobs of this owner.")
@click.option("--name", help="Only jobs of this name.")
@click.option("-l", "--label", multiple=True, type=Pair(), help="Only jobs with this label.")
@click.option("-q", "--search", metavar="TEXT", help="Only jobs with this in name or command.")
@click.option("--since", type=Since(), help="Only jobs submitted since then, such as 2h or 2026-11-21T08:00.")
@click.option("-n", "--limit", type=click.IntRange(1), default=1000, show_default=True, metavar="N", help="At most N.")
@output_option
def ps(
    everything: bool,
    state: tuple[str, ...],
    kind: str | None,
    origin: str | None,
    owner: str | None,
    name: str | None,
    label: tuple[tuple[str, str], ...],
    search: str | None,
    since: float | str | None,
    limit: int,
    form: str,
) -> int:
    """List jobs, newest first; live ones unless told otherwise."""
    states = state or (None if everything else _LIVE)
    with connect() as client:
        found = client.jobs(
            state=states,
            kind=kind,
            origin=origin,
            owner=owner,
            name=name,
            label=dict(label),
            q=search,
            since=since,
            limit=limit + 1,
        )
        echo(islice(found, limit), JOB, form)
        if next(found, None) is not None:
            click.echo(f"there are more than {limit} jobs; use -n, or narrow it down", err=True)
    return exits.OK


@click.command()
@click.argument("job")
@output_option
def show(job: str, form: str) -> int:
    """Show one job in full."""
    with connect() as client:
        doc = client.job(job)
        echo_record(doc, JOB_FIELDS, form)
        if form == "table" and doc.runs:
            screen = console()
            screen.print()
            screen.print(table(doc.runs, RUN))
    return exits.OK


@click.command()
@click.argument("job")
@output_option
def why(job: str, form: str) -> int:
    """Say why a job is where it is.

    Shows what it waits for, who holds that, and when it is likely to start.
    """
    with connect() as client:
        echo_record(client.why(job), EXPLANATION, form)
    return exits.OK


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB…")
@click.option("--timeout", type=Duration(), help="Give up after so long, with exit code 124.")
@output_option
def wait(jobs: tuple[str, ...], timeout: float | None, form: str) -> int:
    """Wait until jobs have ended.

    `-` reads them from standard input.

    The exit code is 0 if all have succeeded, 1 if not, and 124 if the time is up.
    """
    refs = read_refs(jobs)
    ended = []
    with connect() as client, Progress("waiting", len(refs)) as progress:
        for doc in client.wait_many(refs, timeout):
            ended.append(doc)
            progress.update(len(ended))
    echo(ended, JOB, form)
    return exits.OK if all(doc.state == "succeeded" for doc in ended) else exits.FAILED
