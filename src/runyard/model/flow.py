"""A job whose program is a graph.

The document (TOML or JSON, spec/modelbox.md, section 4.1) is not looked into here: `runyard.flow` knows what is in it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

#: `JobDoc.kind` of such jobs.
FLOW_KIND = "flow"
#: Labels of a job that was made from a file of a watched folder: the file's absolute path, and a digest of its content.
FILE_LABEL, DIGEST_LABEL = "flow-file", "flow-digest"


class Format(StrEnum):
    """In which language a flow's document is written."""

    TOML = "toml"
    JSON = "json"


class Flow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The program of a job, in place of a command. Exactly one of `graph` and `path` is given."""

    graph: str | None = None
    """The text of the document."""
    path: str | None = None
    """Absolute path of the document on the host that runs it; read at each start."""
    format: Format | None = None
    """None: what the path's suffix says, else JSON if the text begins with `{`, else TOML."""
    arguments: dict[str, str] = {}
    """For node options of the form `"$name"`; the document's `args` have the defaults."""
    unit_dirs: list[str] = []
    """Absolute paths of folders that are searched for flow units, beside the document's `driver.dir`."""
    trace: str | None = None
    """Absolute path of a file for a trace in Chrome's format."""


def format_of(text: str, path: str | None = None) -> Format:
    """The language of a document that does not say it (spec/modelbox.md, 1.2 and 2.3)."""
    suffix = (path or "").rpartition(".")[2].lower()
    if suffix in (Format.TOML, Format.JSON):
        return Format(suffix)
    return Format.JSON if text.lstrip().startswith("{") else Format.TOML


# What clients see of a flow ------------------------------------------------------------------------------------------


class FlowProblem(msgspec.Struct, kw_only=True):
    """What is wrong with a flow, or odd."""

    message: str
    code: str
    """Name of ModelBox's status, such as `STATUS_BADCONF`."""
    file: str = ""
    line: int | None = None
    column: int | None = None
    """Both count from 1."""
    node: str = ""
    port: str = ""
    excerpt: str = ""
    """The line, with a caret under the place."""


class FlowNode(msgspec.Struct, kw_only=True):
    name: str
    type: str
    """`flowunit`, `input` or `output`."""
    unit: str
    kind: str | None
    """How the unit treats streams: `normal`, `stream`, `condition`, `loop`, `expand` or `collapse`."""
    device: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, str]


class FlowEdge(msgspec.Struct, kw_only=True):
    source: str
    source_port: str
    target: str
    target_port: str


class FlowGraph(msgspec.Struct, kw_only=True):
    """A flow's graph, with all that is wrong with it. Without problems it can run."""

    name: str
    nodes: list[FlowNode]
    edges: list[FlowEdge]
    problems: list[FlowProblem]
    warnings: list[FlowProblem]


class FlowStatus(msgspec.Struct, kw_only=True):
    """Where a flow stands, and its latest statistics."""

    job: str
    name: str | None
    state: str
    """Of the job."""
    flow_state: str | None
    """`creating`, `running`, `stopping`, `ended` or `failed`, as the flow says of its last run; null if nothing yet."""
    error: str
    """Why it failed."""
    statistics: dict[str, Any] | None
