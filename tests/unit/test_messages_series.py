"""Curves in bounded room, and as a line of text."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from runyard.cli.messages import sparkline
from runyard.cli.output import show
from runyard.model.series import BUDGET, MAX_NAMES, MOST, Curves, Point, reduced


def curve(values: list[float | None]) -> list[Point]:
    return [(float(place), 1000.0 + place, value) for place, value in enumerate(values)]


def test_few_points_stay_as_they_are() -> None:
    points = curve([3.0, None, 1.0])
    assert reduced(points, 3) == points
    assert reduced([], 2) == []


def test_the_first_the_last_and_the_peaks_stay() -> None:
    values: list[float | None] = [math.sin(place / 50) for place in range(10_000)]
    values[1234], values[7777] = 99.0, -99.0
    points = curve(values)
    left = reduced(points, 100)
    assert len(left) <= 100
    assert left[0] == points[0] and left[-1] == points[-1]
    assert points[1234] in left and points[7777] in left


@given(st.lists(st.one_of(st.none(), st.floats(-10, 10)), min_size=1, max_size=300), st.integers(2, 80))
def test_what_is_left_is_a_selection_in_order(values: list[float | None], most: int) -> None:
    points = curve(values)
    left = reduced(points, most)
    assert len(left) <= max(most, 2)
    places = [points.index(point) for point in left]
    assert places == sorted(set(places))
    known = [value for value in values if value is not None]
    if known and most >= 4 and None not in values:
        assert {max(known), min(known)} <= {value for _, _, value in left}


def test_a_gap_is_not_drawn_over() -> None:
    values: list[float | None] = [1.0] * 1000
    values[500] = None
    assert None in [value for _, _, value in reduced(curve(values), 20)]


def test_a_long_curve_is_held_in_bounded_room_with_its_figures() -> None:
    curves = Curves()
    for number in range(3 * MOST):
        curves.add(number + 1, float(number), {"values": {"loss": -float(number)}, "step": number})
    series = curves.names["loss"]
    assert (curves.seq, series.count) == (3 * MOST, 3 * MOST)
    assert len(series.points) < MOST
    assert (series.low, series.high) == (1.0 - 3 * MOST, 0.0)
    assert [series.points[place][0] for place in (0, -1)] == [0, 3 * MOST - 1]


def test_many_curves_share_the_room_and_more_than_that_are_left_out() -> None:
    curves = Curves()
    values = {f"m{number}": 1.0 for number in range(MAX_NAMES + 5)}
    for number in range(300):
        curves.add(number + 1, float(number), {"values": values})
    assert len(curves.names) == MAX_NAMES and curves.left_out == 5 * 300
    assert curves.size <= BUDGET


def test_a_curve_as_a_line_of_text() -> None:
    assert sparkline([]) == sparkline([None]) == ""
    assert sparkline([1.0, 1.0]) == "▅▅"
    assert sparkline([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]) == "▁▂▃▄▅▆▇█"
    assert sparkline([0.0, None, 7.0]) == "▁ █"
    assert len(sparkline([float(n) for n in range(1000)])) == 40
    assert sparkline([-1.7e308, 1.7e308]) == "▁█"


def test_what_programs_say_does_no_harm_to_a_terminal() -> None:
    assert show({"\x1b[2J": "\x07", "loss": 1e300}) == "\\x1b[2J=\\x07 loss=1e+300"
    assert show([3.0, 0.5]) == "3, 0.5"
