"""The ModelBox door: `/v1/modelbox/job` (the seed document modelbox-run-flow, and spec/modelbox.md, 1 to 3)."""
