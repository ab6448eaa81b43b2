"""What the page of a job makes of the bodies that programs send."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from runyard.api.pages.message_view import MAX_FRAMES, MAX_ROWS, MAX_TEXT, SHADES, Matrix, line, picture, widgets
from runyard.model.message import Message
from runyard.report.picture import png

PICTURE = png([[0, 255], [255, 0]])


def message(body: dict[str, Any], kind: str = "metrics", seq: int = 7) -> Message:
    return Message(seq, 1, kind, 0.0, body, "report", 3)


def shown(kind: str, payload: Any, seq: int = 7, **more: Any) -> Message:
    data = {"title": f"train_{kind}", "payload": payload, **more}
    return message({"values": {}, "items": [{"type": kind, "category": "train", "data": data}]}, seq=seq)


def test_an_error_shows_its_exception_and_the_frames() -> None:
    frame = {"filename": "train.py", "linenum": 12, "funcname": "run", "source": "lr = cfg['lr']"}
    detail = {"exc_type": "KeyError", "exc_text": "'lr'", "traceback": [frame]}
    found = line(message({"status": "crash", "message": "'lr'", "code": 100913, "detail": detail}, "error"))
    assert (found.kind, found.rank, found.bad, found.at) == ("error", "3", True, "1970-01-01 00:00:00")
    assert (found.error, found.text) == ("KeyError: 'lr'", "crash 100913")
    (only,) = found.frames
    assert (only.file, only.line, only.function, only.source) == ("train.py", "12", "run", "lr = cfg['lr']")


@pytest.mark.parametrize(
    ("kind", "body", "text", "bad"),
    [
        ("error", {"status": "warning", "message": "slow"}, "warning slow", False),
        ("error", {"code": 100208, "message": "no model"}, "100208 no model", True),
        ("status", {"status": "running", "memstat": {}}, "running", False),
        ("log", {"log": "hello\n"}, "hello\n", False),
        ("info", {"text": "news", "more": 1}, "news", False),
        ("predict", {"index": 2, "prediction": '{"label":"7"}'}, '2: {"label":"7"}', False),
        ("own", {"a": [1, None]}, '{"a":[1,null]}', False),
        ("own", {}, "{}", False),
        ("own", {"text": {"not": "a text"}}, "{'not': 'a text'}", False),
        ("log", {"log": "x" * 10_000}, "x" * (MAX_TEXT - 1) + "…", False),
    ],
)
def test_a_message_is_a_line(kind: str, body: dict[str, Any], text: str, bad: bool) -> None:
    found = line(message(body, kind))
    assert (found.text, found.bad, found.error, found.frames) == (text, bad, "", [])


@pytest.mark.parametrize(
    ("detail", "frames"),
    [
        (None, 0),
        ("text", 0),
        ([], 0),
        ({"traceback": "text"}, 0),
        ({"traceback": [None, 3, {}, {"filename": {"a": 1}, "souce": ["x"]}]}, 4),
        ({"traceback": [{}] * 5000}, MAX_FRAMES),
        ({"filename": "net.py", "linenum": 3, "funcname": "build"}, 1),
    ],
)
def test_details_of_any_shape_are_shown_as_far_as_they_go(detail: Any, frames: int) -> None:
    assert len(line(message({"detail": detail}, "error")).frames) == frames


def test_the_newest_of_each_title_is_shown() -> None:
    messages = [shown("text", "0:00:01", seq=9), shown("text", "0:00:09", seq=8), shown("image", "aGk=", seq=4)]
    found = widgets([*messages, shown("image", "aGk=", seq=3)])
    assert [text.text for text in found.texts] == ["0:00:01"]
    assert [(one.seq, one.place, one.link) for one in found.pictures] == [(4, 0, "")]


def test_a_matrix_is_shaded_between_its_extremes() -> None:
    (found,) = widgets([shown("matrix", [[0, 1], [None, 9.0]], labels=["cat", "dog"])]).matrices
    assert found.labels == ["cat", "dog"]
    assert [[cell.text for cell in row] for row in found.rows] == [["0", "1"], ["null", "9"]]
    shades = [[cell.shade for cell in row] for row in found.rows]
    assert shades[0][0] == 0 < shades[0][1] < shades[1][1] == SHADES - 1 and shades[1][0] == 0


@pytest.mark.parametrize(
    ("payload", "rows", "noted"),
    [
        ([], 0, False),
        ([[]], 1, False),
        ([[1], [1, 2, 3]], 2, False),
        ([["a", True, {}]], 1, False),
        ([[10**400, -(10**400), 1e308, -1e308, 1]], 1, False),
        ("text", 0, True),
        ([1, 2], 0, True),
        (None, 0, True),
        ([[0] * (MAX_ROWS + 1)], 0, True),
        ([[0]] * (MAX_ROWS + 1), 0, True),
    ],
)
def test_matrices_of_any_shape_are_shown_as_far_as_they_go(payload: Any, rows: int, noted: bool) -> None:
    (found,) = widgets([shown("matrix", payload, labels=["only one"])]).matrices
    assert isinstance(found, Matrix)
    assert (len(found.rows), bool(found.note)) == (rows, noted) and found.labels in ([], ["only one"])


def test_what_is_no_widget_is_passed_over() -> None:
    bodies: list[dict[str, Any]] = [{}, {"items": 3}, {"items": [None, {}, {"data": 1}]}, {"items": [{"data": {}}]}]
    found = widgets([*map(message, bodies), shown("image", 3), shown("video", "x"), shown("scalar", {})])
    assert (found.texts, found.matrices, found.pictures) == ([], [], [])


def test_a_picture_has_the_type_that_its_bytes_have() -> None:
    text = base64.b64encode(PICTURE).decode()
    assert picture(shown("image", text, format="base64string"), 0) == (PICTURE, "image/png")
    assert picture(shown("image", f"data:text/html;base64,{text}"), 0) == (PICTURE, "image/png")
    assert picture(shown("image", "<svg/>", format="svg"), 0) == (b"<svg/>", "image/svg+xml")
    plotted = message({"imshow": text, "format": "base64string"}, "log")
    assert picture(plotted, 0) == (PICTURE, "image/png") and picture(plotted, 1) is None
    assert line(plotted).picture and line(plotted).text == ""
    page = base64.b64encode(b"<script>alert(1)</script>").decode()
    for nothing in (shown("image", page), shown("image", "?"), shown("image", None), shown("text", text), message({})):
        assert picture(nothing, 0) is None
    assert picture(shown("image", text), 1) is None and picture(shown("image", text), -1) is None
