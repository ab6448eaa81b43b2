"""The node agent: a process of its own that owns the children of this host. Start with `runs`."""
