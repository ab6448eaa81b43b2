"""The Python client: `Client` and, with the same methods, `AsyncClient`.

Nothing is imported before it is used, so that `runyard.client.jobfile` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runyard.client.asynchronous import AsyncClient
    from runyard.client.document import EventDoc, JobUsage, NodeDoc, ScheduleDoc
    from runyard.client.error import UnexpectedAnswer, Unreachable, WaitTimeout
    from runyard.client.messages import Curve, MessageDoc
    from runyard.client.synchronous import Client

__all__ = [
    "AsyncClient",
    "Client",
    "Curve",
    "EventDoc",
    "JobUsage",
    "MessageDoc",
    "NodeDoc",
    "ScheduleDoc",
    "UnexpectedAnswer",
    "Unreachable",
    "WaitTimeout",
]

_HOME = {
    "AsyncClient": "asynchronous",
    "Client": "synchronous",
    "Curve": "messages",
    "EventDoc": "document",
    "JobUsage": "document",
    "MessageDoc": "messages",
    "NodeDoc": "document",
    "ScheduleDoc": "document",
    "UnexpectedAnswer": "error",
    "Unreachable": "error",
    "WaitTimeout": "error",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(f"runyard.client.{_HOME[name]}"), name)
    raise AttributeError(f"module 'runyard.client' has no attribute {name!r}")
