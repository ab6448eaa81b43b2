"""Behind the collapse, errors of the picture as a whole and of its regions can both be seen."""

import json

import _flowunit as modelbox


class RegionsReply(modelbox.FlowUnit):
    def process(self, data_ctx):
        results = data_ctx.output("out_data")
        for buffer in data_ctx.input("in_data"):
            if buffer.has_error():
                results.push_back(json.dumps({"error_msg": buffer.get_error_msg()}))
            else:
                results.push_back(buffer)
        return modelbox.Status.StatusCode.STATUS_SUCCESS
