"""Runyard: one job server for everything that runs on an AI or HPC box."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runyard.client import AsyncClient, Client

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "__version__"]


def __getattr__(name: str) -> Any:
    # Imported on first use: `import runyard` must stay cheap for the command line.
    if name in ("Client", "AsyncClient"):
        from runyard import client

        return getattr(client, name)
    raise AttributeError(f"module 'runyard' has no attribute {name!r}")
