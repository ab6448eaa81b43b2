"""A backend for matplotlib (`MPLBACKEND=module://runyard.runcode.plot`): `show` sends the open figures, and closes
them."""

from __future__ import annotations

from typing import Any

from matplotlib import _pylab_helpers, pyplot
from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg

from runyard.runcode import pictures

FigureCanvas = FigureCanvasAgg
FigureManager = FigureManagerBase


def show(*args: Any, **kwargs: Any) -> None:
    for manager in _pylab_helpers.Gcf.get_all_fig_managers():
        pictures.show(manager.canvas.figure)
    pyplot.close("all")
