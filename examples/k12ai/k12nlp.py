"""Text: a linear model over words and pieces of words learns to tell what a sentence is about.

    python k12nlp.py train|evaluate|predict --config FILE --out FOLDER

`schema/k12nlp.json` has the parameters. Its corpus, `corpus.tsv`, has a label, a tab and a sentence on each line;
another one may be given. The same seed gives the same numbers, also over a stop and a resume.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np
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

MODEL = "k12nlp.npz"
CORPUS = Path(__file__).with_name("corpus.tsv")
#: Columns of the table of features: pieces that fall together share one.
WIDTH = 4096
#: Every fourth sentence is held out.
FOLD = 4
MAX_FILE, MAX_LINES, MAX_CHARACTERS = 10_000_000, 10_000, 2000
_WORD = re.compile(r"\w+")


def train(parameters: Parameters, out: Path) -> Work:
    epochs, batch = (
        parameters.whole("trainer.num_epochs", 12, 1, 100_000),
        parameters.whole("trainer.batch_size", 8, 1, 10_000),
    )
    rate, seed = parameters.number("trainer.lr", 0.02, 1e-9, 1e12), parameters.whole("seed", 0, 0, 2**31)
    labels, sentences = corpus(parameters)
    names = sorted(set(labels))
    if len(names) < 2:
        raise Refused(100212, "the corpus must have sentences with at least two labels")
    weights: dict[str, Array] = {"table": np.zeros((WIDTH, len(names))), "bias": np.zeros(len(names))}
    file, learner, done = out / MODEL, Adam(weights, rate), 0
    if not parameters.flag("trainer.resume"):
        file.unlink(missing_ok=True)
    elif file.exists():
        arrays, facts = load(file)
        if facts["labels"] != names:
            raise Refused(100214, f"the stored model knows {', '.join(facts['labels'])}: the corpus has other labels")
        done, learner.steps = facts["epoch"], facts["steps"]
        weights.update({name: arrays[name] for name in weights})
        learner.state.update({name: arrays[name] for name in learner.state})

    def work() -> None:
        held = np.arange(len(labels)) % FOLD == 0
        features, truth = table(sentences), np.array([names.index(label) for label in labels])
        print(f"k12nlp: {(~held).sum()} sentences, {len(names)} labels, from epoch {done} to {epochs}", flush=True)
        progress = Progress(int((~held).sum()), batch, epochs, done, seed)
        learn, goal = features[~held], truth[~held]
        odds = judge(weights, features[held])
        while progress.epoch < epochs:
            for rows in progress.batches():
                odds = judge(weights, learn[rows])
                loss = cross_entropy(odds, goal[rows])
                odds[np.arange(len(rows)), goal[rows]] -= 1
                learner.step({"table": learn[rows].T @ odds / len(rows), "bias": odds.mean(0)})
                progress.tell(loss, rate)
            odds = judge(weights, features[held])
            progress.tell_epoch(cross_entropy(odds, truth[held]), float((odds.argmax(1) == truth[held]).mean()))
            save(file, weights | learner.state, labels=names, epoch=progress.epoch, steps=learner.steps)
        counts = confusion(truth[held], odds.argmax(1), len(names))
        report.matrix("confusion", counts, category="val", labels=names)

    return work


def evaluate(parameters: Parameters, out: Path) -> Work:
    weights, names = stored(out)
    own = parameters.get("input_file") is None
    labels, sentences = corpus(parameters, "input_file" if not own else "data.path")
    if unknown := sorted(set(labels) - set(names)):
        raise Refused(100231, f"the model does not know the label {unknown[0]!r}, only {', '.join(names)}")

    def work() -> None:
        # Of the corpus that it has learned from, only what was held out.
        chosen = [place for place in range(len(labels)) if not own or place % FOLD == 0]
        truth = np.array([names.index(labels[place]) for place in chosen])
        odds = judge(weights, table([sentences[place] for place in chosen]))
        guess = odds.argmax(1)
        accuracy = float((guess == truth).mean())
        report.metrics(evaluate_loss=cross_entropy(odds, truth), evaluate_accuracy=accuracy, category="evaluate")
        report.matrix("confusion", confusion(truth, guess, len(names)), category="evaluate", labels=names)
        for place, right, said in zip(chosen, truth, guess, strict=True):
            if right != said:
                report.log(f"taken for {names[said]}, is {names[right]}: {sentences[place]}\n")
        print(f"accuracy {accuracy:.4f} on {len(chosen)} sentences", flush=True)

    return work


def predict(parameters: Parameters, out: Path) -> Work:
    weights, names = stored(out)
    if (text := parameters.get("input_text")) is None:
        if parameters.get("input_file") is None:
            raise Refused(100213, "nothing to look at: give input_text (a text, one sentence a line) or input_file")
        text = read(Path(str(parameters.get("input_file"))), 100213)
    if not isinstance(text, str) or len(text) > MAX_FILE:
        raise Refused(100215, f"input_text must be a text of at most {MAX_FILE} characters")
    sentences = [line.strip()[:MAX_CHARACTERS] for line in text.splitlines() if line.strip()]
    if not 1 <= len(sentences) <= MAX_LINES:
        raise Refused(100215, f"the input has {len(sentences)} sentences, not 1 to {MAX_LINES}")

    def work() -> None:
        for place, sentence in enumerate(sentences):
            (odds,) = judge(weights, table([sentence]))
            shares = {name: round(float(share), 6) for name, share in zip(names, odds, strict=True)}
            label = names[int(odds.argmax())]
            report.predict(place, {"text": sentence, "label": label, "probabilities": shares})
            print(f"{label}: {sentence}", flush=True)

    return work


def corpus(parameters: Parameters, name: str = "data.path") -> tuple[list[str], list[str]]:
    """Labels and sentences of the file that the parameter names, or of our own. Raises Refused (100212)."""
    given = parameters.get(name)
    file = CORPUS if given in (None, "corpus") else Path(str(given))
    labels, sentences = [], []
    for number, line in enumerate(read(file, 100212).splitlines(), 1):
        label, tab, sentence = line.partition("\t")
        if not tab or not label.strip() or not sentence.strip():
            raise Refused(100212, f"{file.name}, line {number}: a label, a tab and a sentence are needed")
        labels.append(label.strip())
        sentences.append(sentence.strip()[:MAX_CHARACTERS])
    if not FOLD <= len(labels) <= MAX_LINES:
        raise Refused(100212, f"{file.name} has {len(labels)} sentences, not {FOLD} to {MAX_LINES}")
    return labels, sentences


def read(file: Path, code: int) -> str:
    try:
        if file.stat().st_size > MAX_FILE:
            raise ValueError(f"it has more than {MAX_FILE} bytes")
        return file.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise Refused(code, f"{file} can't be read: {error}") from None


def stored(out: Path) -> tuple[dict[str, Array], list[str]]:
    arrays, facts = load(out / MODEL)
    return {name: arrays[name] for name in ("table", "bias")}, facts["labels"]


def judge(weights: dict[str, Array], features: Array) -> Array:
    return softmax(features @ weights["table"] + weights["bias"])


def table(sentences: list[str]) -> Array:
    """One row for each sentence: its words, and their pieces of four letters, by a hash; rows are of length 1."""
    rows = np.zeros((len(sentences), WIDTH))
    for row, sentence in zip(rows, sentences, strict=True):
        for word in _WORD.findall(sentence.lower()):
            pieces = [word[start : start + 4] for start in range(len(word) - 3)] if len(word) > 4 else []
            for piece in (f"{word}.", *pieces):
                row[zlib.crc32(piece.encode()) % WIDTH] += 1
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows


if __name__ == "__main__":
    main("k12nlp: learns what a sentence is about.", {"train": train, "evaluate": evaluate, "predict": predict})
