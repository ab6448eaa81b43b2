"""ModelBox's `Model`: a model used from a program, on a real, tiny ONNX model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from modelbox import Model
from runyard.flow.status import FlowError, StatusCode

TOML = """
[base]
name = "product"
device = "cpu"
version = "1.0.0"
description = "left · right, and left + right"
type = "inference"
virtual_type = "onnx"
entry = "product.onnx"
[input]
input1 = {name = "left", type = "float"}
input2 = {name = "right", type = "float"}
[output]
output1 = {name = "times"}
output2 = {name = "plus"}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("models") / "product"
    folder.mkdir()
    (folder / "product.toml").write_text(TOML)
    tensors = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3])
        for name in ("left", "right", "times", "plus")
    }
    graph = helper.make_graph(
        [helper.make_node("Mul", ["left", "right"], ["times"]), helper.make_node("Add", ["left", "right"], ["plus"])],
        "product",
        [tensors["left"], tensors["right"]],
        [tensors["times"], tensors["plus"]],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "product.onnx").write_bytes(made.SerializeToString())
    onnx.checker.check_model(made)
    return str(folder)


def sample(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_one_sample_and_a_batch_of_them(folder: str, tmp_path: Path) -> None:
    model = Model(str(tmp_path), "product", max_batch=4)
    assert model.add_path(folder)
    assert model.start()
    left, right = sample(1, 2, 3), sample(4, 5, 6)
    times, plus = model.infer([left, right])
    assert np.array(times).tolist() == [4, 10, 18]
    assert np.array(plus).tolist() == [5, 7, 9]
    batch = model.infer_batch([[left * n for n in range(10)], [right] * 10])
    assert [np.array(each).tolist() for each in batch[0]] == [[4 * n, 10 * n, 18 * n] for n in range(10)]
    assert [np.array(each).tolist() for each in batch[1]] == [[n + 4, 2 * n + 5, 3 * n + 6] for n in range(10)]
    assert model.infer_batch([[], []]) == [[], []]

    with pytest.raises(FlowError, match="equally many samples for each input are wanted: left, right"):
        model.infer([left])
    with pytest.raises(FlowError, match="equally many"):
        model.infer_batch([[left], [right, right]])
    with pytest.raises(FlowError, match="product"):
        model.infer([sample(1, 2), right])
    assert np.array(model.infer([left, right])[0]).tolist() == [4, 10, 18], "a bad sample leaves no trace"

    assert model.stop()
    assert model.stop()
    with pytest.raises(FlowError, match="not started"):
        model.infer([left, right])


def test_what_can_not_be_started_is_a_status(folder: str, tmp_path: Path) -> None:
    missing = Model(folder, "nothing").start()
    assert missing.code() == StatusCode.STATUS_NOTFOUND and "nothing" in missing.errormsg()
    (tmp_path / "product.toml").write_text(TOML)
    (tmp_path / "product.onnx").write_bytes(b"no model")
    broken = Model(str(tmp_path), "product").start()
    assert not broken and "product" in broken.wrap_errormsgs()
