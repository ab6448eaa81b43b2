"""`resize`: images of one size (modelbox.md 6.3)."""

from __future__ import annotations

from typing import Any

from runyard.flow.buffer import Buffer
from runyard.flow.configuration import Configuration
from runyard.flow.status import FlowError, StatusCode
from runyard.flow.unit import DataContext, FlowUnit
from runyard.flow.unit_library import Option, OptionType, Port, UnitInfo
from runyard.flow.units.passing import failed
from runyard.flow.units.picture import MAX_PIXELS, BadPicture, opencv, picture, pixels_of

INTERPOLATIONS = (
    "inter_nearest",
    "inter_linear",
    "inter_cubic",
    "inter_area",
    "inter_lanczos4",
    "inter_max",
    "warp_fill_outliers",
    "warp_inverse_map",
)
MAX_SIDE = 32767
ERROR = "resize.ProcessError"


class Resize(FlowUnit):
    """Keeps pixel format and other meta; does not keep the aspect."""

    info = UnitInfo(
        name="resize",
        description="Scales images to a width and a height.",
        group="Image",
        inputs=(Port("in_image"),),
        outputs=(Port("out_image"),),
        options=(
            Option("image_width", OptionType.INTEGER, "640", "width in pixels; also: width", required=True),
            Option("image_height", OptionType.INTEGER, "480", "height in pixels; also: height", required=True),
            Option("interpolation", default="inter_linear", description="method", values=INTERPOLATIONS),
        ),
        entry=f"{__name__}:Resize",
    )

    def __init__(self) -> None:
        self._cv2: Any = None
        self._size = (0, 0)
        self._interpolation = 0

    def open(self, config: Configuration) -> None:
        width = config.get_int("image_width") or config.get_int("width")
        height = config.get_int("image_height") or config.get_int("height")
        if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
            message = f"image_width and image_height must be set, each between 1 and {MAX_SIDE}, not {width}x{height}"
            raise FlowError(StatusCode.STATUS_BADCONF, message)
        interpolation = config.get_string("interpolation", "inter_linear")
        if interpolation not in INTERPOLATIONS:
            message = f"interpolation must be one of {', '.join(INTERPOLATIONS)}, not {interpolation!r}"
            raise FlowError(StatusCode.STATUS_BADCONF, message)
        self._size = (width, height)
        self._cv2 = opencv()
        self._interpolation = getattr(self._cv2, interpolation.upper())

    def process(self, data_ctx: DataContext) -> None:
        results = data_ctx.output("out_image")
        for buffer in data_ctx.input("in_image") or ():
            results.append(self._resized(buffer))

    def _resized(self, buffer: Buffer) -> Buffer:
        try:
            pixels, pix_fmt = pixels_of(buffer)
            resized = self._cv2.resize(pixels, self._size, interpolation=self._interpolation)
        except (BadPicture, TypeError, self._cv2.error) as error:
            return failed(ERROR, f"resize failed: {' '.join(str(error).split())}")
        # OpenCV leaves out the one channel of a gray image.
        return picture(resized if resized.ndim == 3 else resized[:, :, None], pix_fmt, buffer.meta)
