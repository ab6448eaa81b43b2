"""Errors as the K12AI document draws them (seed 1.2.1)."""

from __future__ import annotations

import traceback

import pytest

from runyard.report import failure

NOTHING: dict[str, float] = {}


def _fails(depth: int) -> None:
    if depth:
        _fails(depth - 1)
    else:
        NOTHING["lr"]


def _caught(depth: int) -> KeyError:
    try:
        _fails(depth)
    except KeyError as error:
        return error
    raise AssertionError


def test_an_exception_with_its_frames_outermost_first() -> None:
    detail = failure.of_exception(_caught(1))
    assert (detail["exc_type"], detail["exc_text"]) == ("KeyError", "'lr'")
    frames = detail["traceback"]
    assert [frame["funcname"] for frame in frames] == ["_caught", "_fails", "_fails"]
    assert [frame["source"] for frame in frames] == ["_fails(depth)", "_fails(depth - 1)", 'NOTHING["lr"]']
    assert all(frame["filename"] == __file__ and frame["linenum"] > 0 for frame in frames)


def test_of_a_long_traceback_both_ends_stay() -> None:
    frames = failure.of_exception(_caught(300))["traceback"]
    assert len(frames) == failure.FIRST + failure.LAST
    assert (frames[0]["funcname"], frames[-1]["source"]) == ("_caught", 'NOTHING["lr"]')


def test_an_exception_that_can_not_say_what_it_is() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert failure.of_exception(Mute())["exc_text"] == "<Mute without a text>"
    assert len(failure.of_exception(ValueError("x" * 100_000))["exc_text"]) == failure.MAX_TEXT


def test_a_syntax_error_says_its_own_place() -> None:
    with pytest.raises(SyntaxError) as caught:
        compile("x = 1\ny = = 2\n", "user.py", "exec")
    last = failure.of_exception(caught.value)["traceback"][-1]
    assert last == {"filename": "user.py", "linenum": 2, "funcname": "", "source": "y = = 2"}


def test_what_python_prints_is_read_back() -> None:
    error = _caught(2)
    printed = "epoch 1\n" + "".join(traceback.format_exception(error))
    expected = failure.of_exception(error)
    assert failure.of_text(printed) == expected
    assert failure.of_text(printed + "a last word\n")["exc_text"] == "'lr'\na last word"  # type: ignore[index]


def test_of_exceptions_in_a_row_the_last_one_counts() -> None:
    try:
        try:
            raise ValueError("first")
        except ValueError:
            raise LookupError("second") from None
    except LookupError as error:
        one = failure.of_text("".join(traceback.format_exception(error)))
    try:
        try:
            raise ValueError("first")
        except ValueError as first:
            raise LookupError("third") from first
    except LookupError as error:
        two = failure.of_text("".join(traceback.format_exception(error)))
    assert one is not None and two is not None
    assert (one["exc_text"], two["exc_type"], two["exc_text"]) == ("second", "LookupError", "third")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "all is well\n",
        "Traceback (most recent call last):\n",
        'Traceback (most recent call last):\n  File "a.py", line 1, in f\n',
        'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    x\nKeyError: 1\n' + "on it goes\n" * 100,
        "Traceback (most recent call last):\nnonsense\n",
    ],
)
def test_other_text_is_no_error(text: str) -> None:
    assert failure.of_text(text) is None


def test_no_text_takes_longer_than_it_is_long() -> None:
    # In time that grows with the square of the length, this one would take minutes.
    text = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    ' + "^" * 400_000 + "x\nKeyError: 1\n"
    found = failure.of_text(text)
    assert found is not None and found["exc_type"] == "KeyError"
