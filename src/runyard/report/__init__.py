"""What a program tells about itself while it runs: numbers, pictures, texts, how it goes, and why it failed.

    from runyard import report

    with report.run():
        for step, batch in enumerate(batches):
            report.metrics(loss=train(batch), step=step)

Works in every job of Runyard, whatever its front door, and does nothing anywhere else. Nothing here raises, or waits
for anybody: a call costs one short write to a file, and what can't be told is counted, not tried again. From other
languages, a line `@runyard {"type": "metrics", "body": {"loss": 0.4}}` on standard output does the same.

Standard library only: it may run in the environment of any training.
"""

from __future__ import annotations

from runyard.report.facade import (
    active,
    crash,
    error,
    finish,
    image,
    info,
    log,
    matrix,
    metrics,
    predict,
    run,
    scalar,
    status,
    text,
    warn,
)

__all__ = [
    "active",
    "crash",
    "error",
    "finish",
    "image",
    "info",
    "log",
    "matrix",
    "metrics",
    "predict",
    "run",
    "scalar",
    "status",
    "text",
    "warn",
]
