"""Makes the unit object of a node: built in, from a Python file, a model, or given by a program."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from runyard.flow.status import FlowError, StatusCode
from runyard.flow.unit_library import UnitInfo

ISOLATIONS = ("", "none", "thread", "process")


def make_unit(info: UnitInfo, isolation: str = "") -> Any:
    """A new instance of the unit, not opened yet; with `isolation="process"` one that runs in worker processes.

    Raises FlowError with the reason where it can't be made.
    """
    if isolation not in ISOLATIONS:
        raise FlowError(StatusCode.STATUS_BADCONF, f"isolation must be thread or process, not {isolation!r}")
    if isolation == "process":
        from runyard.flow.isolation import IsolatedUnit

        return IsolatedUnit(info)
    if info.factory is not None:
        return info.factory()
    if info.type == "builtin":
        from runyard.flow.units import BUILTIN

        module, _, name = (info.entry or BUILTIN.get(info.name, "")).partition(":")
        return getattr(import_module(module), name)()
    if info.type == "python":
        from runyard.flow.pyunit import load_unit

        return load_unit(info)
    if info.type == "inference":
        from runyard.flow.units.inference import Inference

        return Inference(info)
    raise FlowError(
        StatusCode.STATUS_NOTSUPPORT,
        f"units of type {info.type!r} can't be run here; write it in Python, or use an ONNX model",
    )
