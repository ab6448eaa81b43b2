"""Keras: `model.fit(…, callbacks=[ReportCallback()])`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runyard import report
from runyard.report.progress import Progress, tell

try:
    from keras.callbacks import Callback
except ImportError:
    from tensorflow.keras.callbacks import Callback


class ReportCallback(Callback):  # type: ignore[misc]
    """Reports losses and metrics of batches, and of each epoch with those of its validation; and progress."""

    def __init__(self, interval: float = 1.0) -> None:
        """`interval` is the seconds between two reports of batches."""
        super().__init__()
        self._progress = Progress(interval)
        self._step = 0

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._progress.begin()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._step += 1
        self._progress.step(logs or {}, self._step)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        values = {f"epoch_{name}": value for name, value in (logs or {}).items()}
        tell(values, epoch + 1, "epoch")
        epochs = (getattr(self, "params", None) or {}).get("epochs")
        if epochs:
            self._progress.done((epoch + 1) / epochs)

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        tell({f"validation_{name}": value for name, value in (logs or {}).items()}, self._step, "val")

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        report.finish()
