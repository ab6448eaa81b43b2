"""Hugging Face: `Trainer(…, callbacks=[ReportCallback()])`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback

from runyard import report
from runyard.report.progress import Progress, tell

_EVAL = "eval_"


class ReportCallback(TrainerCallback):  # type: ignore[misc]
    """Reports what the trainer logs, evaluations under the category `val`, and progress.

    Of several processes only the first one speaks.
    """

    def __init__(self) -> None:
        super().__init__()
        self._progress = Progress(0.0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._progress.begin()

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        evaluated = any(name.startswith(_EVAL) for name in logs)
        tell(logs, state.global_step, "val" if evaluated else "train")
        if state.max_steps and state.max_steps > 0:
            self._progress.done(state.global_step / state.max_steps)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            report.finish()
