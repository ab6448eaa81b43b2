"""Writes texts in capitals."""

import _flowunit as modelbox


class Emphasise(modelbox.FlowUnit):
    def process(self, data_ctx):
        results = data_ctx.output("out_text")
        for buffer in data_ctx.input("in_text"):
            results.push_back(str(buffer).upper() + "!")
        return modelbox.Status.StatusCode.STATUS_SUCCESS
