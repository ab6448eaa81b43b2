"""The memory: what was answered is on disk. Start with `runyard.store.store`."""
