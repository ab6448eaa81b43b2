"""Projects: a project manager and its member containers (the seed document tango-rest-api, and spec/tango.md)."""
