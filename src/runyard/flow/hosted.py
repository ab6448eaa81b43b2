"""What the host process of a flow is told: the agreement between the server, which writes, and `runyard.flowhost`,
which reads. Imports nothing of the flow runtime."""

from __future__ import annotations

import msgspec

VARIABLE = "RUNYARD_FLOW_SPEC"
"""Environment variable that holds the specification itself, as JSON, where there is no file."""


class HostSpec(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One flow to host. Exactly one of `document` and `path` is given."""

    name: str = ""
    """Of the job, for messages."""
    document: str = ""
    """The graph document, as text."""
    path: str = ""
    """File of the graph document."""
    format: str = ""
    """`toml` or `json`; empty looks at the file's name and the first character."""
    args: dict[str, str] = {}
    """Values of the flow's arguments (modelbox.md 4.9)."""
    unit_dirs: list[str] = []
    """Folders with units, searched beside the document's `driver.dir`."""
    folder: str = ""
    """Where relative paths of the document start; empty means the folder of `path`, else the current one."""
    report: str = ""
    """Folder for the reports (`runyard.flow.report`); empty reports to nobody."""
    trace: str = ""
    """File for a trace in Chrome's format; empty traces nothing."""
