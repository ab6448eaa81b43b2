"""Dataflow: graphs of units, checked and run in a process of their own. Imports no server code."""
