"""The documentation under test: what it names must exist, what exists must be named, what it shows must be valid."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from runyard.cli.app import cli
from runyard.client.jobfile import parse_jobs, read_jobs
from runyard.config import KEYS, parse
from runyard.flow.document import build_document
from runyard.flow.dot import parse as parse_dot
from runyard.flow.unit_file import parse_unit
from runyard.model import errors, job
from runyard.model.check import build_spec
from runyard.model.event import EVENT_TYPES
from runyard.model.ids import f58
from runyard.model.job import JobDoc, JobSpec, Restart, RunDoc
from runyard.model.state import State, Why
from runyard.store import store

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "examples/README.md", *DOCS.rglob("*.md")])

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`(runyard [^`\n]+)`")
_LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")
_CURL = re.compile(r"-d '(\{.*?\}|\[.*?\])'")


def _name(value: object) -> str:
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value)


def _snippets(language: str) -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for found, text in _FENCE.findall(page.read_text(encoding="utf-8")):
            if found == language:
                yield page, text


def _structs(part: type[msgspec.Struct], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of a Struct and of the Structs in it, by its full name, with its type."""
    for field in msgspec.structs.fields(part):
        name = f"{prefix}{field.name}"
        options = getattr(field.type, "__args__", ()) or (field.type,)
        nested = [kind for kind in options if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
        yield name, field.type
        for kind in nested:
            yield from _structs(kind, f"{name}.")


# Pages ------------------------------------------------------------------------------------------------------------


def test_the_navigation_and_the_pages_agree() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    assert set(re.findall(r"(\S+\.md)$", nav, re.MULTILINE)) == {
        str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")
    }


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    links = _LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_names_the_file_to_open_first() -> None:
    assert "src/runyard/model/job.py" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml", "Makefile"])
def test_no_registry_and_no_folder_of_one_machine_is_written_down(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert re.findall(r"https?://\S+|--\S*(?:index|find-links)\S*|file:\S+|/(?:home|root|work)/\S*", text) == []


def test_the_store_is_where_the_operations_page_says() -> None:
    assert f"`{store.FILE}`" in (DOCS / "operations.md").read_text(encoding="utf-8")


# Commands ---------------------------------------------------------------------------------------------------------


def _calls(line: str) -> Iterator[str]:
    """The calls of `runyard` in a shell line, each without what stands behind ` -- `."""
    words = shlex.shlex(line, posix=True, punctuation_chars="|;&")
    words.whitespace_split = True
    call: list[str] = []
    for word in [*words, ";"]:
        if set(word) <= set("|;&"):
            if call[:1] == ["runyard"]:
                yield shlex.join(call[: call.index("--")] if "--" in call else call)
            call = []
        else:
            call.append(word)


def _commands() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for language, block in _FENCE.findall(text):
            if language in ("console", "sh", "bash"):
                for line in re.sub(r"\\\n\s*", "", block).splitlines():
                    if "runyard " in line:
                        yield from ((page, call) for call in _calls(line.removeprefix("$ ")))
        for span in _SPAN.findall(_FENCE.sub("", text)):
            yield from ((page, call) for call in _calls(span))


COMMANDS = sorted(set(_commands()))


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=_name)
def test_every_command_named_is_one_that_exists_with_its_options(page: Path, line: str) -> None:
    words = shlex.split(line)[1:]
    command: click.Command = cli
    context = click.Context(cli, info_name="runyard")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        if words[0].isupper() or not words[0][0].isalpha():
            return  # `runyard COMMAND`, `runyard …`: any command
        found = command.get_command(context, words[0])
        assert found is not None, f"{_name(page)}: {line!r}: there is no command {words[0]!r}"
        command, words = found, words[1:]
        context = click.Context(command, info_name=command.name, parent=context)
    known = {
        option for parameter in command.get_params(context) for option in (*parameter.opts, *parameter.secondary_opts)
    }
    used = {word.partition("=")[0] for word in words if re.match(r"--?[A-Za-z]", word)}
    assert used <= known, f"{_name(page)}: {line!r}: unknown options {sorted(used - known)}"


def test_every_command_is_documented() -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    context = click.Context(cli, info_name="runyard")
    missing = [name for name in cli.list_commands(context) if not re.search(rf"runyard {re.escape(name)}\b", text)]
    assert missing == []


# Jobs -------------------------------------------------------------------------------------------------------------

SPEC = dict(_structs(JobSpec))


@pytest.mark.parametrize("field", [name for name in SPEC if not name.startswith("after.")])
def test_every_field_of_a_job_is_documented(field: str) -> None:
    assert f"`{field}`" in (DOCS / "jobs.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("field", [field.name for field in msgspec.structs.fields(job.Dependency)])
def test_every_field_of_a_dependency_is_documented(field: str) -> None:
    assert f"`after[].{field}`" in (DOCS / "jobs.md").read_text(encoding="utf-8")


def test_no_field_is_documented_that_does_not_exist() -> None:
    text = (DOCS / "jobs.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `([a-z_.]+)` \|", text.partition("## Program")[2], re.MULTILINE)
    conditions = {str(value) for value in job.Condition}
    assert set(named) - set(SPEC) - conditions == set()


@pytest.mark.parametrize("choice", [job.Lifecycle, job.Condition, job.RestartPolicy, job.Overlap, job.Missed])
def test_every_choice_is_documented(choice: type[StrEnum]) -> None:
    text = (DOCS / "jobs.md").read_text(encoding="utf-8")
    assert [str(value) for value in choice if f"`{value}`" not in text and f"`{value}:" not in text] == []


def test_the_documented_defaults_of_restarts_are_the_real_ones() -> None:
    rule, delays, delay = Restart(), [], Restart().delay
    for _ in range(8):
        delays.append(min(delay, rule.max_delay))
        delay *= rule.backoff
    text = (DOCS / "jobs.md").read_text(encoding="utf-8")
    assert ", ".join(f"{value:g}" for value in delays) + ", … seconds" in text


def test_every_state_and_reason_is_documented() -> None:
    text = (DOCS / "concepts.md").read_text(encoding="utf-8")
    assert [str(value) for value in (*State, *Why) if f"`{value}`" not in text] == []


# Configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
def test_every_key_of_the_configuration_is_documented(key: str) -> None:
    text = (DOCS / "config.md").read_text(encoding="utf-8")
    section, _, name = key.rpartition(".")
    below = text.partition(f"[{section}]")[2].partition("\n## ")[0] if section else text
    assert f"`{key}`" in text or re.search(rf"\b{name}\b", below), f"docs/config.md says nothing about {key}"


# The API ----------------------------------------------------------------------------------------------------------


def test_every_error_code_and_event_type_is_documented() -> None:
    text = (DOCS / "doors/native.md").read_text(encoding="utf-8")
    classes: list[type[errors.RunyardError]] = [errors.RunyardError, *errors.RunyardError.__subclasses__()]
    # A wrong configuration keeps the server from starting: no request can get it as its answer.
    codes = {kind.code: kind.status for kind in classes if kind.__module__ == errors.__name__ and kind.code != "config"}
    assert [code for code, status in codes.items() if f"| `{code}` | {status} |" not in text] == []
    assert [name for name in EVENT_TYPES if f"`{name}`" not in text] == []


def test_every_resource_of_the_api_is_documented() -> None:
    text = (DOCS / "doors/native.md").read_text(encoding="utf-8")
    paths = msgspec.json.decode((DOCS / "openapi.json").read_bytes())["paths"]
    found = {path.split("/")[3] for path in paths if path.startswith("/api/v1/")}
    assert "jobs" in found
    assert [name for name in sorted(found) if f"/api/v1/{name}" not in text] == []


def test_the_job_document_that_is_shown_is_a_real_one() -> None:
    shown = [msgspec.json.decode(text) for _, text in _snippets("json") if '"f58"' in text]
    assert len(shown) == 1
    assert set(shown[0]) == {field.name for field in msgspec.structs.fields(JobDoc)}
    assert set(shown[0]["runs"][0]) == {field.name for field in msgspec.structs.fields(RunDoc)}
    document = msgspec.convert(shown[0], JobDoc)
    assert document.spec.argv == ["echo", "hello, world"]
    assert f58(int(document.id)) == document.f58


# Snippets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "text"), list(_snippets("json")), ids=_name)
def test_json_snippets_are_valid_and_jobs_among_them_would_be_taken(page: Path, text: str) -> None:
    value = msgspec.json.decode(text)
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, dict) and {"command", "script"} & entry.keys():
            build_spec(entry)


@pytest.mark.parametrize(("page", "text"), list(_snippets("toml")), ids=_name)
def test_toml_snippets_are_what_they_seem_to_be_and_would_be_taken(page: Path, text: str) -> None:
    tree = tomllib.loads(text)
    if "base" in tree:
        assert parse_unit(text.encode(), page)[1] == []
    elif "graph" in tree:
        parse_dot(build_document(tree, file=str(page)).dot)
    elif "jobs" in tree:
        for entry in parse_jobs(text, "toml", _name(page), page.parent):
            build_spec(entry)
    else:
        parse(text, path=_name(page))


@pytest.mark.parametrize(("page", "text"), list(_snippets("dot")), ids=_name)
def test_dot_snippets_are_graphs(page: Path, text: str) -> None:
    assert parse_dot(text).nodes


@pytest.mark.parametrize(("page", "text"), list(_snippets("python")), ids=_name)
def test_python_snippets_are_valid(page: Path, text: str) -> None:
    compile(text, _name(page), "exec")


def test_bodies_of_curl_commands_are_valid() -> None:
    bodies = [body for _, block in _snippets("console") for body in _CURL.findall(re.sub(r"\\\n\s*", "", block))]
    assert len(bodies) > 5
    for body in bodies:
        value = msgspec.json.decode(body)
        if "command" in value:
            build_spec(value)


def test_the_example_jobs_would_be_taken_and_their_programs_are_there() -> None:
    specs = [build_spec(entry) for entry in read_jobs(ROOT / "examples/jobs.toml")]
    assert {spec.lifecycle for spec in specs} == set(job.Lifecycle)
    for spec in specs:
        if spec.command is not None:
            assert spec.cwd is not None
            assert (Path(spec.cwd) / spec.command[1]).is_file()
