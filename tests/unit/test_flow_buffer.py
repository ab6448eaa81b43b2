"""Buffers and sessions by themselves, without a flow."""

from __future__ import annotations

from typing import Any

import pytest

from runyard.flow.buffer import Buffer
from runyard.flow.session import SessionContext


@pytest.mark.parametrize(
    ("data", "text"), [(b"a\xc3\xbc", "aü"), ("text", "text"), (None, ""), (5, "5"), ([1, "x"], "[1, 'x']")]
)
def test_every_buffer_can_be_shown_as_text(data: Any, text: str) -> None:
    assert str(Buffer(None, data)) == text


def test_text_with_half_a_surrogate_pair_has_bytes() -> None:
    buffer = Buffer("a\ud800")
    assert buffer.as_bytes() == b"a\xed\xa0\x80"
    assert "4 bytes" in repr(buffer)
    assert Buffer(b"\xff").as_text().encode("utf-8", "surrogateescape") == b"\xff"


@pytest.mark.parametrize(
    ("meta", "shape", "kind"),
    [
        ({}, (4,), "uint8"),
        ({"type": "float"}, (1,), "float32"),
        ({"type": "double"}, (4,), "uint8"),
        ({"shape": [2, 2]}, (2, 2), "uint8"),
        ({"shape": 4}, (4,), "uint8"),
        ({"shape": [-2, -2]}, (4,), "uint8"),
        ({"shape": [3]}, (4,), "uint8"),
    ],
)
def test_bytes_are_an_array_as_their_meta_say_where_they_fit(
    meta: dict[str, Any], shape: tuple[int, ...], kind: str
) -> None:
    array = Buffer(b"abcd", meta=meta).as_array()
    assert (array.shape, array.dtype.name) == (shape, kind)
    assert Buffer(b"", meta=meta).as_array().size == 0


def test_functions_are_called_once_when_a_session_ends_or_has_ended() -> None:
    context = SessionContext()
    called: list[str] = []
    context.on_end(lambda: called.append("before"))
    assert called == []
    for call in context.end():
        call()
    assert context.end() == []
    context.on_end(lambda: called.append("after"))
    assert called == ["before", "after"]

    def fails() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        context.on_end(fails)
