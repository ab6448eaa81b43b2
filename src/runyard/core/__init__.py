"""The rules. Pure: inputs and the time go in, commands come out; no I/O, no clock, no randomness, no asyncio."""
