"""A Procfile (Heroku, foreman, honcho), with the `.env` beside it."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

from dotenv.parser import parse_stream

from runyard.importers.report import Entry, Report

_LINE = re.compile(r"([A-Za-z0-9_-]+):\s*(\S.*?)\s*")
_PORT = re.compile(r"\bPORT\b")
#: foreman's rule: the first process type begins at 5000, the next ones 100 higher each, each process one higher.
FIRST_PORT, PORT_STEP = 5000, 100
_MOST = 100
"""Processes that get a port of their own."""


def read_procfile(
    text: str, *, cwd: str | None = None, env: str = "", concurrency: Mapping[str, int] | None = None
) -> Report:
    """The jobs for the process types in `text`. `env` is the text of the `.env` file; `cwd` is the Procfile's folder.

    `concurrency` says how many processes of a type are wanted, 1 unless given; of `all` those that are not named.
    """
    report = Report(format="procfile")
    report.notes.append("foreman ends all processes when one ends; here each one is started again by itself")
    wanted = dict(concurrency or {})
    every = wanted.pop("all", 1)
    variables = _variables(env, report)
    first = variables.get("PORT", "")
    base = int(first) if re.fullmatch(r"[0-9]{1,5}", first) else FIRST_PORT
    number = 0
    for place, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        entry = report.entry(f"line {place}", found.group(1) if found else "")
        if found is None:
            entry.error = "is not of the form `name: command`"
            continue
        name, command = found.groups()
        _take(report, entry, command, cwd, variables, wanted.pop(name, every), base + number * PORT_STEP)
        number += 1
    report.notes += [f"--concurrency {name}: there is no such process type in the file" for name in wanted]
    return report


def _take(
    report: Report, entry: Entry, command: str, cwd: str | None, variables: dict[str, str], count: int, port: int
) -> None:
    if count == 0:
        entry.error = "is not wanted: --concurrency is 0"
        return
    job: dict[str, Any] = {"name": entry.name, "script": command, "lifecycle": "service"}
    entry.mapped |= {"name": "name", "command": "script, kept running as a service"}
    if entry.name == "release":
        # Heroku runs it once for each deployment.
        job["lifecycle"] = "once"
        entry.mapped["command"] = "script, run once"
        entry.warnings.append("Heroku ends the deployment if `release` fails; here nothing waits for it")
    if cwd is not None:
        job["cwd"] = cwd
        entry.mapped["the Procfile's folder"] = "cwd"
    if variables:
        entry.mapped[".env"] = "env"
    if count > 1:
        entry.mapped["concurrency"] = f"{count} processes"
    if count > 1 and _PORT.search(command):
        if count > _MOST:
            entry.error = f"wants a port for each of {count} processes; there are {_MOST} between two process types"
            return
        entry.warnings.append("each process has a port of its own, so each becomes a job")
        report.take(
            entry,
            *(
                job | {"name": f"{entry.name}.{index + 1}", "env": variables | {"PORT": str(port + index)}}
                for index in range(count)
            ),
        )
    else:
        if count > 1:
            entry.warnings.append("all its processes have the same PORT; RUNYARD_REPLICA tells them apart")
        report.take(entry, job | {"replicas": count, "env": variables | {"PORT": str(port)}})
    entry.mapped["PORT"] = f"env PORT, from {port}"


def _variables(text: str, report: Report) -> dict[str, str]:
    variables: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(text)):
        line = binding.original.line
        if binding.error or binding.key is None:
            if binding.error:
                report.notes.append(f".env, line {line}: is not of the form NAME=VALUE, and ignored")
        elif binding.value is None:
            report.notes.append(f".env, line {line}: {binding.key} has no value, and is ignored")
        else:
            if "${" in binding.value:
                report.notes.append(f".env, line {line}: {binding.key} is taken as it stands, `${{` included")
            variables[binding.key] = binding.value
    return variables
