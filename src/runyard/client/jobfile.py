"""Files of jobs: TOML, JSON or NDJSON, each entry with the fields of `runyard.model.job.JobSpec`.

Entries stay plain mappings: the server checks them, so that one place knows the rules.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from runyard.model.errors import InvalidInput

#: What each suffix means.
FORMATS = {".toml": "toml", ".json": "json", ".ndjson": "ndjson", ".jsonl": "ndjson"}


def read_jobs(path: str | Path) -> list[dict[str, Any]]:
    """The jobs in a file. A relative `cwd`, `flow.path` or `flow.trace` is meant from the file's own folder.

    Raises InvalidInput that names file, line or entry and what was expected.
    """
    file = Path(path)
    kind = FORMATS.get(file.suffix.lower())
    if kind is None:
        raise InvalidInput(f"{file}: unknown kind of file; the name must end in {', '.join(FORMATS)}")
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file}: not UTF-8 text: {error.reason} at byte {error.start}") from error
    return parse_jobs(text, kind, str(file), file.resolve().parent)


def parse_jobs(text: str, kind: str, name: str, folder: Path) -> list[dict[str, Any]]:
    """The jobs in `text`: `[[jobs]]` tables or one job (TOML); an object, an array, or an object with `jobs` (JSON);
    an object a line (NDJSON). `name` stands in errors; `folder` is where relative paths start."""
    if kind == "ndjson":
        entries = [
            (f"{name}, line {number}", _json(line, f"{name}, line {number}"))
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip()
        ]
    else:
        document = _toml(text, name) if kind == "toml" else _json(text, name)
        if isinstance(document, dict) and "jobs" in document:
            if others := document.keys() - {"jobs"}:
                raise InvalidInput(f"{name}: beside `jobs` there must be nothing else, found {', '.join(others)}")
            document = document["jobs"]
            if not isinstance(document, list):
                raise InvalidInput(f"{name}: `jobs` must be a list of jobs, in TOML `[[jobs]]`")
        listed = document if isinstance(document, list) else [document]
        entries = [(f"{name}, job {number}", entry) for number, entry in enumerate(listed, 1)]
    if not entries:
        raise InvalidInput(f"{name}: there is no job in it")
    return [_placed(entry, where, folder) for where, entry in entries]


def _placed(entry: Any, where: str, folder: Path) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise InvalidInput(f"{where}: a job must be a table of fields, got {type(entry).__name__}")
    placed = dict(entry)
    if isinstance(placed.get("cwd"), str):
        placed["cwd"] = str((folder / Path(placed["cwd"]).expanduser()).resolve())
    if isinstance(flow := placed.get("flow"), dict):
        paths = {
            key: str((folder / flow[key]).resolve()) for key in ("path", "trace") if isinstance(flow.get(key), str)
        }
        placed["flow"] = flow | paths
    return placed


def _toml(text: str, where: str) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{where}: not valid TOML: {error}") from error


def _json(text: str, where: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidInput(f"{where}: not valid JSON: {error}") from error
