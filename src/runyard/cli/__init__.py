"""The `runyard` command. `app` knows the commands; each loads only when it runs."""

from __future__ import annotations

import sys


def main() -> None:
    """The console script's entry: runs the command line and ends the process with its exit code."""
    from runyard.cli.app import run

    sys.exit(run())
