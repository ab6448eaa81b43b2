"""Measurements of hosts and runs."""
