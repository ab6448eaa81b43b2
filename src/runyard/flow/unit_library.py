"""The units that a flow can use: built in, described by TOML files (spec/modelbox.md 5.10), or added by a program."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Any

from runyard.flow.problem import Problem
from runyard.flow.status import StatusCode

MAX_ENTRIES = 100_000
"""Directory entries that are looked at below all the directories of one library."""
MAX_FILE_BYTES = 1024 * 1024
"""Size of a TOML file; larger ones describe no unit."""
SKIPPED = frozenset(("__pycache__", "site-packages", "dist-packages", "node_modules"))
"""Directories that are never entered, and neither are those whose name begins with a dot: no unit is kept there."""


class UnitKind(StrEnum):
    """How a unit treats streams (spec/modelbox.md 5.2)."""

    NORMAL = "normal"
    STREAM = "stream"
    CONDITION = "condition"
    LOOP = "loop"
    EXPAND = "expand"
    COLLAPSE = "collapse"


class OptionType(StrEnum):
    """What an option's text is read as."""

    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOL = "bool"
    LIST = "list"


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a unit. `type` is the data type that inference needs (`float`, `uint8`, …)."""

    name: str
    type: str = ""
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Option:
    """A setting that a node may give its unit. `values` are the only texts allowed, if there are any."""

    name: str
    type: OptionType = OptionType.STRING
    default: str = ""
    description: str = ""
    required: bool = False
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UnitInfo:
    """What is known of a unit before it is opened.

    `type` is how it is made: `builtin`, `python`, `inference`, `yolo_postprocess`, `java`, or `function` (added by a
    program, which gives `factory`). `entry` is `module:Class` of a built-in, `module@Class` of a Python unit, the path
    of a model. `config` is the `[config]` table. `flow_stream` is the flow type as declared; `stream` what it comes to.
    """

    name: str
    device: str = "cpu"
    type: str = "builtin"
    version: str = "1.0.0"
    description: str = ""
    group: str = "Generic"
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    options: tuple[Option, ...] = ()
    flow_stream: bool = False
    condition: bool = False
    loop: bool = False
    expand: bool = False
    collapse: bool = False
    collapse_all: bool = True
    same_count: bool = False
    exception_visible: bool = False
    input_contiguous: bool = True
    max_batch_size: int | None = None
    default_batch_size: int | None = None
    entry: str = ""
    virtual_type: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    encryption: Mapping[str, str] = field(default_factory=dict)
    file: Path | None = None
    factory: Callable[[], Any] | None = field(default=None, compare=False)

    @property
    def kind(self) -> UnitKind:
        """Expand and collapse override condition and loop, and these the flow type."""
        if self.expand:
            return UnitKind.EXPAND
        if self.collapse:
            return UnitKind.COLLAPSE
        if self.condition:
            return UnitKind.CONDITION
        if self.loop:
            return UnitKind.LOOP
        return UnitKind.STREAM if self.flow_stream else UnitKind.NORMAL

    @property
    def stream(self) -> bool:
        """Whether the data of a stream come in order and one call at a time. Conditions and loops never do."""
        return self.flow_stream and self.kind not in (UnitKind.CONDITION, UnitKind.LOOP)

    @property
    def directory(self) -> Path | None:
        """Where the unit's module or model is looked for."""
        return self.file.parent if self.file else None

    def input(self, name: str) -> Port | None:
        return next((port for port in self.inputs if port.name == name), None)

    def output(self, name: str) -> Port | None:
        return next((port for port in self.outputs if port.name == name), None)


class UnitLibrary:
    """Units by name and device.

    The first unit of a name and device stays: what a program added, then the directories in their order (files by
    path), then the built-in ones. A later one is left out and noted in `problems`, like a file that can't be read.

    Built-in units are those of `runyard.flow.units.BUILTIN`, a dict of unit name to `module:Class`. The class has its
    `UnitInfo` as the attribute `info`. A module is imported when one of its units is asked for.
    """

    def __init__(self, *, builtin: bool = True) -> None:
        self.problems: list[Problem] = []
        self._units: dict[str, dict[str, UnitInfo]] = {}
        self._builtin: dict[str, str] = {}
        if builtin:
            from runyard.flow.units import BUILTIN

            self._builtin = dict(BUILTIN)

    @classmethod
    def load(cls, directories: Sequence[str | Path] = (), *, builtin: bool = True) -> UnitLibrary:
        """A library of what lies in and below the directories. Bad files and missing directories become problems."""
        from runyard.flow.unit_file import NotAUnit, read_unit

        library = cls(builtin=builtin)
        for path in library._files(directories):
            try:
                info, problems = read_unit(path)
            except NotAUnit:
                continue
            library.problems.extend(problems)
            if info is not None:
                library.add(info)
        return library

    def add(self, info: UnitInfo) -> bool:
        """Take a unit in, unless one of its name and device is there. Says whether it was taken."""
        known = self._units.setdefault(info.name, {}).setdefault(info.device, info)
        if known is info:
            return True
        if known.file != info.file or info.file is None:
            message = f"unit {info.name!r} for {info.device} is left out: {known.file or 'the program'} has one already"
            self.problems.append(Problem(message, file=str(info.file or "")))
        return False

    def find(self, name: str, device: str = "") -> UnitInfo | None:
        """The unit, or None. Without a device: the cpu's, else the first device's by name."""
        units = self._of(name)
        if device:
            return units.get(device)
        return units.get("cpu") or next((units[key] for key in sorted(units)), None)

    def devices(self, name: str) -> list[str]:
        """The devices for which there is a unit of this name."""
        return sorted(self._of(name))

    def nearest(self, name: str) -> list[str]:
        """Names of units that look like this one, the best first."""
        folded = {known.lower(): known for known in self.names()}
        return [folded[match] for match in difflib.get_close_matches(name.lower()[:255], folded, n=3, cutoff=0.6)]

    def names(self) -> list[str]:
        """The names of all units."""
        return sorted({*self._units, *self._builtin})

    def __iter__(self) -> Iterator[UnitInfo]:
        for name in self.names():
            units = self._of(name)
            yield from (units[device] for device in sorted(units))

    def __contains__(self, name: str) -> bool:
        return name in self._units or name in self._builtin

    def _of(self, name: str) -> Mapping[str, UnitInfo]:
        entry = self._builtin.pop(name, None)
        if entry is not None:
            module, _, attribute = entry.partition(":")
            info = getattr(import_module(module), attribute).info
            self._units.setdefault(name, {}).setdefault(info.device, info)
        return self._units.get(name, {})

    def _files(self, directories: Iterable[str | Path]) -> Iterator[Path]:
        """Every TOML file below the directories, once each, in the order of the directories and then of the paths."""
        left, seen = MAX_ENTRIES, set()
        for directory in directories:
            if not str(directory):
                continue
            if not os.path.isdir(directory):
                message = f"unit directory {str(directory)!r} does not exist"
                self.problems.append(Problem(message, code=StatusCode.STATUS_NOTFOUND, file=str(directory)))
                continue
            for folder, folders, files in os.walk(directory):
                left -= len(folders) + len(files)
                if left < 0:
                    message = f"unit directory {str(directory)!r} has more than {MAX_ENTRIES:,} entries below it"
                    self.problems.append(Problem(message, file=str(directory), hint="name the units' own directory"))
                    return
                folders[:] = sorted(name for name in folders if name not in SKIPPED and not name.startswith("."))
                for name in sorted(files):
                    path = os.path.realpath(os.path.join(folder, name))
                    if name.endswith(".toml") and path not in seen:
                        seen.add(path)
                        yield Path(folder, name)
