"""From the classifier's result, or from an error anywhere before, to the reply."""

import json

import numpy as np

import _flowunit as modelbox


class DigitsReply(modelbox.FlowUnit):
    def process(self, data_ctx):
        results = data_ctx.output("out_data")
        for label, odds in zip(data_ctx.input("in_label"), data_ctx.input("in_odds"), strict=True):
            if label.has_error():
                answer = {"error_code": label.get_error_code(), "error_msg": label.get_error_msg()}
            else:
                digit = int(np.array(label).item())
                answer = {"predict_result": str(digit), "probability": round(float(np.array(odds)[digit]), 4)}
            results.push_back(json.dumps(answer))
        return modelbox.Status.StatusCode.STATUS_SUCCESS
