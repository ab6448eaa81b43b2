"""Pictures as PNG, from whatever a program has: bytes, a file, an array, an image of Pillow, a figure of matplotlib."""

from __future__ import annotations

import base64
import os
import struct
import zlib
from typing import Any

#: Bytes of an encoded picture: as base64 it must fit into one message.
MAX_PNG = 700_000
#: Pixels of an array, before it is made smaller.
MAX_PIXELS = 4_000_000
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Colour types of PNG (RFC 2083, 4.1.1) by number of channels.
_COLOUR = {1: 0, 2: 4, 3: 2, 4: 6}


def encode(picture: Any) -> tuple[str, str]:
    """The picture as text, and its form: `base64string`, `svg`, or `url`. Too large a one is made smaller.

    Raises TypeError or ValueError if it is no picture, OSError if its file can't be read.
    """
    if isinstance(picture, str):
        if picture.lstrip()[:5].lower() in ("<svg ", "<?xml"):
            return picture, "svg"
        if picture.startswith(("http://", "https://", "data:")):
            return picture, "url"
    return base64.b64encode(png(picture)).decode("ascii"), "base64string"


def png(picture: Any) -> bytes:
    """The bytes of a PNG file (a JPEG stays one). Raises as `encode`."""
    if isinstance(picture, str | os.PathLike):
        with open(picture, "rb") as file:
            picture = file.read(MAX_PNG + 1)
    if isinstance(picture, bytes | bytearray | memoryview):
        data = bytes(picture)
        if not data.startswith((_SIGNATURE, b"\xff\xd8\xff", b"GIF8")):
            raise ValueError("the bytes are no PNG, JPEG or GIF")
        if len(data) > MAX_PNG:
            raise ValueError(
                f"the picture has more than {MAX_PNG} bytes: give it as an array or image to be made smaller"
            )
        return data
    if callable(getattr(picture, "savefig", None)):
        return _fitted(picture, _figure)
    if callable(getattr(picture, "thumbnail", None)) and hasattr(picture, "mode"):
        return _fitted(picture, _pillow)
    return _fitted(_pixels(picture), _array)


def _fitted(picture: Any, render: Any) -> bytes:
    """As large as it may be: half the width and height, until it fits."""
    for halvings in range(6):
        data: bytes = render(picture, 1 << halvings)
        if len(data) <= MAX_PNG:
            return data
    raise ValueError(f"the picture can't be made smaller than {MAX_PNG} bytes")


def _figure(figure: Any, smaller: int) -> bytes:
    from io import BytesIO

    file = BytesIO()
    figure.savefig(file, format="png", dpi=max(20, int(getattr(figure, "dpi", 100)) // smaller))
    return file.getvalue()


def _pillow(image: Any, smaller: int) -> bytes:
    from io import BytesIO

    file = BytesIO()
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I"):
        image = image.convert("RGB")
    if smaller > 1:
        image = image.resize((max(1, image.width // smaller), max(1, image.height // smaller)))
    image.save(file, format="PNG")
    return file.getvalue()


def _pixels(value: Any) -> list[list[Any]]:
    """Rows of pixels: each a number, or a list of 1 to 4 numbers. Channels may come first, as torch has them."""
    from runyard.report.plain import nested

    shape = tuple(getattr(value, "shape", ()))
    if len(shape) == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4):
        move = getattr(value, "permute", None) or value.transpose
        value = move(1, 2, 0)
    if len(shape) >= 2 and shape[0] * shape[1] > MAX_PIXELS:
        step = 1 + int((shape[0] * shape[1] / MAX_PIXELS) ** 0.5)
        value = value[::step, ::step]
    rows = nested(value)
    if not isinstance(rows, list) or not rows or not isinstance(rows[0], list) or not rows[0]:
        raise TypeError(f"a picture is bytes, a path, an array, an image or a figure, not {type(value).__name__}")
    if len(rows) * len(rows[0]) > MAX_PIXELS:
        raise ValueError(f"a picture has at most {MAX_PIXELS} pixels")
    return rows


def _array(rows: list[list[Any]], smaller: int) -> bytes:
    rows = [row[::smaller] for row in rows[::smaller]]
    first = rows[0][0]
    channels = len(first) if isinstance(first, list) else 1
    if channels not in _COLOUR:
        raise ValueError(f"a picture has 1, 2, 3 or 4 channels, not {channels}")
    flat = [[value for pixel in row for value in (pixel if isinstance(pixel, list) else (pixel,))] for row in rows]
    width = len(rows[0])
    if any(len(row) != width * channels for row in flat):
        raise ValueError("the rows of a picture must be of one length")
    # Numbers with a fraction go from 0 to 1.
    scale = 255.0 if any(isinstance(value, float) for row in flat for value in row) else 1.0
    lines = b"".join(b"\0" + bytes(_byte(value, scale) for value in row) for row in flat)
    head = struct.pack(">IIBBBBB", width, len(rows), 8, _COLOUR[channels], 0, 0, 0)
    return _SIGNATURE + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(lines, 6)) + _chunk(b"IEND", b"")


def _byte(value: Any, scale: float) -> int:
    scaled = float(value) * scale
    # NaN is no number that could be compared.
    return min(255, max(0, round(scaled))) if scaled == scaled else 0


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
