"""`flow run`: a flow in this process, without a server."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from runyard.cli import exits
from runyard.cli.flowsource import argument_option, load_library, read_document, tell, unit_dir_option
from runyard.cli.options import Duration
from runyard.cli.output import Column, console, show, table

if TYPE_CHECKING:
    from runyard.flow.runtime.runner import FlowRun

_STATISTICS_EVERY = 1.0
"""Seconds between two pictures of a running flow."""


@click.command()
@unit_dir_option
@argument_option
@click.option("--stats", is_flag=True, help="Show what the nodes do, each second on a terminal and at the end.")
@click.option("--trace", metavar="FILE", default="", help="Write every call to FILE, in the format of Chrome's traces.")
@click.option("--until-idle", is_flag=True, help="End when no data are under way, instead of waiting for more.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Calls at the same time, at most.")
@click.option("--time-limit", type=Duration(), help="Stop it after so long; that counts as a failure.")
@click.option("--grace", type=Duration(), default=10.0, show_default="10s", help="For units to return when it stops.")
@click.argument("file")
def run(file: str, directories: tuple[str, ...], arguments: tuple[tuple[str, str], ...], **options: Any) -> int:
    """Run a flow here, without a server, until it ends or Ctrl-C stops it.

    What units print goes to stdout; the log goes to stderr.
    """
    from runyard.flow.problem import BadFlow
    from runyard.flow.runtime.runner import load_flow

    try:
        document = read_document(file)
        _set_up_log(document.log_level)
        flow_run = load_flow(
            document,
            library=load_library(document, directories),
            arguments=dict(arguments),
            trace=options["trace"],
            threads=options["threads"] or 0,
        )
    except BadFlow as bad:
        tell(bad.problems, "error")
        return exits.FAILED
    return _run(flow_run, stats=options["stats"], until_idle=options["until_idle"], limit=options["time_limit"],
                grace=options["grace"])  # fmt: skip


def _run(flow_run: FlowRun, *, stats: bool, until_idle: bool, limit: float | None, grace: float) -> int:
    """Open, run and stop. A signal ends the wait, and units get their grace."""
    from runyard.flow.status import FlowError

    terminated = False

    def end(*_: object) -> None:
        # Raised, as by Ctrl-C: whatever is under way, a unit's `open` too, is waited for no longer.
        nonlocal terminated
        if not terminated:
            terminated = True
            raise KeyboardInterrupt

    picture = _Picture(flow_run) if stats else None
    interrupted = late = False
    before = signal.signal(signal.SIGTERM, end)
    try:
        flow_run.open()
        flow_run.start()
        click.echo(f"flow {show(flow_run.name or 'without a name')} is running; Ctrl-C stops it", err=True)
        if picture is not None:
            picture.start()
        late = not flow_run.run_until_idle(limit) if until_idle else flow_run.wait(limit) is None
        late = late and flow_run.result is None
    except FlowError as error:
        click.echo(f"error: {show(error.status.wrap_errormsgs())}", err=True)
        return exits.FAILED
    except KeyboardInterrupt:
        interrupted = True
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        result = flow_run.result
        if picture is not None:
            picture.stop()
        flow_run.stop(grace)
        signal.signal(signal.SIGTERM, before)
    if picture is not None:
        picture.show()
    if late:
        click.echo(f"error: the flow has not ended within {limit:g} s", err=True)
        return exits.TIMED_OUT
    if interrupted:
        return exits.TERMINATED if terminated else exits.INTERRUPTED
    failed = result is not None and flow_run.failed
    if failed and result is not None:
        click.echo(f"error: {show(result.wrap_errormsgs())}", err=True)
    return exits.FAILED if failed else exits.OK


class _Picture:
    """The statistics of a running flow, on stderr: live on a terminal, and once at the end."""

    def __init__(self, flow_run: FlowRun) -> None:
        self._flow = flow_run
        self._screen = console(stderr=True)
        self._live: Any = None
        self._cancel: Callable[[], None] = lambda: None

    def start(self) -> None:
        if sys.stderr.isatty():
            from rich.live import Live

            self._live = Live(console=self._screen, auto_refresh=False, transient=True)
            self._live.start()
            self._cancel = self._flow.statistics.every(_STATISTICS_EVERY, self._update)

    def _update(self, snapshot: dict[str, Any]) -> None:
        self._live.update(_statistics_table(snapshot), refresh=True)

    def stop(self) -> None:
        self._cancel()
        if self._live is not None:
            self._live.stop()

    def show(self) -> None:
        snapshot = self._flow.statistics.snapshot()
        self._screen.print(_statistics_table(snapshot))


def _statistics_table(snapshot: dict[str, Any]) -> Any:
    return table(snapshot["nodes"].items(), _STATISTICS)


_STATISTICS = (
    Column("NODE", lambda row: row[0]),
    Column("UNIT", lambda row: row[1]["unit"] or None),
    Column("CALLS", lambda row: row[1]["calls"], right=True),
    Column("IN", lambda row: row[1]["buffers_in"], right=True),
    Column("OUT", lambda row: row[1]["buffers_out"], right=True),
    Column("ERRORS", lambda row: row[1]["errors"], right=True),
    Column("RATE/S", lambda row: row[1]["rate"], right=True),
    Column("BATCH", lambda row: row[1]["batch"], right=True),
    Column("BUSY", lambda row: f"{row[1]['busy']:.0%}", right=True),
    Column("P50 MS", lambda row: row[1]["latency_ms"].get("p50"), right=True),
    Column("P99 MS", lambda row: row[1]["latency_ms"].get("p99"), right=True),
)


def _set_up_log(level: str) -> None:
    import logging

    from runyard.flow.document import LOG_LEVELS

    wanted = LOG_LEVELS.get(level.upper(), logging.INFO)
    logging.basicConfig(stream=sys.stderr, level=wanted, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
