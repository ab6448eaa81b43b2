"""`project`: projects of several containers, and their steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runyard.cli import exits
from runyard.cli.options import Pair, connect
from runyard.cli.output import Column, echo, echo_record, elapsed, output_option, show_duration

if TYPE_CHECKING:
    from runyard.model.project import ProjectDoc

PROJECT = (
    Column("ID", lambda project: project.id),
    Column("NAME", lambda project: project.name),
    Column("USER", lambda project: project.user_id),
    Column("TYPE", lambda project: project.project_type),
    Column("STATUS", lambda project: project.phase),
    Column("STEP", lambda project: project.container),
    Column("TIME", lambda project: show_duration(elapsed(project.started_at, project.ended_at)), right=True),
    Column("WAITS FOR", lambda project: project.waits_for or project.reason),
)

PROJECT_FIELDS = (
    Column("id", lambda project: project.id),
    Column("name", lambda project: project.name),
    Column("description", lambda project: project.description),
    Column("user", lambda project: project.user_id),
    Column("called by members", lambda project: project.project_id),
    Column("type", lambda project: project.project_type),
    Column("target", lambda project: project.target),
    Column("status", lambda project: project.phase),
    Column("reason", lambda project: project.reason),
    Column("waits for", lambda project: project.waits_for),
    Column("folder", lambda project: project.folder),
    Column("created", lambda project: project.created_at),
    Column("started", lambda project: project.started_at),
    Column("ended", lambda project: project.ended_at),
)

STEP = (
    Column("STEP", lambda step: step.container),
    Column("KIND", lambda step: step.kind),
    Column("STATUS", lambda step: step.phase),
    Column("RUN", lambda step: step.run or None, right=True),
    Column("TIME", lambda step: show_duration(elapsed(step.started_at, step.ended_at)), right=True),
    Column("WHERE", lambda step: step.url or step.job),
    Column("REASON", lambda step: step.waits_for or step.reason),
)

MEMBER = (
    Column("CONTAINER", lambda member: member.container),
    Column("KIND", lambda member: member.kind),
    Column("READY", lambda member: member.ready),
    Column("URL", lambda member: member.url),
    Column("SAYS", lambda member: member.said),
)

_project = click.argument("project", metavar="PROJECT")


@click.group()
def project() -> None:
    """Make and run projects of several containers."""


@project.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", help="In place of the file's.")
@click.option("--set", "values", multiple=True, type=Pair(), help="A field of the project, such as target=cloud.")
@click.option("--start", "at_once", is_flag=True, help="Start it at once.")
@output_option
def create(file: Path, name: str | None, values: tuple[tuple[str, str], ...], at_once: bool, form: str) -> int:
    """Make a project from a file in TOML or JSON.

    A relative `cwd` of a step's job is meant from the file's own folder.
    """
    definition = _read(file) | dict(values)
    if name is not None:
        definition["name"] = name
    with connect() as client:
        echo([client.create_project(definition, start=at_once)], PROJECT, form)
    return exits.OK


def _read(file: Path) -> dict[str, Any]:
    import tomllib

    import msgspec

    from runyard.model.errors import InvalidInput

    try:
        text = file.read_text(encoding="utf-8")
        definition = tomllib.loads(text) if file.suffix.lower() == ".toml" else msgspec.json.decode(text)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file}: not UTF-8 text: {error.reason} at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        kind = "TOML" if file.suffix.lower() == ".toml" else "JSON"
        raise InvalidInput(f"{file}: not valid {kind}: {error}") from None
    if not isinstance(definition, dict):
        raise InvalidInput(f"{file}: a project is a table with at least a `name`")
    for step in definition.get("steps") or []:
        job = step.get("job") if isinstance(step, dict) else None
        if isinstance(job, dict) and isinstance(job.get("cwd"), str):
            job["cwd"] = str((file.resolve().parent / Path(job["cwd"]).expanduser()).resolve())
    return definition


@project.command("list")
@click.option("--user", "user_id", metavar="USER", help="Of this user only.")
@output_option
def list_projects(user_id: str | None, form: str) -> int:
    """List projects, newest first."""
    with connect() as client:
        echo(client.projects(user_id), PROJECT, form)
    return exits.OK


@project.command()
@_project
@output_option
def status(project: str, form: str) -> int:
    """Show a project and its steps."""
    with connect() as client:
        _show(client.project(project), form)
    return exits.OK


def _show(found: ProjectDoc, form: str) -> None:
    echo_record(found, PROJECT_FIELDS, form)
    if form == "table":
        click.echo()
        echo(found.steps, STEP, form)


@project.command()
@_project
@click.option("--fresh", is_flag=True, help="From the first step on, whatever has been done.")
@output_option
def start(project: str, fresh: bool, form: str) -> int:
    """Start a project, or go on with one that failed or was stopped."""
    with connect() as client:
        echo([client.start_project(project, fresh=fresh)], PROJECT, form)
    return exits.OK


@project.command()
@_project
@output_option
def stop(project: str, form: str) -> int:
    """Stop a project and its members."""
    with connect() as client:
        echo([client.stop_project(project)], PROJECT, form)
    return exits.OK


@project.command()
@_project
@click.argument("container", required=False)
@output_option
def advance(project: str, container: str | None, form: str) -> int:
    """Start the next step, or confirm one that waits for a person."""
    with connect() as client:
        echo([client.advance_project(project, container)], PROJECT, form)
    return exits.OK


@project.command()
@_project
@click.argument("container")
@click.argument("status", metavar="STATUS")
@output_option
def report(project: str, container: str, status: str, form: str) -> int:
    """Report in a member's place.

    STATUS is success or failed.
    """
    with connect() as client:
        echo([client.report_project(project, container, status)], PROJECT, form)
    return exits.OK


@project.command()
@_project
@output_option
def members(project: str, form: str) -> int:
    """Ask the members of a project whether they are ready."""
    with connect() as client:
        echo(client.project_members(project), MEMBER, form)
    return exits.OK


@project.command()
@_project
def delete(project: str) -> int:
    """Remove a project, with its job and its folder."""
    with connect() as client:
        client.delete_project(project)
    return exits.OK
