"""The inference unit on real, tiny ONNX models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from runyard.flow.buffer import Buffer, BufferList, DataType
from runyard.flow.configuration import Configuration
from runyard.flow.session import SessionContext
from runyard.flow.status import FlowError, StatusCode
from runyard.flow.unit import DataContext
from runyard.flow.unit_library import UnitLibrary
from runyard.flow.units.inference import Inference

TOML = """
[base]
name = "double"
device = "cpu"
version = "1.0.0"
description = "twice the input, and its sum"
type = "inference"
virtual_type = "{engine}"
entry = "{entry}"
[input.input1]
name = "{input}"
type = "{type}"
[output.output1]
name = "twice"
[output.output2]
name = "sum"
"""


def model(path: Path, batch: int | str = "N", width: int | str = 3) -> None:
    """twice = 2·data, sum = the sum over a sample's elements."""
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["data", "data"], ["twice"]),
            helper.make_node("ReduceSum", ["data", "axis"], ["sum"], keepdims=0),
        ],
        "double",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, width])],
        [
            helper.make_tensor_value_info("twice", TensorProto.FLOAT, [batch, width]),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, [batch]),
        ],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    path.write_bytes(made.SerializeToString())


def unit(folder: Path, **more: str) -> Inference:
    values = {"engine": "onnx", "entry": "double.onnx", "input": "data", "type": "float"} | more
    (folder / "double.toml").write_text(TOML.format_map(values))
    library = UnitLibrary.load([folder])
    info = library.find("double", "cpu")
    assert info is not None, library.problems
    return Inference(info)


def run(inference: Inference, *buffers: Buffer) -> Mapping[str, Sequence[Buffer]]:
    context = DataContext(SessionContext(), ("twice", "sum"), {}, inputs={"data": BufferList(list(buffers))})
    inference.process(context)
    return {port: context.output(port) for port in ("twice", "sum")}


@pytest.mark.parametrize("batch", ["N", 1])
def test_samples_are_run_in_batches(tmp_path: Path, batch: int | str) -> None:
    model(tmp_path / "double.onnx", batch)
    inference = unit(tmp_path)
    inference.open(Configuration())
    samples: list[Any] = [
        np.array([1, 2, 3], np.float32),
        np.array([[4, 5, 6]], np.uint8),
        np.array([1, 1, 1], np.float32).tobytes(),
        [0.5, 0.5, 0.5],
    ]
    results = run(inference, *(Buffer(data, meta={"number": at}) for at, data in enumerate(samples)))
    assert [np.array(buffer).tolist() for buffer in results["twice"]] == [
        [2, 4, 6],
        [8, 10, 12],
        [2, 2, 2],
        [1, 1, 1],
    ]
    assert [np.array(buffer).item() for buffer in results["sum"]] == [6, 15, 3, 1.5]
    first = results["twice"][0]
    assert first.get("shape") == [3] and first.get("type") == DataType.FLOAT and first.get("number") == 0
    inference.close()


def test_a_sample_that_does_not_fit_is_an_error_and_the_others_are_run(tmp_path: Path) -> None:
    model(tmp_path / "double.onnx")
    inference = unit(tmp_path)
    inference.open(Configuration())
    bad = [Buffer(np.zeros(4, np.float32)), Buffer(b"abc"), Buffer("text"), Buffer({"a": 1}), Buffer(b"")]
    good = Buffer(np.ones(3, np.float32))
    results = run(inference, *bad, good)
    for port in ("twice", "sum"):
        *errors, last = results[port]
        assert all(buffer.get_error_code() == "double.ProcessError" for buffer in errors)
        assert not last.has_error()
    assert "takes 3 elements a sample, not 4" in results["sum"][0].get_error_msg()


def test_samples_of_many_shapes_are_grouped(tmp_path: Path) -> None:
    model(tmp_path / "double.onnx", width="W")
    inference = unit(tmp_path)
    inference.open(Configuration())
    results = run(inference, *(Buffer(np.ones(size, np.float32)) for size in (2, 3, 2, 1)))
    assert [np.array(buffer).item() for buffer in results["sum"]] == [2, 3, 2, 1]
    (wrong,) = run(inference, Buffer(np.ones((2, 2), np.float32)))["sum"]
    assert "dimensions" in wrong.get_error_msg()


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        ({"engine": "acl"}, StatusCode.STATUS_NOTSUPPORT, "does not support the inference type: 'acl:cpu'"),
        ({"entry": "model.pb", "engine": "tensorflow"}, StatusCode.STATUS_NOTSUPPORT, "'tensorflow:cpu'"),
        ({"entry": "absent.onnx"}, StatusCode.STATUS_NOTFOUND, "absent.onnx"),
        ({"entry": "broken.onnx"}, StatusCode.STATUS_BADCONF, "can't be loaded"),
        ({"input": "image"}, StatusCode.STATUS_BADCONF, "'image' is not on both sides"),
        ({"type": "long"}, StatusCode.STATUS_BADCONF, "declared as long, but the model has float32"),
    ],
)
def test_a_model_that_does_not_fit_its_description(
    tmp_path: Path, more: dict[str, str], code: StatusCode, words: str
) -> None:
    model(tmp_path / "double.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(FlowError) as caught:
        unit(tmp_path, **more).open(Configuration())
    assert caught.value.status.code() == code and words in str(caught.value)
