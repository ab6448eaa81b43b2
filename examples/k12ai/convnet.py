"""Small networks for pictures of 8 by 8 pixels, with their gradients, in nothing but numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[Any]
SIDE, CLASSES = 8, 10
#: By name: with a convolution before the dense layers, without, and one whose last layer has a mistake.
KINDS: Mapping[str, str] = {
    "conv": "3x3 convolution, maximum of 2x2, dense, dense",
    "dense": "dense, dense",
    "broken": "as dense; the last layer expects one input too many, as a mistake in a user's network would",
}


class Network:
    """`weights` are arrays by name; `forward` remembers what `backward` needs."""

    def __init__(self, kind: str, filters: int, hidden: int, seed: int) -> None:
        """`kind` is one of `KINDS`."""
        self.kind = kind
        chance = np.random.default_rng(seed)

        def layer(inputs: int, outputs: int) -> Array:
            made: Array = chance.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)
            return made.astype(np.float32)

        flat = filters * (SIDE // 2) ** 2 if kind == "conv" else SIDE * SIDE
        self.weights: dict[str, Array] = {
            "hidden": layer(flat, hidden),
            "hidden_bias": np.zeros(hidden, np.float32),
            "output": layer(hidden + (kind == "broken"), CLASSES),
            "output_bias": np.zeros(CLASSES, np.float32),
        }
        if kind == "conv":
            self.weights |= {"filters": layer(9, filters), "filters_bias": np.zeros(filters, np.float32)}
        self._seen: dict[str, Array] = {}

    def forward(self, pictures: Array) -> Array:
        """Scores of the classes for pictures (n, 8, 8) of brightnesses from 0 to 1."""
        w, seen = self.weights, self._seen
        features = self._convolve(pictures) if self.kind == "conv" else pictures.reshape(len(pictures), -1)
        seen["features"] = features
        seen["hidden"] = np.maximum(features @ w["hidden"] + w["hidden_bias"], 0)
        scores: Array = seen["hidden"] @ w["output"] + w["output_bias"]
        return scores

    def backward(self, slope: Array) -> dict[str, Array]:
        """Gradients of the weights, by the slope of the loss over the scores of the last `forward`."""
        w, seen = self.weights, self._seen
        found = {"output": seen["hidden"].T @ slope, "output_bias": slope.sum(0)}
        slope = (slope @ w["output"].T) * (seen["hidden"] > 0)
        found |= {"hidden": seen["features"].T @ slope, "hidden_bias": slope.sum(0)}
        if self.kind == "conv":
            found |= self._convolve_back(slope @ w["hidden"].T)
        return found

    def _convolve(self, pictures: Array) -> Array:
        count = len(pictures)
        padded = np.pad(pictures, ((0, 0), (1, 1), (1, 1)))
        windows = sliding_window_view(padded, (3, 3), axis=(1, 2)).reshape(-1, 9)
        made = np.maximum(windows @ self.weights["filters"] + self.weights["filters_bias"], 0)
        # Four pixels of each square side by side: the brightest goes on.
        squares = made.reshape(count, SIDE // 2, 2, SIDE // 2, 2, -1).transpose(0, 1, 3, 5, 2, 4)
        squares = squares.reshape(-1, 4)
        self._seen |= {"windows": windows, "winner": squares.argmax(1), "alive": squares.max(1) > 0}
        result: Array = squares.max(1).reshape(count, -1)
        return result

    def _convolve_back(self, slope: Array) -> dict[str, Array]:
        seen, half = self._seen, SIDE // 2
        squares = np.zeros((slope.size, 4), np.float32)
        squares[np.arange(slope.size), seen["winner"]] = slope.ravel() * seen["alive"]
        pixels = squares.reshape(len(slope), half, half, -1, 2, 2).transpose(0, 1, 4, 2, 5, 3)
        rows = pixels.reshape(len(seen["windows"]), -1)
        return {"filters": seen["windows"].T @ rows, "filters_bias": rows.sum(0)}
