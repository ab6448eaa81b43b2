"""The calls of `runyard.report`: what they tell, and that they never disturb a program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from runyard import report
from runyard.model.metrics import metrics_body
from runyard.report import facade, picture, plain
from runyard.report.channel import Channel
from tests.recorder import Recorder, recording


@pytest.fixture
def told() -> Iterator[Recorder]:
    with recording() as recorder:
        yield recorder


def test_numbers_are_told_by_name(told: Recorder) -> None:
    report.metrics({"loss": numpy.float32(0.5)}, accuracy=1, step=numpy.int64(7), category="val")
    report.metrics(loss=float("nan"), speed=float("inf"))
    first, second = told.bodies("metrics")
    assert first == {"values": {"loss": 0.5, "accuracy": 1}, "step": 7, "category": "val"}
    assert second == {"values": {"loss": "NaN", "speed": "Infinity"}}
    assert metrics_body(second)["values"] == {"loss": None, "speed": None}


@pytest.mark.parametrize(
    ("call", "kind", "title", "payload"),
    [
        (
            lambda: report.scalar("loss", 0.5, step=3),
            "scalar",
            "train_loss",
            {"x": {"label": "step", "value": 3}, "y": [{"label": "loss", "value": 0.5}]},
        ),
        (
            lambda: report.scalar("loss", {"a": 1, "b": 2.5}, category="val"),
            "scalar",
            "val_loss",
            {"x": {"label": "step", "value": None}, "y": [{"label": "a", "value": 1}, {"label": "b", "value": 2.5}]},
        ),
        (lambda: report.matrix("confusion", numpy.eye(2)), "matrix", "train_confusion", [[1.0, 0.0], [0.0, 1.0]]),
        (lambda: report.matrix("m", [[1, float("nan")]]), "matrix", "train_m", [[1, None]]),
        (lambda: report.text("progress", 12.5), "text", "train_progress", "12.5"),
        (lambda: report.image("plot", "<svg xmlns='x'/>"), "image", "train_plot", "<svg xmlns='x'/>"),
    ],
)
def test_typed_objects_are_what_the_server_takes(
    told: Recorder, call: Callable[[], None], kind: str, title: str, payload: Any
) -> None:
    call()
    (body,) = told.bodies("metrics")
    (item,) = body["items"]
    assert (item["type"], item["data"]["title"], item["data"]["payload"]) == (kind, title, payload)
    assert metrics_body(body)["items"][0]["_id_"]


@pytest.mark.parametrize(
    "call",
    [
        lambda: report.metrics(loss="a text"),
        lambda: report.metrics(loss=object()),
        lambda: report.metrics(7),  # type: ignore[arg-type]
        lambda: report.matrix("m", [1, 2]),
        lambda: report.image("p", b"no picture"),
        lambda: report.image("p", "/nowhere/picture.png"),
        lambda: report.image("p", object()),
        lambda: report.predict("first", 1),  # type: ignore[arg-type]
        lambda: report.crash(),
    ],
)
def test_a_wrong_call_is_a_notice_and_no_exception(told: Recorder, call: Callable[[], None]) -> None:
    call()
    ((kind, body),) = told.told
    assert (kind, body["code"]) == ("info", "bad_report")
    assert body["text"].startswith("report.")


def test_wrong_calls_in_a_loop_do_not_flood(told: Recorder) -> None:
    for _ in range(10 * facade.MAX_NOTICES):
        report.metrics(loss="a text")
    assert len(told.told) == facade.MAX_NOTICES


def test_words(told: Recorder) -> None:
    report.log("a line\n")
    report.predict(0, {"label": "cat", "p": numpy.float64(0.5)})
    report.info("warming up", cache=Path("/x"))
    report.warn("slow")
    assert told.told == [
        ("log", {"log": "a line\n"}),
        ("predict", {"index": 0, "prediction": '{"label": "cat", "p": 0.5}'}),
        ("info", {"text": "warming up", "cache": "/x"}),
        ("error", {"status": "warning", "message": "slow"}),
    ]


def test_around_a_program_it_is_told_how_it_went(told: Recorder) -> None:
    with report.run(phase="train"):
        report.metrics(loss=1)
    running, finished = told.bodies("status")
    assert (running["status"], running["phase"], finished["status"]) == ("running", "train", "finished")
    assert finished["uptime"] >= 0
    assert running["memstat"]["app_cpu_memory_usage_MB"] > 1


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (KeyError("lr"), "crash"),
        (SystemExit(0), "finished"),
        (SystemExit(3), "crash"),
        (KeyboardInterrupt(), "stopped"),
        (facade.Stopped(143), "stopped"),
    ],
)
def test_errors_go_on_their_way(told: Recorder, error: BaseException, last: str) -> None:
    with pytest.raises(type(error)), report.run():
        raise error
    assert told.statuses() == ["running", last]


def test_an_error_that_is_no_exception_says_where_it_was(told: Recorder) -> None:
    report.error("LossNanError", "the loss is NaN", code=100907)
    report.error("Bad", filename="model.py", linenum=12)
    first, second = told.bodies("error")
    assert (first["status"], first["code"], first["message"]) == ("error", 100907, "the loss is NaN")
    assert first["detail"]["filename"] == __file__
    assert first["detail"]["funcname"] == "test_an_error_that_is_no_exception_says_where_it_was"
    assert second["detail"] == {
        "filename": "model.py",
        "linenum": 12,
        "funcname": "",
        "exc_type": "Bad",
        "exc_text": "",
    }


def test_outside_a_job_nothing_happens() -> None:
    facade.reset()
    facade._channel = Channel("")
    try:
        assert not report.active()
        report.metrics(loss=object())
        with report.run():
            report.image("p", object())
    finally:
        facade.reset()


@pytest.mark.parametrize(
    ("pixels", "size", "colour"),
    [
        (numpy.zeros((2, 3)), (3, 2), 0),
        (numpy.zeros((2, 3, 1), dtype="uint8"), (3, 2), 0),
        (numpy.zeros((4, 5, 3), dtype="uint8"), (5, 4), 2),
        (numpy.zeros((3, 8, 9)), (9, 8), 2),
        (numpy.zeros((4, 5, 4)), (5, 4), 6),
        ([[0, 255], [1, 2]], (2, 2), 0),
    ],
)
def test_arrays_become_pictures(pixels: Any, size: tuple[int, int], colour: int) -> None:
    from io import BytesIO

    from PIL import Image

    data = picture.png(pixels)
    assert data[25] == colour
    with Image.open(BytesIO(data)) as image:
        image.load()
        assert image.size == size


def test_fractions_go_from_black_to_white() -> None:
    from io import BytesIO

    from PIL import Image

    with Image.open(BytesIO(picture.png([[0.0, 0.5, 1.0, 7.5, float("nan")]]))) as image:
        assert image.tobytes() == bytes([0, 128, 255, 255, 0])


def test_a_picture_that_is_too_large_is_made_smaller() -> None:
    noise = numpy.random.default_rng(1).integers(0, 256, (500, 520, 3), dtype="uint8")
    from PIL import Image

    for large in (noise, Image.fromarray(noise)):
        assert len(picture.png(large)) <= picture.MAX_PNG


def test_plain_data() -> None:
    strange = {"a": {1, 2}, 3: (numpy.float32(1.5), None), "t": numpy.arange(3), "o": Path("/x"), "n": float("nan")}
    assert plain.jsonable(strange) == {"a": [1, 2], "3": [1.5, None], "t": [0, 1, 2], "o": "/x", "n": "NaN"}
    endless: list[Any] = []
    endless.append(endless)
    assert plain.jsonable(endless)
