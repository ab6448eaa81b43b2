"""`nodes`, `top` and `schedule`."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from runyard.cli import exits
from runyard.cli.columns import JOB, NODE, SCHEDULE
from runyard.cli.options import Duration, connect
from runyard.cli.output import Column, console, echo, output_option, table

if TYPE_CHECKING:
    from runyard.client import Client


@click.command()
@output_option
def nodes(form: str) -> int:
    """List the machines on which runs happen."""
    with connect() as client:
        echo(client.nodes(), NODE, form)
    return exits.OK


@click.command()
@click.option("--interval", type=Duration(), default="2s", show_default=True, help="Between two looks.")
@click.option("--once", is_flag=True, help="Print one picture and end; so does a pipe.")
def top(interval: float, once: bool) -> int:
    """Watch nodes and jobs until Ctrl-C."""
    with connect() as client:
        screen = console()
        if once or not sys.stdout.isatty():
            screen.print(_picture(client, 1000))
            return exits.OK

        import time

        from rich.live import Live

        try:
            with Live(_picture(client, screen.height), console=screen, screen=True, auto_refresh=False) as live:
                while True:
                    time.sleep(max(interval, 0.1))
                    live.update(_picture(client, screen.height), refresh=True)
        except KeyboardInterrupt:
            return exits.OK


def _picture(client: Client, height: int) -> Any:
    from rich.console import Group

    machines = client.nodes()
    rows = max(1, height - len(machines) - 4)
    jobs = list(client.jobs(state=("running", "starting", "stopping"), limit=rows))
    if len(jobs) < rows:
        jobs += client.jobs(state="pending", limit=rows - len(jobs))
    title = f"{client.url}  {datetime.now().astimezone():%H:%M:%S}"
    return Group(title, table(machines, NODE), "", table(jobs, JOB))


@click.group()
def schedule() -> None:
    """Try and list schedules."""


@schedule.command()
@click.argument("expr")
@click.option("--timezone", default="UTC", show_default=True, metavar="ZONE", help="Such as Europe/Berlin.")
@click.option(
    "-n", "--count", type=click.IntRange(1), default=5, show_default=True, metavar="N", help="How many times."
)
@output_option
def preview(expr: str, timezone: str, count: int, form: str) -> int:
    """Say when a cron expression would fire next."""
    with connect() as client:
        times = client.preview(expr, timezone, count)
    # In the schedule's own zone, offset included: that is what is being tried.
    echo(times, (Column("FIRES AT", lambda time: _in_zone(time, timezone)),), form)
    return exits.OK


def _in_zone(time: datetime, timezone: str) -> str:
    from zoneinfo import ZoneInfo

    return time.astimezone(ZoneInfo(timezone)).strftime("%a %Y-%m-%d %H:%M:%S %z")


@schedule.command("list")
@output_option
def list_schedules(form: str) -> int:
    """List the schedules of live cron jobs."""
    with connect() as client:
        echo(client.schedules(), SCHEDULE, form)
    return exits.OK
