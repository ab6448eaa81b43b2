"""An expand: each text becomes a sub-stream of its words."""

import _flowunit as modelbox


class SplitWords(modelbox.FlowUnit):
    def process(self, data_ctx):
        results = data_ctx.output("out_word")
        for buffer in data_ctx.input("in_text"):
            # A text without words is one empty word: an empty sub-stream would have no result, and no answer.
            for word in str(buffer).split() or [""]:
                results.push_back(word)
        return modelbox.Status.StatusCode.STATUS_SUCCESS
