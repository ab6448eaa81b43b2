"""A collapse: the words of one text, in their order, and nobody else's."""

import json

import _flowunit as modelbox


class JoinWords(modelbox.FlowUnit):
    def process(self, data_ctx):
        words = [word for word in data_ctx.input("in_word") if word.get("length")]
        answer = {
            "words": len(words),
            "letters": sum(word.get("length") for word in words),
            "first": str(words[0]) if words else "",
            "last": str(words[-1]) if words else "",
            "largest_batch": max((word.get("batch") for word in words), default=0),
        }
        data_ctx.output("out_data").push_back(json.dumps(answer))
        return modelbox.Status.StatusCode.STATUS_SUCCESS
