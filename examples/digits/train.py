"""Trains a small neural network on scikit-learn's handwritten digits, and prints one line for each epoch.

Usage: train.py [--epochs N] [--seed N] [--onnx FILE]. The same seed gives the same numbers. With `--onnx` the model is
written to a file, for whoever wants to use it: `examples/flow/digits` does.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

BATCH = 32
CLASSES = np.arange(10)


def train(epochs: int, seed: int) -> tuple[MLPClassifier, float]:
    """The model, and its accuracy on the held-out fifth of the images after the last epoch."""
    images, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        images / 16.0, labels, test_size=0.2, random_state=seed, stratify=labels
    )
    print(f"digits: {len(train_x)} images to train on, {len(test_x)} held out, seed {seed}", flush=True)

    model = MLPClassifier(hidden_layer_sizes=(512, 256), learning_rate_init=1e-4, random_state=seed)
    order = np.random.default_rng(seed)
    accuracy = 0.0
    for epoch in range(1, epochs + 1):
        began = time.perf_counter()
        rows = order.permutation(len(train_x))
        for first in range(0, len(rows), BATCH):
            batch = rows[first : first + BATCH]
            model.partial_fit(train_x[batch], train_y[batch], classes=CLASSES)
        odds = model.predict_proba(test_x)
        accuracy = accuracy_score(test_y, odds.argmax(axis=1))
        loss = log_loss(test_y, odds, labels=CLASSES)
        seconds = time.perf_counter() - began
        print(f"epoch {epoch:2d}/{epochs}  loss {loss:.4f}  accuracy {accuracy:.4f}  ({seconds:.2f} s)", flush=True)
    return model, float(accuracy)


def export(model: MLPClassifier, file: Path) -> None:
    """Writes the model in ONNX's format, whole or not at all: from `image` (64 brightnesses) to `label` and
    `probabilities`."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    made = to_onnx(model, initial_types=[("image", FloatTensorType([None, 64]))], options={"zipmap": False})
    new = file.with_name(file.name + ".new")
    new.write_bytes(made.SerializeToString())
    new.replace(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40, help="passes over the images (default 40)")
    parser.add_argument("--seed", type=int, default=0, help="for the split, the weights and the order (default 0)")
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="where to write the model")
    options = parser.parse_args()
    if options.epochs < 1:
        parser.error("--epochs must be at least 1")
    model, accuracy = train(options.epochs, options.seed)
    if options.onnx is not None:
        export(model, options.onnx)
    print(f"done: accuracy {accuracy:.4f} on the held-out images", flush=True)


if __name__ == "__main__":
    main()
