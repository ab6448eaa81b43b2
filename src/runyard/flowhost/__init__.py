"""The process that runs one flow, as a supervised child of the agent: `python -m runyard.flowhost --spec FILE`."""
