"""The frameworks of examples/k12ai as what they are without a server: programs that learn, go on, and refuse."""

from __future__ import annotations

import importlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import wait_until
from tests.system.server import clean_env

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDER = EXAMPLES / "k12ai"
SEVEN = EXAMPLES / "flow" / "digits" / "seven.png"
#: Fast to learn.
SMALL = {"network.name": "dense", "network.hidden": 16, "solver.max_epoch": 2}


@pytest.fixture(scope="module")
def programs() -> Iterator[dict[str, Any]]:
    """The modules, which import what lies beside them."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in ("framework", "convnet", "k12cv", "k12nlp")}
    finally:
        sys.path.remove(str(FOLDER))


def run_phase(programs: dict[str, Any], program: str, phase: str, out: Path, **config: Any) -> None:
    parameters = programs["framework"].Parameters(config)
    getattr(programs[program], phase)(parameters, out)()


def command(folder: Path, program: str, phase: str, **config: Any) -> list[str]:
    folder.mkdir(exist_ok=True)
    file = folder / "config.json"
    file.write_text(json.dumps(config))
    script = str(FOLDER / f"{program}.py")
    return [sys.executable, script, phase, "--config", str(file), "--out", str(folder / "out")]


def weights(file: Path) -> dict[str, Any]:
    with np.load(file) as stored:
        return {name: stored[name] for name in stored.files if name != "facts"}


def epochs_of(file: Path) -> int:
    with np.load(file) as stored:
        return int(json.loads(str(stored["facts"]))["epoch"])


def test_the_gradients_are_those_of_the_loss(programs: dict[str, Any]) -> None:
    chance = np.random.default_rng(3)
    pictures, labels = chance.random((5, 8, 8)), chance.integers(0, 10, 5)
    network = programs["convnet"].Network("conv", filters=3, hidden=7, seed=1)
    network.weights = {name: array.astype(float) for name, array in network.weights.items()}

    def loss() -> float:
        odds = programs["framework"].softmax(network.forward(pictures))
        return float(programs["framework"].cross_entropy(odds, labels))

    loss()
    slope = programs["framework"].softmax(network.forward(pictures))
    slope[np.arange(5), labels] -= 1
    found = network.backward(slope / 5)
    assert set(found) == set(network.weights)
    for name, array in network.weights.items():
        for place in chance.integers(0, array.size, 4):
            kept = array.flat[place]
            array.flat[place] = kept + 1e-5
            above = loss()
            array.flat[place] = kept - 1e-5
            expected = (above - loss()) / 2e-5
            array.flat[place] = kept
            assert found[name].flat[place] == pytest.approx(expected, rel=1e-3, abs=1e-6), name


def test_a_picture_of_a_seven_is_read(
    programs: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_phase(programs, "k12cv", "train", tmp_path, **{"solver.max_epoch": 5})
    run_phase(programs, "k12cv", "evaluate", tmp_path)
    (accuracy,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("accuracy"))
    assert float(accuracy.split()[1].rstrip(",")) > 0.9
    from PIL import Image, ImageOps

    # Dark on bright, and another form of file: as somebody draws it.
    with Image.open(SEVEN) as image:
        ImageOps.invert(image.convert("L")).resize((200, 300)).save(tmp_path / "drawn.jpg")
    Image.new("RGB", (1, 1)).save(tmp_path / "nothing.gif")
    paths = [str(SEVEN), str(tmp_path / "drawn.jpg"), str(tmp_path / "nothing.gif")]
    run_phase(programs, "k12cv", "predict", tmp_path, predict_images=paths)
    first, second, _ = capsys.readouterr().out.splitlines()
    assert first.startswith("seven.png: 7") and second.startswith("drawn.jpg: 7")


def test_a_sentence_is_told_from_others(
    programs: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_phase(programs, "k12nlp", "train", tmp_path)
    run_phase(programs, "k12nlp", "evaluate", tmp_path)
    (accuracy,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("accuracy"))
    assert float(accuracy.split()[1]) > 0.75
    file = tmp_path / "sentences.txt"
    file.write_text("Snow and rain all night.\n\nBoil the potatoes in salted water.\n")
    run_phase(programs, "k12nlp", "predict", tmp_path, input_file=str(file))
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["weather", "cooking"]


def test_a_training_that_is_stopped_goes_on_as_if_it_had_not_been(programs: dict[str, Any], tmp_path: Path) -> None:
    endless = command(tmp_path / "a", "k12cv", "train", **{**SMALL, "solver.max_epoch": 100_000})
    model = tmp_path / "a" / "out" / "k12cv.npz"
    with subprocess.Popen(endless, env=clean_env(), stdout=subprocess.DEVNULL) as training:
        try:
            wait_until(model.exists, 60, "a checkpoint")
        finally:
            training.send_signal(signal.SIGTERM)
        assert training.wait(60) == -signal.SIGTERM
    whole = {**SMALL, "solver.max_epoch": epochs_of(model) + 2}
    run_phase(programs, "k12cv", "train", tmp_path / "a" / "out", **whole, **{"network.resume_continue": True})
    run_phase(programs, "k12cv", "train", tmp_path / "b", **whole)
    resumed, straight = weights(model), weights(tmp_path / "b" / "k12cv.npz")
    assert set(resumed) == set(straight)
    for name, array in straight.items():
        np.testing.assert_allclose(resumed[name], array, rtol=1e-4, atol=1e-5, err_msg=name)
    # All is done already; other layers can't be resumed; another start forgets.
    run_phase(programs, "k12cv", "train", tmp_path / "b", **SMALL, **{"network.resume_continue": True})
    assert epochs_of(tmp_path / "b" / "k12cv.npz") == whole["solver.max_epoch"]
    with pytest.raises(programs["framework"].Refused) as refused:
        run_phase(programs, "k12cv", "train", tmp_path / "b", **{"network.resume_continue": True})
    assert refused.value.code == 100214
    run_phase(programs, "k12cv", "train", tmp_path / "b", **SMALL)
    assert epochs_of(tmp_path / "b" / "k12cv.npz") == 2


REFUSED = [
    ("k12cv", "train", {"network": {"name": "resnet"}}, 100302, "conv, dense, broken"),
    ("k12cv", "train", {"solver": {"max_epoch": "ten"}}, 100231, "solver.max_epoch = 'ten'"),
    ("k12cv", "train", {"solver.max_epoch": 0}, 100231, "from 1 to"),
    ("k12cv", "train", {"solver.max_epoch": 1.5}, 100231, "whole"),
    ("k12cv", "train", {"solver.lr": float("nan")}, 100231, "solver.lr"),
    ("k12cv", "train", {"network.resume_continue": "yes"}, 100231, "true or false"),
    ("k12cv", "evaluate", {}, 100208, "train one first"),
    ("k12cv", "predict", {"predict_images": ["/nowhere.png"]}, 100208, "train one first"),
    ("k12nlp", "train", {"data": {"path": "/nowhere.tsv"}}, 100212, "/nowhere.tsv"),
    ("k12nlp", "train", {"trainer": {"num_epochs": True}}, 100231, "trainer.num_epochs"),
    ("k12nlp", "evaluate", {}, 100208, "train one first"),
]


@pytest.mark.parametrize(("program", "phase", "config", "code", "text"), REFUSED)
def test_what_cannot_be_done_is_refused_with_its_code(
    programs: dict[str, Any], tmp_path: Path, program: str, phase: str, config: dict[str, Any], code: int, text: str
) -> None:
    with pytest.raises(programs["framework"].Refused) as refused:
        run_phase(programs, program, phase, tmp_path, **config)
    assert refused.value.code == code and text in str(refused.value)


def test_inputs_are_refused_with_their_codes(programs: dict[str, Any], tmp_path: Path) -> None:
    refused = programs["framework"].Refused
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    run_phase(programs, "k12cv", "train", tmp_path, **{**SMALL, "solver.max_epoch": 1})
    bad_images = [None, [], "x", [3], [str(text)], [str(tmp_path)], ["http://127.0.0.1/x.png"], [str(SEVEN)] * 101]
    for images in bad_images:
        with pytest.raises(refused) as found:
            run_phase(programs, "k12cv", "predict", tmp_path, predict_images=images)
        assert found.value.code == (100213 if images is None else 100215), images
    run_phase(programs, "k12nlp", "train", tmp_path, **{"trainer.num_epochs": 1})
    shutil.copy(text, tmp_path / "bad.tsv")
    (tmp_path / "other.tsv").write_text("music\tA song.\n" * 5)
    (tmp_path / "binary.tsv").write_bytes(b"\xff\xfe\x00")
    refusals: list[tuple[str, dict[str, Any], int]] = [
        ("predict", {}, 100213),
        ("predict", {"input_text": 3}, 100215),
        ("predict", {"input_text": " \n"}, 100215),
        ("predict", {"input_file": "/nowhere"}, 100213),
        ("train", {"data.path": str(tmp_path / "bad.tsv")}, 100212),
        ("train", {"data.path": str(tmp_path / "other.tsv")}, 100212),
        ("train", {"data.path": str(tmp_path / "binary.tsv")}, 100212),
        ("evaluate", {"input_file": str(tmp_path / "other.tsv")}, 100231),
    ]
    for phase, config, code in refusals:
        with pytest.raises(refused) as found:
            run_phase(programs, "k12nlp", phase, tmp_path, **config)
        assert found.value.code == code, (phase, config)
    for model in ("k12cv", "k12nlp"):
        (tmp_path / f"{model}.npz").write_bytes(b"PK damaged")
        with pytest.raises(refused) as found:
            run_phase(programs, model, "evaluate", tmp_path)
        assert found.value.code == 100211


def test_a_mistake_and_a_loss_without_end_are_exceptions(programs: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mismatch"):
        run_phase(programs, "k12cv", "train", tmp_path, **{"network.name": "broken"})
    with pytest.raises(programs["framework"].LossNanError), np.errstate(all="ignore"):
        run_phase(programs, "k12cv", "train", tmp_path, **{"solver.lr": 1e12})


def test_the_program_says_what_it_refuses(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path, "k12nlp", "evaluate"), env=clean_env(), capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"k12nlp.py: there is no model in {tmp_path / 'out'}: train one first (100208)\n"
