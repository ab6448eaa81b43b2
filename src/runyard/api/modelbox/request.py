"""What a create asks for: the body, checked in the original's order (spec/modelbox.md, 1.2 to 1.4). Pure."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from runyard.api.modelbox.refusal import Code, Refusal
from runyard.model.check import MAX_GRAPH, explain_json
from runyard.model.flow import Format, format_of

MAX_ID = 64
#: Levels of tables and arrays in a graph.
MAX_DEPTH = 64
_ID = re.compile(r"[0-9a-zA-Z\-+~_][0-9a-zA-Z\-+~_.]+")


class Create(msgspec.Struct, frozen=True):
    """A create whose parts are what they should be; `graph` still has to become a document."""

    id: str
    graph: Any
    format: str | None


class Document(msgspec.Struct, frozen=True):
    """A graph document as text; what is JSON is known to be an object."""

    text: str
    format: Format
    table: dict[str, Any] | None = None
    """What is in it, if it is JSON."""


def read_create(body: bytes) -> Create:
    """Steps 1 to 7 of the original's checks. Raises Refusal."""
    try:
        given = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(Code.COMMAND, explain_json(body, error).detail) from None
    if not isinstance(given, dict) or "job_id" not in given:
        raise Refusal(Code.NO_ID)
    job = given["job_id"]
    if not isinstance(job, str):
        raise Refusal(Code.INTERNAL, _type_error("job_id", job))
    if "job_graph" not in given:
        raise Refusal(Code.NO_GRAPH)
    if len(job) > MAX_ID or not _ID.fullmatch(job):
        raise Refusal(Code.BAD_ID)
    form = given.get("job_graph_format") if "job_graph_format" in given else None
    if "job_graph_format" in given and not isinstance(form, str):
        raise Refusal(Code.INTERNAL, _type_error("job_graph_format", form))
    if form is not None and form not in (Format.JSON, Format.TOML):
        raise Refusal(Code.COMMAND, f"Unsupport graph format: {form}")
    return Create(job, given["job_graph"], form)


def read_graph(create: Create) -> Document:
    """The graph as a document, if it can be one at all (spec/modelbox.md, 1.2). Raises Refusal."""
    graph, form = create.graph, create.format
    if isinstance(graph, str):
        form = form or format_of(graph)
        _check_size(graph)
        if form == Format.TOML:
            return Document(graph, Format.TOML)
        try:
            graph = msgspec.json.decode(graph)
        except (msgspec.DecodeError, RecursionError) as error:
            why = explain_json(graph.encode(), error).detail.replace("the body", "job_graph", 1)
            raise Refusal(Code.BAD_GRAPH, why) from None
    elif form == Format.TOML:
        raise Refusal(Code.INTERNAL, _type_error("job_graph", graph))
    if not isinstance(graph, dict):
        shown = _type_name(graph)
        raise Refusal(Code.BAD_GRAPH, f"job_graph must be an object, or text in TOML or JSON, but is {shown}")
    table = without_nulls(graph)
    text = msgspec.json.encode(table).decode()
    _check_size(text)
    return Document(text, Format.JSON, table)


def _check_size(text: str) -> None:
    size = len(text.encode())
    if size > MAX_GRAPH:
        raise Refusal(Code.BAD_GRAPH, f"the graph has {size} bytes, at most {MAX_GRAPH} are taken")


def without_nulls(value: Any, levels: int = MAX_DEPTH) -> Any:
    """JSON's null has no counterpart in TOML: keys that have it are dropped (spec/modelbox.md, 2.4). Raises Refusal."""
    if not isinstance(value, dict | list):
        return value
    if not levels:
        raise Refusal(Code.BAD_GRAPH, f"job_graph is nested too deeply: at most {MAX_DEPTH} levels are taken")
    if isinstance(value, dict):
        return {key: without_nulls(item, levels - 1) for key, item in value.items() if item is not None}
    return [without_nulls(item, levels - 1) for item in value if item is not None]


def _type_error(field: str, value: Any) -> str:
    return f"type error: {field} must be string, but is {_type_name(value)}"


def _type_name(value: Any) -> str:
    kinds = {dict: "object", list: "array", bool: "boolean", int: "number", float: "number", str: "string"}
    return kinds.get(type(value), "null")
