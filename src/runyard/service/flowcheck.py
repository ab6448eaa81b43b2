"""Looking into a flow's document without running it: for requests that want to know before they submit.

The checker may take seconds for a large graph, so it has threads of its own: nobody else's work waits for them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from runyard.model.check import refuse
from runyard.model.flow import Flow, FlowGraph

if TYPE_CHECKING:
    from runyard.flow.check import Checked
    from runyard.flow.problem import Problem

_threads = ThreadPoolExecutor(2, "flow-check")


async def read_graph(flow: Flow, cwd: str | None) -> FlowGraph:
    """The flow's graph, and what is wrong with it. Relative paths count from `cwd`.

    Raises InvalidInput if the flow's file can't be read.
    """
    return await asyncio.get_running_loop().run_in_executor(_threads, _read_graph, flow, cwd)


async def must_be_sound(flow: Flow, cwd: str | None) -> None:
    """Raises BadFlow, which is an InvalidInput, if the flow can't run; names all problems."""
    checked = await asyncio.get_running_loop().run_in_executor(_threads, _check, flow, cwd)
    checked.raise_problems()


def _read_graph(flow: Flow, cwd: str | None) -> FlowGraph:
    from runyard.flow.describe import describe, describe_problems
    from runyard.flow.problem import BadFlow

    try:
        return describe(_check(flow, cwd))
    except BadFlow as bad:
        return FlowGraph(name="", nodes=[], edges=[], problems=describe_problems(bad.problems), warnings=[])


def _check(flow: Flow, cwd: str | None) -> Checked:
    """Raises BadFlow if there is not even a graph, InvalidInput if there is no file."""
    # The flow language is loaded by whoever looks into a flow, not by every server.
    from runyard.flow.check import check_flow
    from runyard.flow.document import load_document, parse_document
    from runyard.flow.problem import BadFlow
    from runyard.flow.unit_library import UnitLibrary

    # A text has no file; this one is where its relative paths count from.
    anchor = os.path.join(cwd or "/", "flow")
    try:
        if flow.path is not None:
            document = load_document(flow.path)
        else:
            document = parse_document(flow.graph or "", flow.format or "", file=anchor)
        library = UnitLibrary.load([*flow.unit_dirs, *document.directories], builtin=not document.skip_default)
        checked = check_flow(document, library, flow.arguments)
        # A fault in a folder of units is the flow's if it is why a unit is missing.
        problems = (*checked.problems, *library.problems) if checked.problems else ()
        warnings = (*checked.warnings, *(() if checked.problems else library.problems))
        return dataclasses.replace(checked, problems=_without(anchor, problems), warnings=_without(anchor, warnings))
    except BadFlow as bad:
        raise BadFlow(_without(anchor, bad.problems)) from None
    except OSError as error:
        raise refuse("flow.path", flow.path, f"can't be read: {error.strerror or error}") from None


def _without(anchor: str, problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """The problems without the name of a file that is none."""
    return tuple(
        dataclasses.replace(problem, file=problem.file.removeprefix(anchor).removeprefix(":"))
        if problem.file.startswith(anchor)
        else problem
        for problem in problems
    )
