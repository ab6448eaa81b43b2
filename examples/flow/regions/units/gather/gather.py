"""A collapse: it gets a whole sub-stream in one call, and makes one buffer of it."""

import json

import _flowunit as modelbox


class Gather(modelbox.FlowUnit):
    def process(self, data_ctx):
        colours = [str(buffer) for buffer in data_ctx.input("in_data")]
        data_ctx.output("out_data").push_back(json.dumps({"regions": len(colours), "colours": colours}))
        return modelbox.Status.StatusCode.STATUS_SUCCESS
