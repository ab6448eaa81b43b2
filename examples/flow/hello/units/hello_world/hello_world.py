"""Title-cases a message."""

import json
from datetime import UTC, datetime

import _flowunit as modelbox


class HelloWorld(modelbox.FlowUnit):
    def process(self, data_ctx):
        results = data_ctx.output("out_data")
        for buffer in data_ctx.input("in_data"):
            try:
                message = json.loads(buffer.as_object())["msg"]
                answer = {"msg": message.title(), "time": datetime.now(UTC).isoformat(timespec="seconds")}
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                answer = {"error_msg": 'the request must be a JSON object with a text: {"msg": "..."}'}
            results.push_back(json.dumps(answer))
        return modelbox.Status.StatusCode.STATUS_SUCCESS
