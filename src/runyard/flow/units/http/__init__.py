"""Flows that answer HTTP requests: the server in the flow's process, and the three units on it (modelbox.md 6.2)."""
