"""The addresses of reports, in all their spellings. Pure."""

from __future__ import annotations

from runyard.project.wire import MANAGER_OPERATIONS, read_target

_PATHS = {operation: f"/{operation}" for operation in MANAGER_OPERATIONS}
_NAMES = tuple(operation.encode() for operation in MANAGER_OPERATIONS)


def report_path(path: str, query: bytes) -> str | None:
    """The route of a report that is spelled in any way: `/status_report`, `/status_report/`, `/?status_report&…`,
    `/?status_report?…`; None if the request is none."""
    named = path.strip("/")
    if named:
        return _PATHS.get(named)
    if path != "/" or not query.startswith(_NAMES):
        return None
    operation, _ = read_target(path, query[:200].decode("latin-1"), MANAGER_OPERATIONS)
    return None if operation is None else _PATHS[operation]
