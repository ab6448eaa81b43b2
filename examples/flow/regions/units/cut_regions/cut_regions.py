"""An expand: one image in, a sub-stream of its regions out."""

import re

import numpy as np

import _flowunit as modelbox

GRID = re.compile(r"[?&]grid=([1-9]|1[0-6])x([1-9]|1[0-6])(&|$)")


class CutRegions(modelbox.FlowUnit):
    """The request's query says how many columns and rows there are, as in `?grid=3x2`; otherwise 2x2."""

    def process(self, data_ctx):
        results = data_ctx.output("out_image")
        for buffer in data_ctx.input("in_image"):
            found = GRID.search(buffer.get("uri"))
            columns, rows = (int(found[1]), int(found[2])) if found else (2, 2)
            image = np.array(buffer)
            if image.shape[0] < rows or image.shape[1] < columns:
                return modelbox.Status(
                    modelbox.Status.StatusCode.STATUS_INVALID, f"the picture is too small for {columns}x{rows} regions"
                )
            for strip in np.array_split(image, rows, axis=0):
                for part in np.array_split(strip, columns, axis=1):
                    region = self.create_buffer(np.ascontiguousarray(part))
                    region.set("width", part.shape[1])
                    region.set("height", part.shape[0])
                    region.set("pix_fmt", "rgb")
                    results.push_back(region)
        return modelbox.Status.StatusCode.STATUS_SUCCESS
