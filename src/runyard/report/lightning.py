"""Lightning: `Trainer(callbacks=[ReportCallback()])`."""

from __future__ import annotations

from typing import Any

from runyard import report
from runyard.report.progress import Progress, tell

try:
    from lightning.pytorch.callbacks import Callback
except ImportError:
    from pytorch_lightning.callbacks import Callback


class ReportCallback(Callback):  # type: ignore[misc]
    """Reports what modules `log`: by step while they train, and after each validation; and why a training failed.

    Of several processes only the first one speaks.
    """

    def __init__(self, interval: float = 1.0) -> None:
        """`interval` is the seconds between two reports of steps."""
        super().__init__()
        self._progress = Progress(interval)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            self._progress.begin()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.is_global_zero:
            self._progress.step(trainer.callback_metrics, trainer.global_step)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            tell(trainer.callback_metrics, trainer.global_step, "train")
            if trainer.max_epochs and trainer.max_epochs > 0:
                self._progress.done((trainer.current_epoch + 1) / trainer.max_epochs)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        # Before the training, a few batches are tried: that says nothing yet.
        if trainer.is_global_zero and not trainer.sanity_checking:
            tell(trainer.callback_metrics, trainer.global_step, "val")

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            report.finish()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt):
            report.status("stopped")
        else:
            report.crash(exception)
