"""The Meproc door: `/proc` (the seed document meproc-http-api, and spec/meproc.md)."""
