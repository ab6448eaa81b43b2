"""A figure: what was measured, what it is compared with, and what it has to reach."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """`least` and `most` bound the ratio if there is a reference, else the measured value itself. Without a bound the
    figure is for information."""

    name: str
    unit: str
    measured: float
    reference: float | None = None
    least: float | None = None
    most: float | None = None

    @property
    def ratio(self) -> float | None:
        return None if self.reference is None else self.measured / self.reference

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None if there is none."""
        value = self.measured if self.ratio is None else self.ratio
        if self.least is None and self.most is None:
            return None
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    @property
    def target(self) -> str:
        what = self.unit if self.reference is None else "x"
        bounds = ((">=", self.least), ("<=", self.most))
        return ", ".join(f"{sign} {bound:g} {what}" for sign, bound in bounds if bound is not None)


HEAD = ("figure", "measured", "reference", "ratio", "target", "")


def row(figure: Figure) -> tuple[str, ...]:
    reference = "" if figure.reference is None else f"{number(figure.reference)} {figure.unit}"
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
    verdict = {True: "ok", False: "SHORT", None: ""}[figure.met]
    return figure.name, f"{number(figure.measured)} {figure.unit}", reference, ratio, figure.target, verdict


def number(value: float) -> str:
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(figures: Sequence[Figure]) -> str:
    rows = [HEAD, *map(row, figures)]
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in (0, 4, 5) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in rows
    )
