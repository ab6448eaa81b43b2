"""Dataflow: graphs of units, checked and run in a process of their own. Imports no server code.

The names of the SDK are here too, and are loaded when they are first asked for: `from runyard.flow import Flow`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runyard.flow.buffer import Buffer as Buffer
    from runyard.flow.buffer import BufferList as BufferList
    from runyard.flow.native import flowunit as flowunit
    from runyard.flow.sdk import Flow as Flow
    from runyard.flow.sdk import FlowStreamIO as FlowStreamIO
    from runyard.flow.sdk_graph import FlowGraphDesc as FlowGraphDesc
    from runyard.flow.status import FlowError as FlowError
    from runyard.flow.status import Status as Status
    from runyard.flow.unit import DataContext as DataContext
    from runyard.flow.unit import FlowUnit as FlowUnit

_HOMES = {
    "Buffer": "buffer",
    "BufferList": "buffer",
    "DataContext": "unit",
    "Flow": "sdk",
    "FlowError": "status",
    "FlowGraphDesc": "sdk_graph",
    "FlowStreamIO": "sdk",
    "FlowUnit": "unit",
    "Status": "status",
    "flowunit": "native",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"runyard.flow.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'runyard.flow' has no attribute {name!r}")
