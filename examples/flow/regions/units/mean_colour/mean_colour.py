"""An ordinary unit inside the bracket of expand and collapse: it knows nothing of either."""

import numpy as np

import _flowunit as modelbox


class MeanColour(modelbox.FlowUnit):
    def process(self, data_ctx):
        results = data_ctx.output("out_data")
        for buffer in data_ctx.input("in_image"):
            red, green, blue = np.array(buffer).reshape(-1, 3).mean(axis=0).round().astype(int).tolist()
            results.push_back(f"#{red:02x}{green:02x}{blue:02x}")
        return modelbox.Status.StatusCode.STATUS_SUCCESS
