"""`flow`: dataflows, checked, shown and run on this machine, without a server; and submitted to one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from runyard.cli import exits
from runyard.cli.flowjobs import submit, watch
from runyard.cli.flowrun import run
from runyard.cli.flowsource import argument_option, check_document, read_document, tell, unit_dir_option
from runyard.cli.output import Column, echo, echo_line, echo_record, output_option, show

if TYPE_CHECKING:
    from runyard.flow.check import Checked
    from runyard.flow.graph import Node, Structure
    from runyard.flow.unit_library import UnitInfo


@click.group()
def flow() -> None:
    """Check, show, run and submit dataflows.

    A FILE is a flow document in TOML or JSON, or a bare graph (.dot, .gv); `-` is standard input.

    \b
      runyard flow check flow.toml
      runyard flow run flow.toml --arg model=small.onnx --stats
    """


flow.add_command(submit)
flow.add_command(watch)
flow.add_command(run)


@flow.command()
@unit_dir_option
@argument_option
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
            checked = check_document(read_document(file), directories, arguments)
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
    tell(checked.problems, "error", err=False)
    tell(checked.warnings, "warning", err=False)
    if not checked.problems:
        echo_line(f"{show(file)}: ok, {len(checked.graph.nodes)} nodes, {len(checked.graph.edges)} edges")


@flow.command()
@unit_dir_option
@click.option("--flow", "file", metavar="FILE", help="The units of this flow's directories, too.")
@output_option
@click.argument("name", required=False)
def units(name: str | None, directories: tuple[str, ...], file: str | None, form: str) -> int:
    """List the units that flows can use, or show one with its ports and options."""
    from runyard.flow.unit_library import UnitLibrary
    from runyard.model.errors import NotFound

    document = read_document(file) if file else None
    searched = [*directories, *(document.directories if document else ())]
    library = UnitLibrary.load(searched, builtin=not (document and document.skip_default))
    tell(library.problems, "warning")
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
@unit_dir_option
@argument_option
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

    checked = check_document(read_document(file), directories, arguments)
    if form == "json":
        echo_record(describe.describe(checked), (), form)
    elif form == "dot":
        sys.stdout.write(describe.to_dot(checked.graph))
    elif form == "mermaid":
        sys.stdout.write(describe.to_mermaid(checked.graph))
    else:
        structure = checked.graph.structure
        names = structure.order if structure else checked.graph.nodes
        rows = [(checked.graph.nodes[name], structure) for name in names]
        echo(rows, _NODES, form)
        echo_line("")
        echo(checked.graph.edges, _EDGES, form)
    tell(checked.problems, "error")
    tell(checked.warnings, "warning")
    return exits.FAILED if checked.problems else exits.OK


def _inside(row: tuple[Node, Structure | None]) -> list[str] | None:
    """What is open around a node, the outermost first."""
    node, structure = row
    if structure is None:
        return None
    levels = [level for level in structure.levels[node.name] if level.outer is not None]
    return [str(level) for level in reversed(levels)] or None


def _closes(row: tuple[Node, Structure | None]) -> list[str] | None:
    """What a node closes: an expand that it collapses, conditions whose branches it merges."""
    node, structure = row
    if structure is None:
        return None
    closed = [f"condition {name!r}" for (at, _), name in structure.merges.items() if at == node.name]
    if node.name in structure.collapses:
        closed.append(f"expand {structure.collapses[node.name]!r}")
    return closed or None


_NODES = (
    Column("NODE", lambda row: row[0].name),
    Column("UNIT", lambda row: row[0].unit or f"({row[0].type})"),
    Column("KIND", lambda row: row[0].info.kind if row[0].info else None),
    Column("INPUTS", lambda row: list(row[0].inputs) or None),
    Column("OUTPUTS", lambda row: list(row[0].outputs) or None),
    Column("BATCH", lambda row: row[0].batch_size if row[0].info else None, right=True),
    Column("QUEUE", lambda row: row[0].queue_size("") if row[0].info and row[0].inputs else None, right=True),
    Column("INSIDE", _inside),
    Column("CLOSES", _closes),
)
_EDGES = (
    Column("FROM", lambda edge: edge.source),
    Column("PORT", lambda edge: edge.source_port),
    Column("", lambda edge: "->"),
    Column("TO", lambda edge: edge.target),
    Column("PORT", lambda edge: edge.target_port),
)
