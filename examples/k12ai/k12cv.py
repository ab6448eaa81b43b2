"""Pictures: a small network learns scikit-learn's handwritten digits, says how good it is, and reads uploaded pictures.

    python k12cv.py train|evaluate|predict --config FILE --out FOLDER

`schema/k12cv.json` has the parameters. The same seed gives the same numbers, also over a stop and a resume.
"""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
from convnet import CLASSES, KINDS, SIDE, Network
from framework import (
    Adam,
    Array,
    Parameters,
    Progress,
    Refused,
    Work,
    confusion,
    cross_entropy,
    load,
    main,
    save,
    softmax,
)

from runyard import report

MODEL = "k12cv.npz"
LABELS = [str(digit) for digit in range(CLASSES)]
#: Every fifth picture is held out.
FOLD = 5
MAX_IMAGES = 100


def train(parameters: Parameters, out: Path) -> Work:
    kind = parameters.choice("network.name", KINDS, 100302)
    filters, hidden = parameters.whole("network.filters", 12, 1, 256), parameters.whole("network.hidden", 64, 1, 4096)
    epochs, batch = (
        parameters.whole("solver.max_epoch", 10, 1, 100_000),
        parameters.whole("solver.batch_size", 32, 1, 1437),
    )
    rate, seed = parameters.number("solver.lr", 0.002, 1e-9, 1e12), parameters.whole("seed", 0, 0, 2**31)
    file, network = out / MODEL, Network(kind, filters, hidden, seed)
    learner, done = Adam(network.weights, rate), 0
    if not parameters.flag("network.resume_continue"):
        file.unlink(missing_ok=True)
    elif file.exists():
        arrays, facts = load(file)
        if [facts["kind"], facts["filters"], facts["hidden"]] != [kind, filters, hidden]:
            raise Refused(100214, f"the stored model is {facts['kind']}: it can't be resumed with other layers")
        done, learner.steps = facts["epoch"], facts["steps"]
        network.weights.update({name: arrays[name] for name in network.weights})
        learner.state.update({name: arrays[name] for name in learner.state})

    def work() -> None:
        print(f"k12cv: {kind}, from epoch {done} to {epochs}", flush=True)
        (pictures, labels), (held, truth) = digits()
        progress = Progress(len(pictures), batch, epochs, done, seed)
        odds = softmax(network.forward(held))
        while progress.epoch < epochs:
            for rows in progress.batches():
                odds = softmax(network.forward(pictures[rows]))
                loss = cross_entropy(odds, labels[rows])
                odds[np.arange(len(rows)), labels[rows]] -= 1
                learner.step(network.backward(odds / len(rows)))
                progress.tell(loss, rate)
            odds = softmax(network.forward(held))
            progress.tell_epoch(cross_entropy(odds, truth), float((odds.argmax(1) == truth).mean()))
            facts = {
                "kind": kind,
                "filters": filters,
                "hidden": hidden,
                "epoch": progress.epoch,
                "steps": learner.steps,
            }
            save(file, network.weights | learner.state, **facts)
        report.matrix("confusion", confusion(truth, odds.argmax(1), CLASSES), category="val", labels=LABELS)
        if kind == "conv":
            report.image("filters", mosaic(network.weights["filters"].T.reshape(-1, 3, 3)), category="train")

    return work


def evaluate(parameters: Parameters, out: Path) -> Work:
    network = stored(out)

    def work() -> None:
        _, (held, truth) = digits()
        odds = softmax(network.forward(held))
        guess = odds.argmax(1)
        counts = confusion(truth, guess, CLASSES)
        best3 = np.argsort(odds, 1)[:, -3:]
        accuracy, accuracy3 = float((guess == truth).mean()), float((best3 == truth[:, None]).any(1).mean())
        loss = cross_entropy(odds, truth)
        report.metrics(
            evaluate_loss=loss, evaluate_accuracy=accuracy, evaluate_accuracy3=accuracy3, category="evaluate"
        )
        recall = {label: float(counts[i, i] / max(counts[i].sum(), 1)) for i, label in enumerate(LABELS)}
        report.scalar("recall", recall, category="evaluate")
        report.matrix("confusion", counts, category="evaluate", labels=LABELS)
        if (wrong := held[guess != truth]).size:
            report.image("mistakes", mosaic(wrong[:32]), category="evaluate")
        print(f"accuracy {accuracy:.4f}, {len(wrong)} of {len(held)} held-out pictures are read wrong", flush=True)

    return work


def predict(parameters: Parameters, out: Path) -> Work:
    network = stored(out)
    # K12AI's `_k12.predict_images`, which the server has unpacked.
    given = parameters.get("predict_images")
    if given is None:
        raise Refused(100213, "predict_images is missing: the paths of pictures")
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_IMAGES:
        raise Refused(100215, f"predict_images must be a list of 1 to {MAX_IMAGES} pictures")
    images = [uploaded(item) for item in given]

    def work() -> None:
        odds = softmax(network.forward(np.stack([picture for _, picture in images])))
        for place, ((name, _), row) in enumerate(zip(images, odds, strict=True)):
            label = LABELS[int(row.argmax())]
            shown = {"name": name, "label": label, "probability": round(float(row.max()), 6)}
            report.predict(place, shown | {"probabilities": [round(float(value), 6) for value in row]})
            print(f"{name}: {label} ({100 * row.max():.1f} %)", flush=True)
        report.image("inputs", mosaic(np.stack([picture for _, picture in images])), category="predict")

    return work


def digits() -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Pictures and labels to learn from, and those held out: 1437 and 360."""
    # The file itself: to import scikit-learn takes longer than the training.
    file = str(distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz"))
    table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    pictures, labels = table[:, :-1].reshape(-1, SIDE, SIDE) / 16, table[:, -1].astype(int)
    held = np.arange(len(table)) % FOLD == 0
    return (pictures[~held], labels[~held]), (pictures[held], labels[held])


def stored(out: Path) -> Network:
    arrays, facts = load(out / MODEL)
    network = Network(facts["kind"], facts["filters"], facts["hidden"], 0)
    network.weights.update({name: arrays[name] for name in network.weights})
    return network


def uploaded(path: Any) -> tuple[str, Array]:
    """Name and pixels of a picture, brought into the form of the digits. Raises Refused (100215)."""
    from PIL import Image, ImageOps

    if not isinstance(path, str) or "://" in path[:10]:
        raise Refused(100215, f"predict_images: {path!r:.100} is no file; pictures are uploaded, addresses not fetched")
    name = Path(path).name
    try:
        with Image.open(path) as image:
            grey = ImageOps.autocontrast(image.convert("L"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Refused(100215, f"predict_images: {name} is no picture that can be read: {error}") from None
    # The digits are bright on dark, and fill their square from top to bottom.
    pixels = np.asarray(grey, np.float32) / 255
    if np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])) > 0.5:
        pixels = 1 - pixels
    rows, columns = (np.flatnonzero((pixels > 0.25).any(axis)) for axis in (1, 0))
    if len(rows) == 0:
        return name, np.zeros((SIDE, SIDE), np.float32)
    cut = Image.fromarray((255 * pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]).astype(np.uint8))
    side = max(cut.size)
    square = Image.new("L", (side, side))
    square.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2))
    return name, np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32) / 255


def mosaic(pictures: Array, across: int = 8, scale: int = 6) -> Array:
    """Pictures side by side, enlarged, as one of brightnesses from 0 to 1."""
    low, high = float(pictures.min()), float(pictures.max())
    count, height, width = pictures.shape
    down = -(-count // across)
    canvas = np.zeros((down, across, height + 1, width + 1))
    canvas.reshape(-1, height + 1, width + 1)[:count, :height, :width] = (pictures - low) / max(high - low, 1e-9)
    joined = canvas.transpose(0, 2, 1, 3).reshape(down * (height + 1), across * (width + 1))
    return joined.repeat(scale, 0).repeat(scale, 1)


if __name__ == "__main__":
    main("k12cv: learns to read handwritten digits.", {"train": train, "evaluate": evaluate, "predict": predict})
