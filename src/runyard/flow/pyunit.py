"""Loads Python units: `module@Class` of a unit's TOML file (spec 5.10, 5.11)."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from runyard.flow.status import FlowError, StatusCode
from runyard.flow.unit_library import UnitInfo

_loading = threading.RLock()
_modules: dict[Path, ModuleType] = {}


class _Beside:
    """Finds modules in the folders of units. Entries of `sys.path` could be lost: OpenCV, while it is imported, puts an
    earlier copy of it in its place, and units open side by side."""

    def __init__(self) -> None:
        self.folders: list[str] = []

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if path is not None or not self.folders:
            return None
        return importlib.machinery.PathFinder.find_spec(name, self.folders, target)


#: While a unit is loaded, its folder comes first. For imports inside of functions, which happen later, all come last.
_first, _last = _Beside(), _Beside()
sys.meta_path.insert(sys.meta_path.index(importlib.machinery.PathFinder), _first)
sys.meta_path.append(_last)


def load_unit(info: UnitInfo) -> Any:
    """A new object of the unit's class, or of the native unit under that name.

    Raises FlowError that says what is missing; what the module itself raises comes through.
    """
    name, _, attribute = info.entry.partition("@")
    directory = info.directory or Path()
    path = (directory / Path(*name.replace(".", "/").split("/"))).with_suffix(".py")
    if not path.is_file():
        raise FlowError(StatusCode.STATUS_NOTFOUND, f"module {name!r} of unit {info.name!r}: there is no file {path}")
    module = load_module(path, directory)
    made = getattr(module, attribute, None)
    if made is None:
        raise FlowError(StatusCode.STATUS_NOTFOUND, f"unit {info.name!r}: {path} has no {attribute!r}")
    from runyard.flow.native import NativeUnit

    unit = made.make() if isinstance(made, NativeUnit) else made() if callable(made) else None
    if not callable(getattr(unit, "process", None)):
        raise FlowError(StatusCode.STATUS_BADCONF, f"unit {info.name!r}: {attribute!r} in {path} has no process()")
    return unit


def load_module(path: Path, directory: Path) -> ModuleType:
    """The module in a file, loaded once, under a name of its own: equal names in other directories don't meet.

    Modules beside it can be imported by their plain names; those, too, are its own.
    """
    path = path.resolve()
    with _loading:
        if (found := _modules.get(path)) is not None:
            return found
        name = f"_runyard_unit_{len(_modules)}_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        before = _set_aside(directory)
        sys.modules[name] = module
        folder, outer = str(directory), _first.folders
        _first.folders = [folder, *outer]
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        finally:
            _first.folders = outer
            _set_aside(directory, only_from=directory)
            sys.modules.update(before)
            if folder not in _last.folders:
                _last.folders.append(folder)
        _modules[path] = module
        return module


def _set_aside(directory: Path, only_from: Path | None = None) -> dict[str, ModuleType]:
    """Takes out of `sys.modules` the modules whose names a file in the directory has.

    With `only_from` just those that were loaded from it; the unit's module keeps the ones that it imported.
    """
    aside: dict[str, ModuleType] = {}
    suffixes = importlib.machinery.SOURCE_SUFFIXES
    names = {
        entry.stem for entry in directory.iterdir() if entry.suffix in suffixes or (entry / "__init__.py").is_file()
    }
    home = directory.resolve()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in names or getattr(module, "__file__", None) is None:
            continue
        local = Path(str(module.__file__)).resolve().is_relative_to(home)
        if only_from is None or local:
            aside[name] = sys.modules.pop(name)
    return aside
