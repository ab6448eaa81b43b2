"""Cuts texts to a length."""

import _flowunit as modelbox


class Shorten(modelbox.FlowUnit):
    def open(self, config):
        self.length = config.get_int("length", 20)
        return modelbox.Status.StatusCode.STATUS_SUCCESS

    def process(self, data_ctx):
        results = data_ctx.output("out_text")
        for buffer in data_ctx.input("in_text"):
            results.push_back(str(buffer)[: self.length] + "…")
        return modelbox.Status.StatusCode.STATUS_SUCCESS
