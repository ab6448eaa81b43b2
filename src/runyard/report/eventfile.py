"""Event files of TensorBoard: records with checksums (TFRecord), each a protocol buffer `Event`.

A small reader of what becomes messages here: scalars, in the form of TensorFlow 1, 2 and PyTorch, and encoded images.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

#: Bytes of a record that are read; larger ones (graphs, audio) are passed over.
MAX_RECORD = 1024 * 1024
#: Bytes that no record has.
_ENDLESS = 1 << 40
_HEAD = struct.Struct("<QI")
_CRC = struct.Struct("<I")
#: Wire types of protocol buffers.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
#: `DataType` of tensors (tensorflow/core/framework/types.proto) by which scalars come, with their `struct` codes.
_SCALARS = {1: "<f", 2: "<d", 3: "<i", 9: "<q"}


def _table() -> list[int]:
    # Castagnoli's polynomial, reflected (RFC 3720, appendix B.4).
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()


class Damaged(ValueError):
    """A checksum is wrong, or what is there is no record: of this file nothing more can be read."""


class Point(NamedTuple):
    """One value of an event."""

    at: float
    """Unix seconds."""
    step: int
    tag: str
    value: float | None
    image: bytes | None = None
    """An encoded picture, instead of a value."""


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """The checksum as it stands in files: rotated, so that a checksum of checksums is no weak one."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def record(data: bytes) -> bytes:
    """`data` as a record."""
    length = struct.pack("<Q", len(data))
    return length + _CRC.pack(masked(crc32c(length))) + data + _CRC.pack(masked(crc32c(data)))


def records(data: bytes) -> Iterator[tuple[bytes | None, int]]:
    """The whole records at the beginning of `data`, each with the offset behind it; None stands for one that is too
    large, whose end may lie behind `data`. Raises Damaged."""
    place = 0
    while len(data) - place >= _HEAD.size:
        length, crc = _HEAD.unpack_from(data, place)
        if crc != masked(crc32c(data[place : place + 8])):
            raise Damaged(f"the checksum of a record's length at offset {place} is wrong")
        begin = place + _HEAD.size
        end = begin + length
        if length > _ENDLESS:
            raise Damaged(f"the record at offset {place} says that it has {length} bytes")
        if length > MAX_RECORD:
            place = end + _CRC.size
            yield None, place
            continue
        if len(data) < end + _CRC.size:
            return
        body = data[begin:end]
        if _CRC.unpack_from(data, end)[0] != masked(crc32c(body)):
            raise Damaged(f"the checksum of the record at offset {place} is wrong")
        place = end + _CRC.size
        yield body, place


def points(event: bytes) -> list[Point]:
    """The values in an event. Raises Damaged."""
    at, step, values = 0.0, 0, []
    for number, value in _fields(event):
        if number == 1 and isinstance(value, bytes) and len(value) == 8:
            (at,) = struct.unpack("<d", value)
        elif number == 2 and isinstance(value, int):
            step = value - (1 << 64) if value >> 63 else value
        elif number == 5 and isinstance(value, bytes):
            values += [part for field, part in _fields(value) if field == 1 and isinstance(part, bytes)]
    found = []
    for value in values:
        tag, scalar, image = _value(value)
        if tag and (scalar is not None or image is not None):
            found.append(Point(at, step, tag, scalar, image))
    return found


def _value(data: bytes) -> tuple[str, float | None, bytes | None]:
    """Tag, number and picture of a `Summary.Value`."""
    tag, number, image, plugin, tensor = "", None, None, b"", b""
    for field, value in _fields(data):
        if not isinstance(value, bytes):
            continue
        if field == 1:
            tag = value.decode("utf-8", "replace")
        elif field == 2 and len(value) == 4:
            (number,) = struct.unpack("<f", value)
        elif field == 4:
            image = next((part for place, part in _fields(value) if place == 4 and isinstance(part, bytes)), None)
        elif field == 8:
            tensor = value
        elif field == 9:
            plugin = next((part for place, part in _fields(value) if place == 1 and isinstance(part, bytes)), b"")
    if tensor and number is None:
        named = next((part for place, part in _fields(plugin) if place == 1), b"")
        if named == b"scalars":
            number = _scalar(tensor)
        elif named == b"images":
            # Width, height, then the pictures.
            texts = [part for place, part in _fields(tensor) if place == 8 and isinstance(part, bytes)]
            image = texts[2] if len(texts) > 2 else None
    return tag, number, image


def _scalar(tensor: bytes) -> float | None:
    fields = dict(_fields(tensor))
    kind = fields.get(1)
    code = _SCALARS.get(kind) if isinstance(kind, int) else None
    if code is None:
        return None
    size = struct.calcsize(code)
    for field in (4, 5, 6):
        content = fields.get(field)
        if isinstance(content, bytes) and len(content) >= size:
            return float(struct.unpack(code, content[:size])[0])
    number = fields.get(7, fields.get(10))
    return float(number) if isinstance(number, int) else None


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a message. Raises Damaged."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == _VARINT:
            number, place = _varint(data, place)
            yield key >> 3, number
            continue
        if kind == _BYTES:
            size, place = _varint(data, place)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise Damaged(f"a field has the unknown wire type {kind}")
        if place + size > len(data):
            raise Damaged("a field is longer than its message")
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while place < len(data) and shift < 70:
        byte = data[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if not byte & 0x80:
            return number & (1 << 64) - 1, place
    raise Damaged("a number does not end")
