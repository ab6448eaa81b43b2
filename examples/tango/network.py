"""A small network of dense layers in numpy, trained with Adam; and the data that the members share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float32]]
INPUTS, CLASSES, BATCH = 64, 10, 32
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}
_SLOPES: dict[str, Callable[[Array], Array]] = {
    "relu": lambda out: (out > 0).astype(np.float32),
    "tanh": lambda out: 1 - out * out,
}


class Network:
    """`layers` are the units of the hidden layers."""

    def __init__(self, layers: list[int], activation: str = "relu", *, seed: int) -> None:
        self.layers, self.activation = layers, activation
        self._random = np.random.default_rng(seed)
        sizes = [INPUTS, *layers, CLASSES]
        self.weights: list[Array] = [
            self._random.normal(0, np.sqrt(2 / rows), (rows, columns)).astype(np.float32)
            for rows, columns in pairwise(sizes)
        ]
        self.biases: list[Array] = [np.zeros(columns, np.float32) for columns in sizes[1:]]

    @property
    def kilobytes(self) -> float:
        return sum(array.nbytes for array in (*self.weights, *self.biases)) / 1024

    def _forward(self, x: Array) -> list[Array]:
        """The outputs of every layer, the input first; the last are probabilities."""
        outputs = [x]
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            outputs.append(_ACTIVATIONS[self.activation](outputs[-1] @ weight + bias))
        odds = outputs[-1] @ self.weights[-1] + self.biases[-1]
        odds = np.exp(odds - odds.max(axis=1, keepdims=True))
        return [*outputs, odds / odds.sum(axis=1, keepdims=True)]

    def train(self, x: Array, y: Array, epochs: int, rate: float = 0.005) -> float:
        """The mean loss of the last epoch."""
        parts = [*self.weights, *self.biases]
        first, second = [np.zeros_like(part) for part in parts], [np.zeros_like(part) for part in parts]
        step, loss = 0, 0.0
        for _ in range(epochs):
            order, loss = self._random.permutation(len(x)), 0.0
            for begin in range(0, len(x), BATCH):
                rows = order[begin : begin + BATCH]
                outputs = self._forward(x[rows])
                loss -= float(np.log(outputs[-1][np.arange(len(rows)), y[rows]] + 1e-9).sum()) / len(x)
                step += 1
                for part, slope, mean, square in zip(parts, self._slopes(outputs, y[rows]), first, second, strict=True):
                    mean += 0.1 * (slope - mean)
                    square += 0.001 * (slope * slope - square)
                    part -= rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        return loss

    def _slopes(self, outputs: list[Array], y: Array) -> list[Array]:
        delta = outputs[-1].copy()
        delta[np.arange(len(y)), y] -= 1
        delta /= len(y)
        weights: list[Array] = []
        biases: list[Array] = []
        for number in range(len(self.weights) - 1, -1, -1):
            weights.insert(0, outputs[number].T @ delta)
            biases.insert(0, delta.sum(axis=0))
            if number:
                delta = (delta @ self.weights[number].T) * _SLOPES[self.activation](outputs[number])
        return [*weights, *biases]

    def accuracy(self, x: Array, y: Array) -> float:
        return float((self._forward(x)[-1].argmax(axis=1) == y).mean())


def load_digits(shared: Path) -> dict[str, Array]:
    """`train_x`, `train_y`, and the like for `val` and `test`."""
    with np.load(shared / "datasets" / "digits" / "digits.npz") as file:
        return dict(file)
