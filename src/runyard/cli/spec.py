"""From the options of `submit` and `run` to a job specification."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from runyard.cli.options import Duration, Pair, Size

F = TypeVar("F", bound=Callable[..., Any])
_CONDITIONS = ("finished", "succeeded", "failed", "started", "idle")
_POLICIES = ("never", "on-failure", "always")

COMMON = (
    click.option("--name", help="A name to call the job by."),
    click.option("-e", "--env", multiple=True, metavar="KEY[=VALUE]", help="A variable; without value, as set here."),
    click.option("--cwd", metavar="DIR", help="Where to run.  [default: the current folder]"),
    click.option(
        "--after",
        multiple=True,
        metavar="JOB[:CONDITION]",
        help="Start after another job has succeeded; or finished, failed, started, idle.",
    ),
    click.option("--tasks", type=click.IntRange(1), metavar="N", help="Tasks; cores and GPUs are counted for each."),
    click.option("--cores", type=click.IntRange(0), metavar="N", help="CPU cores for each task."),
    click.option("--gpus", type=click.IntRange(0), metavar="N", help="GPUs for each task."),
    click.option("--memory", type=Size(), help="Memory for each node, such as 2G."),
    click.option("--nodes", type=click.IntRange(0), metavar="N", help="Spread over exactly N nodes."),
    click.option("--exclusive", is_flag=True, help="Whole nodes, shared with nobody."),
    click.option("--time-limit", type=Duration(), help="Stop a run after so long, such as 1h30m."),
    click.option("--priority", type=int, metavar="N", help="Higher starts first."),
    click.option("--hold", is_flag=True, help="Do not start before `runyard release`."),
    click.option("-l", "--label", multiple=True, type=Pair(), help="A label to find the job by."),
    click.option("--user", help="Run as this user; the server must be allowed to."),
    click.option("--group", help="Run as this group."),
)
LASTING = (
    click.option("--replicas", type=click.IntRange(1), metavar="N", help="Copies to run."),
    click.option("--service", is_flag=True, help="Keep it running."),
    click.option("--cron", metavar="EXPR", help='Run on a schedule, such as "*/5 * * * *" or @daily.'),
    click.option("--timezone", metavar="ZONE", help="Of --cron, such as Europe/Berlin.  [default: UTC]"),
    click.option("--restart", "restart", type=click.Choice(_POLICIES), help="When to start it again."),
    click.option("--max-restarts", type=click.IntRange(0), metavar="N", help="In a row, before giving up."),
)


def spec_options(*groups: tuple[Callable[[Any], Any], ...]) -> Callable[[F], F]:
    """Adds options to a command, in the order given."""

    def add(function: F) -> F:
        for option in reversed([option for group in groups for option in group]):
            function = option(function)
        return function

    return add


def build(command: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    """The specification that command and options make. Only what was asked for is in it: the rest is the server's.

    Raises click.UsageError for options that contradict each other.
    """
    spec: dict[str, Any] = {"command": list(command)}
    spec |= {
        key: options[key] for key in ("name", "time_limit", "priority", "user", "group") if options[key] is not None
    }
    spec["cwd"] = str(Path(options["cwd"] or ".").expanduser().resolve())
    if options["env"]:
        spec["env"] = dict(_variable(item) for item in options["env"])
    if options["after"]:
        spec["after"] = [_dependency(item) for item in options["after"]]
    if options["hold"]:
        spec["hold"] = True
    if options["label"]:
        spec["labels"] = dict(options["label"])
    names = {"tasks": "tasks", "cores": "cores_per_task", "gpus": "gpus_per_task", "memory": "memory", "nodes": "nodes"}
    resources: dict[str, Any] = {field: options[key] for key, field in names.items() if options[key] is not None}
    if options["exclusive"]:
        resources["exclusive"] = True
    if resources:
        spec["resources"] = resources
    return spec | _lasting(options)


def _lasting(options: dict[str, Any]) -> dict[str, Any]:
    part: dict[str, Any] = {}
    cron, timezone = options.get("cron"), options.get("timezone")
    if options.get("replicas") is not None:
        part["replicas"] = options["replicas"]
    if cron and options["service"]:
        raise click.UsageError("--service and --cron exclude each other: a service runs all the time")
    if timezone and not cron:
        raise click.UsageError("--timezone belongs to --cron")
    if options.get("service"):
        part["lifecycle"] = "service"
    if cron:
        part |= {"lifecycle": "cron", "schedule": {"cron": cron} | ({"timezone": timezone} if timezone else {})}
    policy, most = options.get("restart"), options.get("max_restarts")
    if most is not None and policy is None:
        policy = "always" if options.get("service") else "on-failure"
    if policy is not None:
        part["restart"] = {"policy": policy} | ({"max": most} if most is not None else {})
    return part


def _variable(item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not name:
        raise click.UsageError(f"--env {item!r} has no name; write KEY=VALUE")
    if equals:
        return name, value
    if name not in os.environ:
        raise click.UsageError(f"--env {name}: it is not set here; write {name}=VALUE")
    return name, os.environ[name]


def _dependency(item: str) -> str | dict[str, str]:
    job, colon, condition = item.rpartition(":")
    if colon and condition in _CONDITIONS:
        return {"job": job, "condition": condition}
    if colon:
        # Names may hold colons, so this may be one; but a slip in the condition must not wait for ever.
        import difflib

        if near := difflib.get_close_matches(condition, _CONDITIONS, n=1):
            raise click.UsageError(f"--after {item}: unknown condition {condition!r}; did you mean {near[0]}?")
    return item
