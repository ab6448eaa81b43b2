"""Curves in a notebook and in a terminal."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from types import ModuleType, SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from runyard.client.messages import Curve
from runyard.notebook import curves, job
from runyard.notebook.screen import Screen

_SVG = "{http://www.w3.org/2000/svg}"


def _curve(*points: tuple[float | None, float, float | None], name: str = "loss") -> Curve:
    values = [value for _, _, value in points if value is not None]
    low, high, last = (min(values), max(values), values[-1]) if values else (None, None, None)
    at = datetime.fromtimestamp(0, UTC)
    return Curve(name=name, count=len(points), min=low, max=high, last=last, last_at=at, points=list(points))


def _path(curve: Curve) -> str:
    found = ElementTree.fromstring(curves.chart(curve)).find(f"{_SVG}path")
    return "" if found is None else found.attrib["d"]


@pytest.mark.parametrize(
    "points",
    [
        [],
        [(None, 0.0, None)],
        [(1.0, 0.0, 5.0)],
        [(1.0, 0.0, 1e308), (2.0, 1.0, -1e308)],
        [(1.0, 0.0, 1.0), (1.0, 0.0, 1.0)],
        [(None, 1e9, 1.0), (3.0, 2e9, 2.0)],
    ],
)
def test_any_curve_can_be_drawn(points: list[tuple[float | None, float, float | None]]) -> None:
    curve = _curve(*points)
    assert "nan" not in _path(curve) and "inf" not in _path(curve)
    assert curves.text(curve).startswith("loss: ")


def test_a_gap_is_a_gap() -> None:
    assert _path(_curve((1, 0, 0), (2, 0, 1), (3, 0, None), (4, 0, 1))).count("M") == 2


def test_names_are_no_markup() -> None:
    shown = curves.page("<b>", [_curve((1, 0, 1), name='"><script>')], "<i>", 50.0)
    assert "<script>" not in shown and "<i>" not in shown
    assert "50 %" in shown


def test_many_charts_are_named_only() -> None:
    shown = curves.page("running", [_curve((1, 0, 1), name=f"metric{number}") for number in range(30)])
    assert shown.count("<svg") == curves.MAX_CHARTS
    assert "metric29" in shown


def test_a_line_of_text() -> None:
    assert curves.text(_curve(*((n, 0, n) for n in range(8)))) == "loss: ▁▂▃▄▅▆▇█ 7"
    assert len(curves.text(_curve(*((n, 0, n) for n in range(1000))))) < 60


def test_in_a_terminal_what_has_not_changed_is_not_said_again(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    for _ in range(3):
        screen.show("running", [_curve((1, 0, 1))], progress=10)
    assert capsys.readouterr().out == "running 10 %\n  loss: ▄ 1\n"


def test_in_a_notebook_one_output_is_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, str]] = []
    handle = SimpleNamespace(update=lambda html: shown.append(("update", html)))

    def display(html: str, display_id: bool) -> Any:
        shown.append(("display", html))
        return handle

    package, module = ModuleType("IPython"), ModuleType("IPython.display")
    package.__dict__.update(get_ipython=object, display=module)
    module.__dict__.update(display=display, HTML=str)
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    screen = Screen()
    for state in ("running", "succeeded"):
        screen.show(state, [_curve((1, 0, 1))])
    assert [kind for kind, _ in shown] == ["display", "update"]
    assert "<b>succeeded</b>" in shown[1][1]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"message": "no"}, "Error: no"),
        ({"message": "no", "detail": "text"}, "Error: no"),
        ({"message": "no", "detail": {"exc_type": "KeyError", "traceback": 3}}, "KeyError: no"),
        (
            {"detail": {"traceback": ["frame", {"filename": "a.py", "linenum": 1, "funcname": "f", "source": "x"}]}},
            "Error: \n  a.py:1 f  x",
        ),
    ],
)
def test_errors_of_any_shape_are_shown_as_far_as_they_go(body: dict[str, Any], text: str) -> None:
    client: Any = SimpleNamespace(messages=lambda ref, kinds: [SimpleNamespace(body=body)])
    assert job._failure(client, "1") == text
