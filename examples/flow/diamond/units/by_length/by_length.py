"""A condition: each buffer leaves by exactly one of the two outputs."""

import _flowunit as modelbox


class ByLength(modelbox.FlowUnit):
    def open(self, config):
        self.longest = config.get_int("longest", 20)
        return modelbox.Status.StatusCode.STATUS_SUCCESS

    def process(self, data_ctx):
        for buffer in data_ctx.input("in_text"):
            port = "out_long" if len(str(buffer)) > self.longest else "out_short"
            data_ctx.output(port).push_back(buffer)
        return modelbox.Status.StatusCode.STATUS_SUCCESS
