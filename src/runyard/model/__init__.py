"""The nouns. Imports nothing of ours; start with `runyard.model.job`."""
