"""Curves as SVG for a notebook, and as a line of text for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from runyard.client.messages import Curve

WIDTH, HEIGHT = 320, 160
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 22, 20
_BARS = "▁▂▃▄▅▆▇█"
#: Charts that are drawn, newest names last; the others are named.
MAX_CHARTS = 24


def page(state: str, curves: Sequence[Curve], note: str = "", progress: float | None = None) -> str:
    """The state, a bar of progress (0 to 100), a chart for each curve, and a note (an error, for example), as HTML."""
    parts = [f"<b>{escape(state)}</b>"]
    if progress is not None:
        shown = min(100.0, max(0.0, progress))
        parts.append(f' <progress max="100" value="{shown:g}"></progress> {shown:g} %')
    if note:
        parts.append(f'<pre style="color:#b00020;white-space:pre-wrap">{escape(note)}</pre>')
    charts = "".join(chart(curve) for curve in curves[:MAX_CHARTS])
    parts.append(f'<div style="display:flex;flex-wrap:wrap;gap:8px">{charts}</div>')
    if len(curves) > MAX_CHARTS:
        parts.append(f"<div>and {escape(', '.join(curve.name for curve in curves[MAX_CHARTS:]))}</div>")
    return "".join(parts)


def chart(curve: Curve) -> str:
    """One curve as SVG. Where there is no number, there is a gap."""
    xs, ys = _axes(curve)
    title = f"{escape(curve.name)}: {_short(curve.last)}"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{title}" width="{WIDTH}" height="{HEIGHT}" '
        'style="background:#fff;border:1px solid #ddd;font:11px sans-serif">'
        f'<text x="{_LEFT}" y="14" font-weight="bold">{title}</text>'
    )
    numbers = [y for y in ys if y is not None]
    if not numbers:
        return head + "</svg>"
    low, high = min(numbers), max(numbers)
    first, last = min(xs), max(xs)
    labels = (
        f'<text x="{_LEFT - 4}" y="{_TOP + 8}" text-anchor="end">{_short(high)}</text>'
        f'<text x="{_LEFT - 4}" y="{HEIGHT - _BOTTOM}" text-anchor="end">{_short(low)}</text>'
        f'<text x="{_LEFT}" y="{HEIGHT - 6}">{_short(first)}</text>'
        f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{_short(last)}</text>'
    )
    path, pen = [], "M"
    for x, y in zip(xs, ys, strict=True):
        if y is None:
            pen = "M"
            continue
        across = _LEFT + _share(x, first, last) * (WIDTH - _LEFT - _RIGHT)
        down = HEIGHT - _BOTTOM - _share(y, low, high) * (HEIGHT - _TOP - _BOTTOM)
        # A single point is a line of no length, which a round end makes visible.
        path.append(f"{pen}{across:.1f} {down:.1f}" + (f"L{across:.1f} {down:.1f}" if pen == "M" else ""))
        pen = "L"
    line = f'<path d="{"".join(path)}" fill="none" stroke="#1f6feb" stroke-width="2" stroke-linecap="round"/>'
    return f"{head}{labels}{line}</svg>"


def text(curve: Curve, width: int = 40) -> str:
    """One curve as a line of text."""
    _, ys = _axes(curve)
    numbers = [y for y in ys if y is not None]
    if not numbers:
        return f"{curve.name}: -"
    step = max(1, -(-len(numbers) // width))
    low, high = min(numbers), max(numbers)
    bars = "".join(_BARS[int(_share(y, low, high) * (len(_BARS) - 1))] for y in numbers[::step])
    return f"{curve.name}: {bars} {_short(curve.last)}"


def _axes(curve: Curve) -> tuple[list[float], list[float | None]]:
    """By step, or by seconds since the first point if some points have none."""
    steps = [step for step, _, _ in curve.points if step is not None]
    if len(steps) == len(curve.points):
        xs = steps
    else:
        begin = curve.points[0][1] if curve.points else 0.0
        xs = [at - begin for _, at, _ in curve.points]
    return xs, [value for _, _, value in curve.points]


def _share(value: float, low: float, high: float) -> float:
    """Where it lies between the two, from 0 to 1."""
    # Halves, for the difference of two large numbers may have no end.
    span = high / 2 - low / 2
    return (value / 2 - low / 2) / span if span > 0 else 0.5


def _short(number: float | None) -> str:
    return "-" if number is None else f"{number:.4g}"
