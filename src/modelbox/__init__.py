"""ModelBox's Python module, on Runyard's flows: units and programs written for ModelBox import it unchanged."""

from __future__ import annotations

from typing import Any

from runyard.flow.buffer import Buffer, BufferList, DataMeta, Device
from runyard.flow.configuration import Configuration
from runyard.flow.log import (
    Log,
    LogLevel,
    debug,
    error,
    fatal,
    get_logger,
    info,
    notice,
    set_logger,
    warn,
)
from runyard.flow.session import ExternalData, SessionContext
from runyard.flow.status import Status, StatusCode
from runyard.flow.unit import DataContext, FlowUnit, FlowUnitError, FlowUnitEvent

_SDK = {
    "ExtOutputBufferList": "sdk",
    "ExternalDataMap": "sdk",
    "ExternalDataSelect": "sdk",
    "Flow": "sdk",
    "FlowGraphDesc": "sdk_graph",
    "FlowNodeDesc": "sdk_graph",
    "FlowPortDesc": "sdk_graph",
    "FlowStreamIO": "sdk",
    "Model": "model",
}

__all__ = [
    "Buffer", "BufferList", "Configuration", "DataContext", "DataMeta", "Device", "ExternalData", "FlowUnit",
    "FlowUnitError", "FlowUnitEvent", "Log", "LogLevel", "SessionContext", "Status", "StatusCode", "debug", "error",
    "fatal", "get_logger", "info", "notice", "set_logger", "warn",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """The parts for programs are loaded when they are asked for: a unit does not need them."""
    if name in _SDK:
        from importlib import import_module

        return getattr(import_module(f"runyard.flow.{_SDK[name]}"), name)
    raise AttributeError(f"module 'modelbox' has no attribute {name!r}")
