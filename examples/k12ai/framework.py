"""What the frameworks here share: parameters, checkpoints, a rule of learning, and how a phase is run and told.

A framework is a program: `python k12cv.py train --config FILE --out FOLDER`. It reports with `runyard.report`, which
does nothing outside a job, and prints the same for people.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runyard import report

Array = NDArray[Any]
#: What a phase returns once it has found nothing wrong: the work itself.
Work = Callable[[], None]
#: Seconds between two lines of progress for people.
_PAUSE = 1.0


class Refused(Exception):
    """The task can't be done as it was asked for. `code` is one of K12AI's (docs/doors/k12ai.md)."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class LossNanError(Exception):
    """The loss is no number any more. K12AI has a code for it: 100907."""


class Parameters:
    """The task's parameters: a tree of objects, in which `a.b` names a leaf. Flat dotted keys are taken as well."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        self._tree = tree

    @classmethod
    def load(cls, file: Path) -> Parameters:
        """Raises Refused (100903)."""
        try:
            tree = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise Refused(100903, f"the configuration can't be read: {error}") from None
        if not isinstance(tree, dict):
            raise Refused(100903, f"the configuration {file.name} must be an object, not {type(tree).__name__}")
        return cls(tree)

    def get(self, name: str) -> Any:
        """The leaf, or None."""
        if name in self._tree:
            return self._tree[name]
        found: Any = self._tree
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return found

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """Raises Refused (100231), as all that follow."""
        value = default if (given := self.get(name)) is None else given
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise Refused(100231, f"{name} = {value!r}: must be a number from {low:g} to {high:g}")
        return value

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        value = self.number(name, default, low, high)
        if value != int(value):
            raise Refused(100231, f"{name} = {value!r}: must be a whole number")
        return int(value)

    def flag(self, name: str) -> bool:
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            raise Refused(100231, f"{name} = {value!r}: must be true or false")
        return bool(value)

    def choice(self, name: str, choices: Mapping[str, Any], code: int = 100231) -> str:
        """One of them; the first if nothing is said."""
        value = next(iter(choices)) if (given := self.get(name)) is None else given
        if not isinstance(value, str) or value not in choices:
            raise Refused(code, f"{name} = {value!r}: must be one of {', '.join(choices)}")
        return value


class Adam:
    """Kingma and Ba, 2015. `state` belongs into a checkpoint, so that learning goes on as if it had not stopped."""

    def __init__(self, weights: dict[str, Array], rate: float) -> None:
        self._weights = weights
        self._rate = rate
        self.steps = 0
        self.state = {f"{kind}.{name}": np.zeros_like(w) for name, w in weights.items() for kind in ("first", "second")}

    def step(self, gradients: Mapping[str, Array]) -> None:
        self.steps += 1
        rate = self._rate * math.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
        for name, gradient in gradients.items():
            first, second = self.state[f"first.{name}"], self.state[f"second.{name}"]
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient * gradient - second)
            self._weights[name] -= rate * first / (np.sqrt(second) + 1e-8)


def save(file: Path, arrays: Mapping[str, Array], **facts: Any) -> None:
    """Writes a checkpoint, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(file.name + ".new")
    with new.open("wb") as out:
        stored: dict[str, Any] = {"facts": np.array(json.dumps(facts)), **arrays}
        np.savez(out, **stored)
        out.flush()
        os.fsync(out.fileno())
    new.replace(file)


def load(file: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays and facts of a checkpoint. Raises Refused: 100208 if there is none, 100211 if it is damaged."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        facts = json.loads(str(arrays.pop("facts")))
    except FileNotFoundError:
        raise Refused(100208, f"there is no model in {file.parent}: train one first") from None
    except Exception as error:
        raise Refused(100211, f"the model {file.name} is damaged, train it again: {error}") from None
    return arrays, facts


def softmax(scores: Array) -> Array:
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: Array = odds / odds.sum(axis=1, keepdims=True)
    return result


def cross_entropy(odds: Array, labels: Array) -> float:
    """The mean over the batch. Raises LossNanError."""
    loss = float(-np.log(odds[np.arange(len(labels)), labels] + 1e-12).mean())
    if not math.isfinite(loss):
        raise LossNanError(f"the loss is {loss} after a batch of {len(labels)}: try a lower learning rate")
    return loss


def confusion(truth: Array, guess: Array, classes: int) -> Array:
    """Rows are what it is, columns what the model says."""
    counts: Array = np.zeros((classes, classes), int)
    np.add.at(counts, (truth, guess), 1)
    return counts


class Progress:
    """Batches of a training, in an order that depends on seed and epoch alone: so a resumed training sees the same."""

    def __init__(self, samples: int, batch: int, epochs: int, done: int, seed: int) -> None:
        self._samples, self._batch, self._seed = samples, batch, seed
        self.epochs, self.epoch = epochs, done
        self._per_epoch = math.ceil(samples / batch)
        self.step = done * self._per_epoch
        self._began = self._said = time.monotonic()
        self._first = self.step

    def batches(self) -> Iterator[Array]:
        """Those of the next epoch."""
        order = np.random.default_rng([self._seed, self.epoch]).permutation(self._samples)
        for first in range(0, self._samples, self._batch):
            yield order[first : first + self._batch]
        self.epoch += 1

    def tell(self, loss: float, rate: float) -> None:
        """One step is done."""
        self.step += 1
        now = time.monotonic()
        speed = (self.step - self._first) / max(now - self._began, 1e-6)
        share = self.step / (self.epochs * self._per_epoch)
        values = {"train_loss": loss, "train_progress": round(100 * share, 2), "train_lr": rate}
        report.metrics(values, step=self.step, category="train")
        if now - self._said >= _PAUSE or self.step == 1:
            self._said = now
            print(f"step {self.step}: loss {loss:.4f}, {speed:.0f} steps/s, {100 * share:.0f} %", flush=True)

    def tell_epoch(self, loss: float, accuracy: float) -> None:
        """One epoch is done, and looked at with what the training does not see."""
        now = time.monotonic()
        left = (now - self._began) / max(self.step - self._first, 1) * (self.epochs * self._per_epoch - self.step)
        report.metrics(val_loss=loss, val_accuracy=accuracy, epoch=self.epoch, step=self.step, category="val")
        report.text("remain_time", f"{int(left) // 3600}:{int(left) // 60 % 60:02}:{int(left) % 60:02}", step=self.step)
        print(f"epoch {self.epoch}/{self.epochs}: loss {loss:.4f}, accuracy {accuracy:.4f}", flush=True)


def main(title: str, phases: Mapping[str, Callable[[Parameters, Path], Work]]) -> None:
    """The program. A phase checks what it is asked, and returns the work; what it refuses, it says with a code."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("phase", choices=list(phases))
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the parameters, as JSON")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the model is kept")
    options = parser.parse_args()
    try:
        work = phases[options.phase](Parameters.load(options.config), options.out)
    except Refused as refused:
        report.error(type(refused).__name__, str(refused), code=refused.code)
        print(f"{Path(sys.argv[0]).name}: {refused} ({refused.code})", file=sys.stderr, flush=True)
        sys.exit(2)
    with report.run():
        work()
