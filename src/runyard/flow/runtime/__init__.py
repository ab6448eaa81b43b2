"""Runs a graph: the rules of streams as a pure state machine, and threads around it."""
