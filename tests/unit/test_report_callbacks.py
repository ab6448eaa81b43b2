"""The callbacks for training libraries. scikit-learn is here; the others are stood in for, by the order in which they
document their calls."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy
import pytest
from sklearn.datasets import load_iris
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.model_selection import GridSearchCV

from tests.recorder import Recorder, recording


@pytest.fixture
def told() -> Iterator[Recorder]:
    with recording() as recorder:
        yield recorder


def _stand_in(monkeypatch: pytest.MonkeyPatch, module: str, base: str) -> None:
    """A library of which only the base class is there."""
    path = ""
    for part in module.split("."):
        path = f"{path}.{part}".lstrip(".")
        monkeypatch.setitem(sys.modules, path, ModuleType(path))
    setattr(sys.modules[module], base, type(base, (), {}))


def _adapter(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    monkeypatch.delitem(sys.modules, f"runyard.report.{name}", raising=False)
    module = importlib.import_module(f"runyard.report.{name}")
    monkeypatch.delitem(sys.modules, f"runyard.report.{name}")
    return module


def _values(told: Recorder, category: str) -> list[dict[str, Any]]:
    return [body["values"] for body in told.bodies("metrics") if body.get("category") == category]


def _progress(told: Recorder) -> list[str]:
    items = [item for body in told.bodies("metrics") for item in body.get("items", [])]
    return [item["data"]["payload"] for item in items if item["data"]["title"] == "train_progress"]


def test_keras(monkeypatch: pytest.MonkeyPatch, told: Recorder) -> None:
    _stand_in(monkeypatch, "keras.callbacks", "Callback")
    callback = _adapter(monkeypatch, "keras").ReportCallback(interval=0)
    callback.params = {"epochs": 2}
    callback.on_train_begin()
    for epoch in range(2):
        for batch in range(3):
            callback.on_train_batch_end(batch, {"loss": numpy.float32(1.0)})
        callback.on_test_end({"loss": 0.5})
        callback.on_epoch_end(epoch, {"loss": 1.0, "val_loss": 0.5})
    callback.on_train_end()
    assert told.statuses() == ["running", "finished"]
    assert _values(told, "train") == [{"loss": 1.0}] * 6
    assert _values(told, "val") == [{"validation_loss": 0.5}] * 2
    assert _values(told, "epoch")[1] == {"epoch_loss": 1.0, "epoch_val_loss": 0.5}
    assert _progress(told) == ["50.0", "100.0"]


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_lightning(monkeypatch: pytest.MonkeyPatch, told: Recorder, package: str) -> None:
    _stand_in(monkeypatch, f"{package}.callbacks", "Callback")
    callback = _adapter(monkeypatch, "lightning").ReportCallback(interval=0)
    trainer = SimpleNamespace(
        is_global_zero=True, sanity_checking=True, max_epochs=1, current_epoch=0, global_step=0, callback_metrics={}
    )
    callback.on_validation_end(trainer, None)
    trainer.sanity_checking = False
    callback.on_train_start(trainer, None)
    trainer.callback_metrics = {"loss": numpy.float64(0.25), "words": "left out"}
    trainer.global_step = 1
    callback.on_train_batch_end(trainer, None, None, None, 0)
    callback.on_validation_end(trainer, None)
    callback.on_train_epoch_end(trainer, None)
    callback.on_exception(trainer, None, ValueError("no"))
    trainer.is_global_zero = False
    callback.on_train_end(trainer, None)
    assert told.statuses() == ["running", "crash"]
    assert _values(told, "train")[0] == _values(told, "val")[0] == {"loss": 0.25}
    assert _progress(told) == ["100.0"]


def test_hugging_face(monkeypatch: pytest.MonkeyPatch, told: Recorder) -> None:
    _stand_in(monkeypatch, "transformers", "TrainerCallback")
    callback = _adapter(monkeypatch, "huggingface").ReportCallback()
    state = SimpleNamespace(is_world_process_zero=True, global_step=0, max_steps=10)
    callback.on_train_begin(None, state, None)
    state.global_step = 5
    callback.on_log(None, state, None, logs={"loss": 2.0, "learning_rate": 1e-4, "epoch": 0.5})
    callback.on_log(None, state, None, logs={"eval_loss": 1.0})
    callback.on_log(None, state, None)
    callback.on_train_end(None, state, None)
    assert told.statuses() == ["running", "finished"]
    assert _values(told, "train")[0] == {"loss": 2.0, "learning_rate": 1e-4, "epoch": 0.5}
    assert _values(told, "val") == [{"eval_loss": 1.0}]
    assert _progress(told)[0] == "50.0"


def test_scikit_learn(told: Recorder) -> None:
    from runyard.report import sklearn as adapter

    x, y = load_iris(return_X_y=True)
    model = adapter.fit_epochs(SGDClassifier(random_state=1), x, y, epochs=3, validation=(x, y))
    assert [set(values) for values in _values(told, "val")] == [{"validation_score"}] * 3
    assert _progress(told)[-1] == "100.0"
    accuracy = adapter.evaluation(model, x, y)
    assert _values(told, "evaluate")[0] == {"evaluate_accuracy": pytest.approx(accuracy)}
    confusion = told.bodies("metrics")[-1]["items"][0]["data"]
    assert confusion["labels"] == ["0", "1", "2"]
    assert sum(map(sum, confusion["payload"])) == len(y)
    adapter.fit_epochs(SGDRegressor(random_state=1), x, y, epochs=1)


def test_scikit_learn_curves_and_searches(told: Recorder) -> None:
    from runyard.report import sklearn as adapter

    x, y = load_iris(return_X_y=True)
    boosting = GradientBoostingClassifier(n_estimators=4, subsample=0.5, random_state=1)
    boosting.fit(x, y, monitor=adapter.monitor())
    live = _values(told, "train")
    assert len(live) == 4 and set(live[0]) == {"loss", "oob_improvement"}
    adapter.curves(boosting, "again")
    assert [values["loss"] for values in _values(told, "again")] == [values["loss"] for values in live]
    adapter.search(GridSearchCV(SGDClassifier(random_state=1), {"alpha": [1e-4, 1e-2]}, cv=2).fit(x, y))
    assert len(_values(told, "search")) == 2
