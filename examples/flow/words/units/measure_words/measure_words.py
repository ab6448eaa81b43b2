"""A normal unit with a batch: one call measures up to `batch_size` words, of whichever requests there are."""

import _flowunit as modelbox


class MeasureWords(modelbox.FlowUnit):
    def process(self, data_ctx):
        words = data_ctx.input("in_word")
        results = data_ctx.output("out_word")
        for word in words:
            result = modelbox.Buffer(self.get_bind_device(), str(word))
            result.set("length", len(str(word)))
            result.set("batch", len(words))
            results.push_back(result)
        return modelbox.Status.StatusCode.STATUS_SUCCESS
