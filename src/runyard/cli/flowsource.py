"""What the `flow` commands share: the options that say what is meant, reading it, and telling what is wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from runyard.cli.options import Pair
from runyard.cli.output import show

if TYPE_CHECKING:
    from runyard.flow.check import Checked
    from runyard.flow.document import FlowDocument
    from runyard.flow.problem import Problem
    from runyard.flow.unit_library import UnitLibrary

F = TypeVar("F", bound=Callable[..., Any])


def unit_dir_option(function: F) -> F:
    """`--unit-dir`: `directories`, which are searched for units before the document's own."""
    given = click.option(
        "--unit-dir", "--dir", "directories", multiple=True, metavar="DIR", help="Search units here first."
    )
    return given(function)


def argument_option(function: F) -> F:
    """`--arg`: `arguments`, pairs of name and value."""
    given = click.option("--arg", "arguments", multiple=True, type=Pair(), help="An argument of the flow.")
    return given(function)


def read_document(file: str) -> FlowDocument:
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


def load_library(document: FlowDocument, directories: Iterable[str]) -> UnitLibrary:
    """The units of these directories, of the document's, and the built-in ones."""
    from runyard.flow.unit_library import UnitLibrary

    return UnitLibrary.load([*directories, *document.directories], builtin=not document.skip_default)


def check_document(document: FlowDocument, directories: Iterable[str], arguments: Iterable[tuple[str, str]]) -> Checked:
    """The checked flow; what is wrong with unit files counts as a warning."""
    from dataclasses import replace

    from runyard.flow.check import check_flow

    library = load_library(document, directories)
    checked = check_flow(document, library, dict(arguments))
    return replace(checked, warnings=(*checked.warnings, *library.problems))


def tell(problems: Iterable[Problem], word: str, *, err: bool = True) -> None:
    """Problems as a compiler tells them: place, word, message; the line, with a caret."""
    for problem in problems:
        place = f"{problem.where}: " if problem.where else ""
        click.echo(show(f"{place}{word}: {problem.sentence}"), err=err)
        excerpt = problem.excerpt()
        if excerpt:
            click.echo("\n".join(f"  {line}" for line in excerpt.split("\n")), err=err)
