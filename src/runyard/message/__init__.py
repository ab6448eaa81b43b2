"""The rules of messages: how a line becomes one, which are kept of a flood, which give way when there are too many."""
