"""`flow`: dataflows, checked, shown and run on this machine, without a server; and submitted to one."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from runyard.cli import exits
from runyard.cli.flowjobs import submit, watch
from runyard.cli.options import Duration, Pair
from runyard.cli.output import Column, console, echo, echo_line, echo_record, output_option, show, table

if TYPE_CHECKING:
    from runyard.flow.check import Checked
    from runyard.flow.document import FlowDocument
    from runyard.flow.problem import Problem
    from runyard.flow.runtime.runner import FlowRun
    from runyard.flow.unit_library import UnitInfo, UnitLibrary

F = TypeVar("F", bound=Callable[..., Any])
_STATISTICS_EVERY = 1.0
"""Seconds between two pictures of a running flow."""


@click.group()
def flow() -> None:
    """Check, show and run dataflows here; submit them to the server.

    A FILE is a flow document in TOML or JSON, or a bare graph (.dot, .gv); `-` is standard input.

    \b
      runyard flow check flow.toml
      runyard flow run flow.toml --arg model=small.onnx --stats
    """


flow.add_command(submit)
flow.add_command(watch)


def _sources(function: F) -> F:
    """The options that say where units come from."""
    directories = click.option(
        "--unit-dir", "--dir", "directories", multiple=True, metavar="DIR", help="Search units here first."
    )
    return directories(function)


def _arguments(function: F) -> F:
    given = click.option("--arg", "arguments", multiple=True, type=Pair(), help="An argument of the flow.")
    return given(function)


@flow.command()
@_sources
@_arguments
@output_option
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
def check(
    files: tuple[str, ...], directories: tuple[str, ...], arguments: tuple[tuple[str, str], ...], form: str
) -> int:
    """Say all that is wrong with flows; exit with 1 if anything is."""
    from runyard.flow.check import Checked
    from runyard.flow.describe import describe
    from runyard.flow.graph import Graph
    from runyard.flow.problem import BadFlow

    results = []
    for file in files:
        try:
            checked = _checked(_document(file), directories, arguments)
        except BadFlow as bad:
            checked = Checked(Graph(), bad.problems)
        results.append((file, checked))
    if form == "table":
        for file, checked in results:
            _report(file, checked)
    else:
        documents = [{"file": file, "graph": describe(checked)} for file, checked in results]
        echo(documents, (), form)
    return exits.FAILED if any(checked.problems for _, checked in results) else exits.OK


def _report(file: str, checked: Checked) -> None:
    _tell(checked.problems, "error", err=False)
    _tell(checked.warnings, "warning", err=False)
    if not checked.problems:
        echo_line(f"{show(file)}: ok, {len(checked.graph.nodes)} nodes, {len(checked.graph.edges)} edges")


def _tell(problems: Iterable[Problem], word: str, *, err: bool = True) -> None:
    """Problems as a compiler tells them: place, word, message; the line, with a caret."""
    for problem in problems:
        place = f"{problem.where}: " if problem.where else ""
        click.echo(show(f"{place}{word}: {problem.sentence}"), err=err)
        excerpt = problem.excerpt()
        if excerpt:
            click.echo("\n".join(f"  {line}" for line in excerpt.split("\n")), err=err)


@flow.command()
@_sources
@click.option("--flow", "file", metavar="FILE", help="The units of this flow's directories, too.")
@output_option
@click.argument("name", required=False)
def units(name: str | None, directories: tuple[str, ...], file: str | None, form: str) -> int:
    """List the units that flows can use, or show one with its ports and options."""
    from runyard.flow.unit_library import UnitLibrary
    from runyard.model.errors import NotFound

    document = _document(file) if file else None
    searched = [*directories, *(document.directories if document else ())]
    library = UnitLibrary.load(searched, builtin=not (document and document.skip_default))
    _tell(library.problems, "warning")
    if name is None:
        found = list(library)
        echo(found if form == "table" else map(_unit_document, found), _UNITS, form)
        return exits.OK
    if name not in library:
        near = library.nearest(name)
        raise NotFound(f"there is no unit {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    for info in library:
        if info.name == name:
            _show_unit(info, form)
    return exits.OK


def _show_unit(info: UnitInfo, form: str) -> None:
    if form != "table":
        echo_record(_unit_document(info), (), form)
        return
    echo_record(info, _UNIT, form)
    for title, ports in (("Inputs", info.inputs), ("Outputs", info.outputs)):
        if ports:
            echo_line(f"\n{title}")
            echo(ports, _PORTS, form)
    if info.options:
        echo_line("\nOptions")
        echo(info.options, _OPTIONS, form)


def _unit_document(info: UnitInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "device": info.device,
        "kind": str(info.kind),
        "stream": info.stream,
        "type": info.type,
        "group": info.group,
        "version": info.version,
        "description": info.description,
        "inputs": [{"name": port.name, "type": port.type, "device": port.device} for port in info.inputs],
        "outputs": [{"name": port.name, "type": port.type, "device": port.device} for port in info.outputs],
        "options": [
            {
                "name": option.name,
                "type": str(option.type),
                "default": option.default,
                "description": option.description,
                "required": option.required,
                "values": list(option.values),
            }
            for option in info.options
        ],
        "exception_visible": info.exception_visible,
        "max_batch_size": info.max_batch_size,
        "default_batch_size": info.default_batch_size,
        "file": str(info.file) if info.file else None,
    }


_UNITS = (
    Column("NAME", lambda info: info.name),
    Column("DEVICE", lambda info: info.device),
    Column("KIND", lambda info: info.kind),
    Column("TYPE", lambda info: info.type),
    Column("INPUTS", lambda info: [port.name for port in info.inputs] or None),
    Column("OUTPUTS", lambda info: [port.name for port in info.outputs] or None),
    Column("GROUP", lambda info: info.group),
)
_UNIT = (
    Column("Name", lambda info: info.name),
    Column("Description", lambda info: info.description),
    Column("Device", lambda info: info.device),
    Column("Kind", lambda info: f"{info.kind}, in order" if info.stream and info.kind != "stream" else info.kind),
    Column("Type", lambda info: info.type),
    Column("Group", lambda info: info.group),
    Column("Version", lambda info: info.version),
    Column("Sees errors", lambda info: info.exception_visible or None),
    Column("Batch at most", lambda info: info.max_batch_size),
    Column("Batch", lambda info: info.default_batch_size),
    Column("File", lambda info: info.file),
)
_PORTS = (
    Column("NAME", lambda port: port.name),
    Column("TYPE", lambda port: port.type or None),
    Column("DEVICE", lambda port: port.device),
)
_OPTIONS = (
    Column("NAME", lambda option: option.name),
    Column("TYPE", lambda option: option.type),
    Column("DEFAULT", lambda option: "(required)" if option.required else option.default or None),
    Column("VALUES", lambda option: list(option.values) or None),
    Column("MEANING", lambda option: option.description),
)


@flow.command()
@_sources
@_arguments
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(("table", "json", "dot", "mermaid")),
    default="table",
    show_default=True,
    help="How to print.",
)
@click.argument("file")
def graph(file: str, directories: tuple[str, ...], arguments: tuple[tuple[str, str], ...], form: str) -> int:
    """Show the graph of a flow: its nodes and edges, with what the graph hands down filled in.

    What is wrong with it goes to stderr, and the exit code is then 1.
    """
    from runyard.flow import describe

    checked = _checked(_document(file), directories, arguments)
    if form == "json":
        echo_record(describe.describe(checked), (), form)
    elif form == "dot":
        sys.stdout.write(describe.to_dot(checked.graph))
    elif form == "mermaid":
        sys.stdout.write(describe.to_mermaid(checked.graph))
    else:
        echo(checked.graph.nodes.values(), _NODES, form)
        echo_line("")
        echo(checked.graph.edges, _EDGES, form)
    _tell(checked.problems, "error")
    _tell(checked.warnings, "warning")
    return exits.FAILED if checked.problems else exits.OK


_NODES = (
    Column("NODE", lambda node: node.name),
    Column("UNIT", lambda node: node.unit or f"({node.type})"),
    Column("KIND", lambda node: node.info.kind if node.info else None),
    Column("INPUTS", lambda node: list(node.inputs) or None),
    Column("OUTPUTS", lambda node: list(node.outputs) or None),
    Column("BATCH", lambda node: node.batch_size if node.info else None, right=True),
    Column("QUEUE", lambda node: node.queue_size("") if node.info and node.inputs else None, right=True),
)
_EDGES = (
    Column("FROM", lambda edge: edge.source),
    Column("PORT", lambda edge: edge.source_port),
    Column("", lambda edge: "->"),
    Column("TO", lambda edge: edge.target),
    Column("PORT", lambda edge: edge.target_port),
)


@flow.command()
@_sources
@_arguments
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

    document = _document(file)
    _set_up_log(document.log_level)
    try:
        flow_run = load_flow(
            document,
            library=_library(document, directories),
            arguments=dict(arguments),
            trace=options["trace"],
            threads=options["threads"] or 0,
        )
    except BadFlow as bad:
        _tell(bad.problems, "error")
        return exits.FAILED
    return _run(flow_run, stats=options["stats"], until_idle=options["until_idle"], limit=options["time_limit"],
                grace=options["grace"])  # fmt: skip


def _run(flow_run: FlowRun, *, stats: bool, until_idle: bool, limit: float | None, grace: float) -> int:
    """Open, run and stop. A signal ends the wait, and units get their grace."""
    from runyard.flow.status import FlowError

    terminated = False

    def end(*_: object) -> None:
        nonlocal terminated
        terminated = True
        flow_run.scheduler.stop()

    before = signal.signal(signal.SIGTERM, end)
    picture = _Picture(flow_run) if stats else None
    interrupted = late = False
    try:
        flow_run.open()
        flow_run.start()
        click.echo(f"flow {show(flow_run.name or 'without a name')} is running; Ctrl-C stops it", err=True)
        if picture is not None:
            picture.start()
        late = not flow_run.run_until_idle(limit) if until_idle else flow_run.wait(limit) is None
        late = late and flow_run.result is None
    except FlowError as error:
        raise click.ClickException(error.status.wrap_errormsgs()) from None
    except KeyboardInterrupt:
        interrupted = True
    finally:
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
        return exits.INTERRUPTED
    if terminated:
        return exits.TERMINATED
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


def _document(file: str) -> FlowDocument:
    """The document of a file, or on standard input. Raises BadFlow, and InvalidInput if there is no such file."""
    from runyard.flow.document import MAX_BYTES, load_document, parse_document
    from runyard.model.errors import InvalidInput

    try:
        if file == "-":
            return parse_document(sys.stdin.read(MAX_BYTES + 1), file="stdin")
        return load_document(Path(file).expanduser())
    except OSError as error:
        raise InvalidInput(f"{file}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file}: not UTF-8 text: {error.reason} at byte {error.start}") from None


def _library(document: FlowDocument, directories: Iterable[str]) -> UnitLibrary:
    from runyard.flow.unit_library import UnitLibrary

    return UnitLibrary.load([*directories, *document.directories], builtin=not document.skip_default)


def _checked(document: FlowDocument, directories: Iterable[str], arguments: Iterable[tuple[str, str]]) -> Checked:
    """The checked flow; what is wrong with unit files counts as a warning."""
    from dataclasses import replace

    from runyard.flow.check import check_flow

    library = _library(document, directories)
    checked = check_flow(document, library, dict(arguments))
    return replace(checked, warnings=(*checked.warnings, *library.problems))


def _set_up_log(level: str) -> None:
    import logging

    known = {"DEBUG", "INFO", "WARN", "WARNING", "ERROR", "FATAL"}
    wanted = level.upper() if level.upper() in known else "INFO"
    logging.basicConfig(stream=sys.stderr, level=wanted, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
