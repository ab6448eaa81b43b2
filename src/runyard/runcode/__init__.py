"""Runs a piece of Python that somebody has typed: with live output and pictures, limits, and errors that show nothing
but the user's own lines (spec k12ai.md 4.4). `python -m runyard.runcode --help`.

The code runs in a process of its own. A supervisor reads what it writes, reports it, and sees to the limits.
"""

from __future__ import annotations

#: What tracebacks call the user's code.
PSEUDO_FILE = "pyrcode"
