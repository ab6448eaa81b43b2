"""Pictures that the user's code shows: images of Pillow and figures of matplotlib go to whoever watches."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

_MODULE = "PIL.ImageShow"
_targets: list[Callable[[Any], None]] = []


def show(picture: Any) -> None:
    """Shows an image, a figure, or an array."""
    for target in _targets:
        target(picture)


def install(to: Callable[[Any], None]) -> None:
    """From now on `Image.show` and `pyplot.show` call `to`. Loads neither library."""
    _targets[:] = [to]
    os.environ["MPLBACKEND"] = "module://runyard.runcode.plot"
    sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Finds Pillow's viewers as everybody does, and adds ours when they are loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, real: Any) -> None:
        self._real = real

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._real.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        base: Any = module.Viewer

        class Viewer(base):  # type: ignore[misc]
            def show(self, image: Any, **options: Any) -> int:
                show(image)
                return 1

        module.register(Viewer, 0)
