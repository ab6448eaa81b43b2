"""Images in buffers: 8-bit pixels as an array of rows, with the meta that image units agree on (modelbox.md 5.1)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from runyard.flow.buffer import Buffer, DataType

if TYPE_CHECKING:
    import numpy as np

    Pixels = np.ndarray[Any, Any]

MAX_PIXELS = 1 << 27
"""Of a decoded or resized image: 400 MB of memory. What is larger is refused."""
CHANNELS = {"rgb": 3, "bgr": 3, "gray": 1}


class BadPicture(ValueError):
    """A buffer that holds no image of the kind that the unit takes."""


def opencv() -> Any:
    """The module cv2, imported when an image unit is opened. Its limit on decoded images is set before."""
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
    import cv2

    return cv2


def image_meta(width: int, height: int, pix_fmt: str) -> dict[str, Any]:
    """The meta of an image of packed pixels, or of nv12 (whose rows are one and a half times as many)."""
    nv12 = pix_fmt == "nv12"
    channel = 1 if nv12 else CHANNELS[pix_fmt]
    return {
        "width": width,
        "height": height,
        "width_stride": width * channel,
        "height_stride": height,
        "channel": channel,
        "pix_fmt": pix_fmt,
        "type": DataType.UINT8,
        "shape": [height * 3 // 2 if nv12 else height, width, channel],
        "layout": "hwc",
    }


def picture(pixels: Pixels, pix_fmt: str, meta: dict[str, Any], *, height: int | None = None) -> Buffer:
    """A buffer of the pixels, with image meta over that of where they came from. `height` is nv12's."""
    rows, width = pixels.shape[:2]
    buffer = Buffer(pixels, meta=meta)
    buffer.meta.update(image_meta(width, height or rows, pix_fmt))
    return buffer


def pixels_of(buffer: Buffer) -> tuple[Pixels, str]:
    """The image in a buffer, as rows by columns by channels, and its pixel format. Raises BadPicture.

    Needs the meta `width` and `height`, and `pix_fmt` or `channel`; an array with three dimensions brings its own.
    """
    meta = buffer.meta
    shape = meta.get("shape")
    own: Any = shape if isinstance(shape, (list, tuple)) and len(shape) == 3 else (None, None, None)
    width, height = meta.get("width", own[1]), meta.get("height", own[0])
    if not (_is_size(width) and _is_size(height)):
        raise BadPicture(f"the buffer is no image: its meta has width {width!r} and height {height!r}")
    pix_fmt = meta.get("pix_fmt")
    channel = CHANNELS.get(str(pix_fmt)) if pix_fmt is not None else meta.get("channel", own[2])
    if channel not in (1, 3):
        raise BadPicture(f"pixel format {pix_fmt!r} with {channel!r} channels is not supported: use rgb, bgr or gray")
    if meta.get("layout", "hwc") != "hwc":
        raise BadPicture(f"layout {meta['layout']!r} is not supported: use hwc")
    pixels = buffer.as_array()
    if pixels.dtype != "uint8" or pixels.size != width * height * channel:
        expected = f"{width}x{height}x{channel} bytes"
        raise BadPicture(f"the buffer has {pixels.size} elements of {pixels.dtype}; its meta says {expected}")
    return pixels.reshape(height, width, channel), str(pix_fmt or ("bgr" if channel == 3 else "gray"))


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
