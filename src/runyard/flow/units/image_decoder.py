"""`image_decoder`: JPEG, PNG and whatever else OpenCV reads becomes pixels (modelbox.md 6.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runyard.flow.buffer import Buffer
from runyard.flow.configuration import Configuration
from runyard.flow.status import FlowError, StatusCode
from runyard.flow.unit import DataContext, FlowUnit
from runyard.flow.unit_library import Option, Port, UnitInfo
from runyard.flow.units.passing import failed
from runyard.flow.units.picture import opencv, picture

if TYPE_CHECKING:
    from runyard.flow.units.picture import Pixels

_FORMATS = ("bgr", "rgb", "nv12")
ERROR = "ImageDecoder.DecodeFailed"


class ImageDecoder(FlowUnit):
    """What can't be decoded becomes an error, each buffer by itself."""

    info = UnitInfo(
        name="image_decoder",
        description="Decodes JPEG, PNG and other images to 8-bit pixels.",
        group="Image",
        inputs=(Port("in_encoded_image"),),
        outputs=(Port("out_image"),),
        options=(Option("pix_fmt", default="bgr", description="of the pixels", values=_FORMATS),),
        entry=f"{__name__}:ImageDecoder",
    )

    def __init__(self) -> None:
        self._cv2: Any = None
        self._pix_fmt = "bgr"

    def open(self, config: Configuration) -> None:
        self._pix_fmt = config.get_string("pix_fmt", "bgr")
        if self._pix_fmt not in _FORMATS:
            message = f"pix_fmt must be one of {', '.join(_FORMATS)}, not {self._pix_fmt!r}"
            raise FlowError(StatusCode.STATUS_BADCONF, message)
        self._cv2 = opencv()

    def process(self, data_ctx: DataContext) -> None:
        results = data_ctx.output("out_image")
        for buffer in data_ctx.input("in_encoded_image") or ():
            results.append(self._decoded(buffer))

    def _decoded(self, buffer: Buffer) -> Buffer:
        import numpy as np

        cv2 = self._cv2
        try:
            data = np.frombuffer(buffer.as_bytes(), np.uint8)
            pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        except (cv2.error, TypeError, MemoryError):
            pixels = None
        if pixels is None:
            return failed(ERROR, "input image buffer is invalid, imdecode failed.")
        if self._pix_fmt == "rgb":
            pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        elif self._pix_fmt == "nv12":
            if min(pixels.shape[:2]) < 2:
                return failed(ERROR, "an image of less than 2x2 pixels has no nv12 form.")
            rows, pixels = _nv12(cv2, pixels)
            return picture(pixels, "nv12", buffer.meta, height=rows)
        return picture(pixels, self._pix_fmt, buffer.meta)


def _nv12(cv2: Any, pixels: Pixels) -> tuple[int, Pixels]:
    """The image's height and its planes: brightness, then both colours in pairs at half the resolution. An odd row or
    column is left out, for there is no half of a pair."""
    import numpy as np

    height, width = (size // 2 * 2 for size in pixels.shape[:2])
    planar = cv2.cvtColor(np.ascontiguousarray(pixels[:height, :width]), cv2.COLOR_BGR2YUV_I420)
    colours = planar[height:].reshape(2, -1)
    pairs = np.stack((colours[0], colours[1]), axis=-1).reshape(-1, width)
    return height, np.vstack((planar[:height], pairs))[:, :, np.newaxis]
