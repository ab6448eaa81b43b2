"""Event files of TensorBoard: records, checksums, the forms of scalars and pictures, and reading on."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest

from runyard.message.line import body_bytes
from runyard.model.message import MAX_BODY, NewMessage
from runyard.model.metrics import MAX_VALUES
from runyard.report import eventfile
from runyard.report.eventfile import Damaged, Point
from runyard.service.eventfiles import EventFiles


def _varint(number: int) -> bytes:
    found = bytearray()
    number &= (1 << 64) - 1
    while True:
        found.append(number & 0x7F | (0x80 if number > 0x7F else 0))
        number >>= 7
        if not number:
            return bytes(found)


def _field(number: int, value: Any) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    if isinstance(value, float):
        return _varint(number << 3 | 1) + struct.pack("<d", value)
    return _varint(number << 3 | 2) + _varint(len(value)) + bytes(value)


def _float(number: int, value: float) -> bytes:
    return _varint(number << 3 | 5) + struct.pack("<f", value)


def _event(step: int, *values: bytes, at: float = 1000.0) -> bytes:
    summary = b"".join(_field(1, value) for value in values)
    return eventfile.record(_field(1, at) + _field(2, step) + _field(5, summary))


def _simple(tag: str, value: float) -> bytes:
    return _field(1, tag.encode()) + _float(2, value)


_PLUGIN = _field(9, _field(1, _field(1, b"scalars")))


@pytest.mark.parametrize(
    ("data", "crc"),
    # RFC 3720, appendix B.4, and the check value of the CRC catalogue.
    [(b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E)],
)
def test_the_checksum(data: bytes, crc: int) -> None:
    assert eventfile.crc32c(data) == crc


def test_a_file_that_tensorboard_has_written() -> None:
    # The first record of every file of PyTorch and TensorFlow: brain.Event:2, with its checksums.
    body = _field(1, 0.0) + _field(3, b"brain.Event:2")
    known = bytes.fromhex("1800000000000000a37f4b22")
    assert eventfile.record(body)[:12] == known
    assert list(eventfile.records(eventfile.record(body))) == [(body, 40)]


@pytest.mark.parametrize(
    "value",
    [
        _simple("loss", 0.5),
        _field(1, b"loss") + _PLUGIN + _field(8, _field(1, 1) + _field(4, struct.pack("<f", 0.5))),
        _field(1, b"loss") + _PLUGIN + _field(8, _field(1, 1) + _field(5, struct.pack("<f", 0.5))),
        _field(1, b"loss") + _PLUGIN + _field(8, _field(1, 2) + _field(6, struct.pack("<d", 0.5))),
    ],
)
def test_the_forms_of_scalars(value: bytes) -> None:
    ((body, _),) = eventfile.records(_event(7, value))
    assert body is not None
    assert eventfile.points(body) == [Point(1000.0, 7, "loss", 0.5)]


def test_other_values_are_passed_over() -> None:
    histogram = _field(1, b"weights") + _field(5, b"")
    tensor = _field(1, b"text") + _field(8, _field(1, 7) + _field(8, b"words"))
    image = _field(1, b"samples/0") + _field(4, _field(1, 2) + _field(4, b"\x89PNG"))
    ((body, _),) = eventfile.records(_event(-1, histogram, tensor, image))
    assert body is not None
    assert eventfile.points(body) == [Point(1000.0, -1, "samples/0", None, b"\x89PNG")]


@pytest.mark.parametrize("place", [0, 8, 14, -1])
def test_damage_is_noticed(place: int) -> None:
    data = bytearray(_event(1, _simple("loss", 1)))
    data[place] ^= 0x40
    with pytest.raises(Damaged):
        list(eventfile.records(bytes(data)))


def test_a_record_without_end_is_damage() -> None:
    length = struct.pack("<Q", 1 << 63)
    with pytest.raises(Damaged):
        list(eventfile.records(length + struct.pack("<I", eventfile.masked(eventfile.crc32c(length)))))


@pytest.mark.parametrize("body", [b"\xff" * 20, b"\x0a\x7f", b"\x0b", b"\x2a\x03\x0a\x7f\x00"])
def test_what_is_no_message_is_damage(body: bytes) -> None:
    with pytest.raises(Damaged):
        eventfile.points(body)


def _read(files: EventFiles) -> list[NewMessage]:
    found: list[NewMessage] = []
    while files.read(1, found, 1000, 5000.0):
        pass
    return found


def test_a_growing_folder_is_read_on(tmp_path: Path) -> None:
    file = tmp_path / "run1" / "events.out.tfevents.1.host"
    file.parent.mkdir()
    whole = _event(1, _simple("loss", 0.5), _simple("acc", 0.25)) + _event(2, _simple("loss", 0.25))
    file.write_bytes(whole[:-3])
    offsets: dict[str, int] = {}
    files = EventFiles(tmp_path, offsets, 0.0, None)
    (first,) = _read(files)
    assert (first.kind, first.at, first.body) == ("metrics", 1000.0, {"values": {"loss": 0.5, "acc": 0.25}, "step": 1})
    file.write_bytes(whole)
    (second,) = _read(files)
    assert second.body == {"values": {"loss": 0.25}, "step": 2}
    assert _read(files) == []
    # Another server goes on from there.
    assert _read(EventFiles(tmp_path, dict(offsets), 0.0, None)) == []


def test_of_a_damaged_file_the_rest_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    good = _event(1, _simple("loss", 0.5))
    (tmp_path / "events.out.tfevents.1").write_bytes(good + b"\0" * 100)
    (tmp_path / "events.out.tfevents.2").write_bytes(_event(3, _simple("acc", 1.0)))
    files = EventFiles(tmp_path, {}, 0.0, None)
    kinds = [(message.kind, message.body.get("code")) for message in _read(files)]
    assert sorted(kinds, key=str) == [("info", "bad_events"), ("metrics", None), ("metrics", None)]
    assert _read(files) == []


def test_only_files_of_this_run_and_its_account_are_read(tmp_path: Path) -> None:
    old = tmp_path / "events.out.tfevents.old"
    old.write_bytes(_event(1, _simple("loss", 0.5)))
    os.utime(old, (1000, 1000))
    (tmp_path / "other.txt").write_bytes(_event(1, _simple("loss", 0.5)))
    (tmp_path / "tfevents.link").symlink_to(old)
    os.mkfifo(tmp_path / "tfevents.pipe")
    assert _read(EventFiles(tmp_path, {}, 2000.0, None)) == []
    assert _read(EventFiles(tmp_path / "nowhere", {}, 0.0, None)) == []
    if os.getuid() == 0:
        assert _read(EventFiles(tmp_path, {}, 0.0, "nobody")) == []


def test_a_picture_and_a_record_that_is_too_large(tmp_path: Path) -> None:
    image = _field(1, b"val/samples") + _field(4, _field(4, b"\x89PNG" + bytes(100)))
    large = eventfile.record(bytes(eventfile.MAX_RECORD + 1))
    (tmp_path / "tfevents").write_bytes(large + _event(1, image))
    (message,) = _read(EventFiles(tmp_path, {}, 0.0, None))
    (item,) = message.body["items"]
    assert (item["type"], item["category"], item["data"]["title"]) == ("image", "val", "samples")


@pytest.mark.parametrize(
    ("at", "told"), [(1e300, 5060.0), (float("inf"), 5000.0), (float("nan"), 5000.0), (0.0, 5000.0)]
)
def test_a_time_that_no_clock_shows_is_now(tmp_path: Path, at: float, told: float) -> None:
    (tmp_path / "tfevents.1").write_bytes(_event(1, _simple("loss", 0.5), at=at))
    assert [message.at for message in _read(EventFiles(tmp_path, {}, 0.0, None))] == [told]


def test_a_time_of_another_form_is_passed_over(tmp_path: Path) -> None:
    summary = _field(5, _field(1, _simple("loss", 0.5)))
    (tmp_path / "tfevents.1").write_bytes(
        b"".join(eventfile.record(time + summary) for time in (_float(1, 1.0), _field(1, b"x")))
    )
    assert [message.at for message in _read(EventFiles(tmp_path, {}, 0.0, None))] == [5000.0] * 2


def test_no_message_is_larger_than_is_taken(tmp_path: Path) -> None:
    pictures = [_field(1, b"samples/%d" % number) + _field(4, _field(4, bytes(400_000))) for number in range(2)]
    numbers = [_simple(f"layer/{number}", 0.5) for number in range(MAX_VALUES + 1)]
    (tmp_path / "tfevents.1").write_bytes(_event(1, *pictures) + _event(2, *numbers))
    found = _read(EventFiles(tmp_path, {}, 0.0, None))
    assert [len(message.body.get("items", [])) for message in found] == [1, 1, 0, 0]
    assert [len(message.body["values"]) for message in found] == [0, 0, MAX_VALUES, 1]
    assert all(len(body_bytes(message.body)) <= MAX_BODY for message in found)


def test_names_that_are_no_text_are_passed_over(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/tfevents.\xff")).write_bytes(_event(1, _simple("loss", 0.5)))
    assert _read(EventFiles(tmp_path, {}, 0.0, None)) == []
