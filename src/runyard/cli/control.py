"""Commands that change jobs: `stop`, `restart`, `signal`, `hold`, `release`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from runyard.cli import exits
from runyard.cli.columns import JOB
from runyard.cli.options import connect, read_refs
from runyard.cli.output import echo, output_option

if TYPE_CHECKING:
    from runyard.client import Client
    from runyard.model.job import JobDoc

_jobs = click.argument("jobs", nargs=-1, required=True, metavar="JOB…")


def _each(refs: tuple[str, ...], form: str, act: Callable[[Client, str], JobDoc]) -> int:
    """Do it to every job; one that can't be done does not keep the others from it. The first failure's code is kept."""
    from runyard.model.errors import RunyardError

    code = exits.OK
    changed = []
    with connect() as client:
        for ref in read_refs(refs):
            try:
                changed.append(act(client, ref))
            except RunyardError as error:
                if error.code == "unreachable":
                    raise
                click.echo(f"error: {ref}: {error.detail}", err=True)
                code = code or exits.BY_ERROR.get(error.code, exits.FAILED)
    if changed:
        echo(changed, JOB, form)
    return code


@click.command()
@_jobs
@click.option("--wait", "patient", is_flag=True, help="Wait until they have ended.")
@output_option
def stop(jobs: tuple[str, ...], patient: bool, form: str) -> int:
    """Stop jobs.

    They get their stop signal, and SIGKILL after their grace time. `-` reads jobs from standard input.
    """
    return _each(jobs, form, lambda client, ref: client.wait(client.cancel(ref).id) if patient else client.cancel(ref))


@click.command()
@_jobs
@output_option
def restart(jobs: tuple[str, ...], form: str) -> int:
    """Start jobs again, whether they run or have ended."""
    return _each(jobs, form, lambda client, ref: client.restart(ref))


@click.command()
@click.argument("name", metavar="SIGNAL")
@_jobs
@output_option
def signal(name: str, jobs: tuple[str, ...], form: str) -> int:
    """Send a signal to the processes of jobs.

    SIGNAL is a name, such as USR1 or SIGHUP, or a number.
    """
    return _each(jobs, form, lambda client, ref: client.signal(ref, name))


@click.command()
@_jobs
@output_option
def hold(jobs: tuple[str, ...], form: str) -> int:
    """Keep pending jobs from starting."""
    return _each(jobs, form, lambda client, ref: client.amend(ref, hold=True))


@click.command()
@_jobs
@output_option
def release(jobs: tuple[str, ...], form: str) -> int:
    """Let held jobs start."""
    return _each(jobs, form, lambda client, ref: client.amend(ref, hold=False))
