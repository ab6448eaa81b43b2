"""Exit codes: the same for every command, and documented in docs/cli.md."""

from __future__ import annotations

OK = 0
FAILED = 1
USAGE = 2
"""The command line, a file or the configuration is not valid."""
UNREACHABLE = 3
NOT_FOUND = 4
REFUSED = 5
TIMED_OUT = 124
INTERRUPTED = 130
TERMINATED = 143
BROKEN_PIPE = 141

#: For the `code` of a RunyardError.
BY_ERROR = {
    "invalid_input": USAGE,
    "config": USAGE,
    "too_large": USAGE,
    "unreachable": UNREACHABLE,
    "unavailable": UNREACHABLE,
    "unexpected_answer": UNREACHABLE,
    "not_found": NOT_FOUND,
    "conflict": REFUSED,
    "precondition_failed": REFUSED,
    "forbidden": REFUSED,
    "unauthenticated": REFUSED,
    "too_many": REFUSED,
    "wait_timeout": TIMED_OUT,
}
