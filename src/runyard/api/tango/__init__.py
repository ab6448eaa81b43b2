"""The TANGO door: what members report to their project manager (the seed tango-rest-api, and spec/tango.md)."""
