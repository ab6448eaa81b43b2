"""The Python worker: coroutines share processes, everything else has one of its own. Start with `runs`.

The keeper (`python -m runyard.worker`) is an agent that never executes user code: it finds targets by reading them
(`target`), starts and watches processes, and owns the journal. Coroutines run in *hosts* (`host`), one for each folder
that code is taken from; scripts and plain functions in a process of their own (`program`).
"""
