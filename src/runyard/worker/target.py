"""Finding the Python code that a launch names, by reading it: nothing of it is executed here.

A target is `path/to/file.py` (a script, or its `async def main`), `file.py:function` or `package.module:function`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.machinery
import importlib.util
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

#: Larger sources (bytes) are not looked into; they run in a process of their own.
LARGEST = 1 << 20


class NoTarget(Exception):
    """There is no such code. The text says what is missing, where, and what to do."""


class Target(NamedTuple):
    path: str
    """The source file."""
    function: str | None
    """None: the whole file, as a script."""
    package: str
    """Of the module; empty for a file."""
    search: tuple[str, ...]
    """Folders that imports look in before all others."""
    coroutine: bool
    """It is a coroutine function for sure, and so may share a process."""


class _Source(NamedTuple):
    functions: dict[str, bool]
    """Functions by name: is it a coroutine function?"""
    names: frozenset[str] | None
    """Whatever else the module binds; None if that can't be told from its source."""


_read: dict[str, tuple[tuple[int, int, int], _Source]] = {}


def find(text: str, cwd: str | None, env: Mapping[str, str]) -> Target:
    """The target that `text` names. `cwd` is where relative paths begin, `env` may have a `PYTHONPATH`.

    Raises NoTarget.
    """
    place, colon, function = text.rpartition(":")
    if not colon or (text.endswith(".py") and not function.isidentifier()):
        place, function = text, ""
    if colon and place != text and not function.isidentifier():
        raise NoTarget(f"{function!r} in the target {text!r} is no name of a function")
    folder = os.path.abspath(cwd or "/")
    extra = [os.path.join(folder, path) for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    if place.endswith(".py"):
        path = os.path.normpath(os.path.join(folder, place))
        search, package = (os.path.dirname(path), *extra), ""
    elif function and all(part.isidentifier() for part in place.split(".")):
        search = (folder, *extra)
        path, package = _module(place, search)
    else:
        raise NoTarget(
            f"{text!r} is no Python target: give path/to/file.py, path/to/file.py:function or package.module:function"
        )
    source = _source(path, text)
    if not function:
        coroutine = source.functions.get("main", False)
        return Target(path, "main" if coroutine else None, package, search, coroutine)
    if function not in source.functions and source.names is not None and function not in source.names:
        there = ", ".join(sorted(source.functions)) or "none"
        raise NoTarget(f"there is no function {function!r} in {path}; its functions: {there}")
    return Target(path, function, package, search, source.functions.get(function, False))


def _module(name: str, search: tuple[str, ...]) -> tuple[str, str]:
    """The file of a module, and its package."""
    importlib.invalidate_caches()
    if len(sys.path_importer_cache) > 1000:
        sys.path_importer_cache.clear()
    parents = name.split(".")[:-1]
    places = [*search, *(path for path in sys.path if path)]
    package = ""
    for part in parents:
        spec = _spec(f"{package}.{part}" if package else part, places, package)
        package = f"{package}.{part}" if package else part
        if spec.submodule_search_locations is None:
            raise NoTarget(f"{package!r} in the target module {name!r} is a module, not a package ({spec.origin})")
        places = list(spec.submodule_search_locations)
    spec = _spec(name, places, package)
    if spec.origin is None or not os.path.isfile(spec.origin):
        raise NoTarget(f"the module {name!r} has no file of its own: name the module in it that defines the function")
    return spec.origin, name if os.path.basename(spec.origin) == "__init__.py" else package


def _spec(name: str, places: Iterable[str], package: str) -> importlib.machinery.ModuleSpec:
    spec = importlib.machinery.PathFinder.find_spec(name, list(places))
    if spec is None and not package:
        # Editable installs have finders of their own.
        spec = importlib.util.find_spec(name)
    if spec is None:
        where = ", ".join(places) if package else "the run's cwd, its PYTHONPATH and the server's Python"
        raise NoTarget(f"there is no module {name!r} in {where}")
    return spec


def _source(path: str, text: str) -> _Source:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            # To open a pipe would hold up everybody else's runs.
            raise NoTarget(f"{path} (target {text!r}) is no regular file")
        stamp = status.st_mtime_ns, status.st_size, status.st_ino
        known = _read.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        if not path.endswith(".py") or status.st_size > LARGEST:
            return _Source({}, None)
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise NoTarget(f"there is no file {path} (target {text!r}): check the path and the cwd") from None
    except OSError as error:
        raise NoTarget(f"can't read {path} (target {text!r}): {error.strerror}") from None
    try:
        source = _survey(ast.parse(data, path))
    except SyntaxError as error:
        raise NoTarget(f"{path}, line {error.lineno or '?'}: {type(error).__name__}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise NoTarget(f"{path} can't be read as Python: {type(error).__name__}: {error}") from None
    if len(_read) > 1000:
        _read.clear()
    _read[path] = stamp, source
    return source


def _survey(tree: ast.Module) -> _Source:
    functions: dict[str, bool] = {}
    names: set[str] = set()
    sure = True
    for node in _statements(tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # A decorator may make anything of it: then it gets a process of its own, which takes it as it comes.
            functions[node.name] = isinstance(node, ast.AsyncFunctionDef) and not node.decorator_list
        elif isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            sure = False
        elif isinstance(node, ast.ClassDef):
            names.add(node.name)
        else:
            names.update(alias.asname or alias.name for alias in getattr(node, "names", ()) if hasattr(alias, "name"))
            for part in ast.walk(node):
                if isinstance(part, ast.Name):
                    if isinstance(part.ctx, ast.Store):
                        names.add(part.id)
                    elif part.id in ("globals", "exec"):
                        sure = False
    for name in names & functions.keys():
        # Bound twice: what it is in the end can't be told from here.
        functions[name] = False
    return _Source(functions, frozenset(names) if sure and "__getattr__" not in functions else None)


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Those of the module itself, also behind `if`, `try` and `with`."""
    for node in body:
        if isinstance(node, ast.If | ast.Try | ast.With):
            for part in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(node, part, ()))
            for handler in getattr(node, "handlers", ()):
                yield from _statements(handler.body)
        else:
            yield node
