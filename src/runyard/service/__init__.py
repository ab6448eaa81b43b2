"""The shell: one loop that feeds events to core and performs its commands through store, executors and timers."""
