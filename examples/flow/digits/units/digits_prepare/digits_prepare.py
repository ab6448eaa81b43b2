"""From pixels to what the classifier was trained on."""

import numpy as np

import _flowunit as modelbox


class DigitsPrepare(modelbox.FlowUnit):
    def process(self, data_ctx):
        results = data_ctx.output("out_data")
        for buffer in data_ctx.input("in_image"):
            grey = np.array(buffer).mean(axis=2, dtype=np.float32)
            results.push_back(self.create_buffer((grey / 255.0).reshape(64)))
        return modelbox.Status.StatusCode.STATUS_SUCCESS
