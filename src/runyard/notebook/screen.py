"""Where a notebook helper shows things: an output of IPython that is drawn anew, or lines of text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from runyard.client.messages import Curve
from runyard.notebook import curves


class Screen:
    """One picture that changes."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._display = _ipython()
        self._last = ""

    def show(self, state: str, found: Sequence[Curve], note: str = "", progress: float | None = None) -> None:
        if self._display is None:
            self._print(state, found, note, progress)
            return
        html = self._display.HTML(curves.page(state, found, note, progress))
        if self._handle is None:
            self._handle = self._display.display(html, display_id=True)
        else:
            self._handle.update(html)

    def _print(self, state: str, found: Sequence[Curve], note: str, progress: float | None) -> None:
        shown = "" if progress is None else f" {progress:g} %"
        text = "\n".join(
            [f"{state}{shown}", *("  " + curves.text(curve) for curve in found), *([note] if note else [])]
        )
        if text != self._last:
            self._last = text
            print(text, file=sys.stdout, flush=True)


def _ipython() -> Any:
    """The module that displays, inside IPython; else None."""
    shell = sys.modules.get("IPython")
    if shell is None or shell.get_ipython() is None:
        return None
    from IPython import display

    return display
