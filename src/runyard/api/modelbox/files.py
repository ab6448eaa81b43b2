"""The files of this door: graphs that are loaded at the start, and the copies of those that came by REST
(spec/modelbox.md, 2.3 and 2.4). Blocking: for a thread."""

from __future__ import annotations

import os
from contextlib import suppress

from runyard.api.modelbox.request import Document
from runyard.flowfiles import FlowFile, read, scan
from runyard.model.errors import InvalidInput

#: Copies that are kept; past that, the one that was read longest ago goes.
MAX_ONESHOT = 65_536
ONESHOT = "oneshot"


def read_folders(flow_path: str, application_root: str) -> tuple[list[FlowFile], list[tuple[str, str]]]:
    """The graphs of a folder (or the one graph) and of the projects below another; and what could not be read.

    Of files with the same name, which would be the same job, the first counts.
    """
    found: list[FlowFile] = []
    problems: list[tuple[str, str]] = []
    if flow_path and os.path.isfile(flow_path):
        try:
            found.append(read(flow_path))
        except (OSError, InvalidInput) as error:
            problems.append((flow_path, getattr(error, "strerror", None) or str(error)))
    elif flow_path:
        found, problems = scan(flow_path)
    if application_root:
        projects: list[str] = []
        try:
            projects = sorted(entry.path for entry in os.scandir(application_root) if entry.is_dir())
        except OSError as error:
            problems.append((application_root, f"the folder can't be read: {error.strerror}"))
        for project in projects:
            folder = os.path.join(project, "graph")
            if os.path.isdir(folder):
                more, worse = scan(folder, (".toml", ".json"))
                found += more
                problems += worse
    files: dict[str, FlowFile] = {}
    for file in found:
        if file.name in files:
            problems.append((file.path, f"job already running: {files[file.name].path} has the same name"))
        else:
            files[file.name] = file
    return list(files.values()), problems


def keep_oneshot(flow_path: str, id: str, document: Document) -> None:
    """Writes the graph, as TOML, below `flow_path`. `id` keeps the rule for ids.

    Raises OSError, and ValueError or TypeError for what TOML can't say.
    """
    import tomli_w

    text = document.text if document.table is None else tomli_w.dumps(document.table)
    folder = os.path.join(flow_path, ONESHOT)
    os.makedirs(folder, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(os.path.join(folder, id), flags, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    _drop_surplus(folder)


def _drop_surplus(folder: str) -> None:
    names = os.listdir(folder)
    if len(names) > MAX_ONESHOT:
        paths = [os.path.join(folder, name) for name in names]
        for path in sorted(paths, key=lambda path: os.stat(path).st_atime)[: len(paths) - MAX_ONESHOT]:
            with suppress(FileNotFoundError):
                os.unlink(path)
