"""The virtual unit `inference`: a model, run by ONNX Runtime on batches of samples (modelbox.md 6.7).

The unit's TOML names the model (`base.entry`) and its tensors as ports. Whatever engine `base.virtual_type` names, an
`.onnx` file is run by ONNX Runtime; other kinds of model have no engine here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runyard.flow.buffer import NUMPY_NAMES, Buffer, BufferList, data_type
from runyard.flow.configuration import Configuration
from runyard.flow.status import FlowError, StatusCode
from runyard.flow.unit import DataContext, FlowUnit
from runyard.flow.unit_library import Port, UnitInfo
from runyard.flow.units.passing import failed

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

ENGINES = ("onnx", "onnxruntime", "tensorflow", "torch", "tensorrt", "mindspore", "dlengine")
MAX_MODEL_BYTES = 2 * 1024**3
"""A model with all its weights in one file can't be larger (a limit of ONNX)."""
_TENSORS = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}
_PORT_TYPES = {
    "int": "int32",
    "long": "int64",
    "uint": "uint32",
    "ulong": "uint64",
    "short": "int16",
    "half": "float16",
}


class Inference(FlowUnit):
    """One sample a buffer. Samples of one shape are stacked and run together; what does not fit becomes an error."""

    def __init__(self, info: UnitInfo) -> None:
        """`info` is the unit's, as its TOML file says."""
        self.info = info
        self._code = f"{info.name}.ProcessError"
        self._session: Any = None
        self._inputs: list[_Tensor] = []
        self._outputs: list[str] = []

    def open(self, config: Configuration) -> None:
        info = self.info
        path = (info.directory or Path()) / info.entry
        engine = info.virtual_type
        if path.suffix.lower() != ".onnx" or engine not in ENGINES:
            message = f"current environment does not support the inference type: '{engine}:{info.device}'"
            hint = 'models in ONNX\'s format (entry = "….onnx", virtual_type = "onnx") are supported'
            raise FlowError(StatusCode.STATUS_NOTSUPPORT, f"{message} ({hint})")
        if info.encryption:
            raise FlowError(
                StatusCode.STATUS_NOTSUPPORT, "encrypted models can't be read: [encryption] must not be set"
            )
        self._session = _load(path, config.get_int("threads", 1))
        self._inputs = _tensors(self._session.get_inputs(), info.inputs, "input")
        self._outputs = [tensor.name for tensor in _tensors(self._session.get_outputs(), info.outputs, "output")]

    def close(self) -> None:
        self._session = None

    def process(self, data_ctx: DataContext) -> None:
        columns = [data_ctx.input(tensor.name) or BufferList() for tensor in self._inputs]
        count = min(map(len, columns))
        results: list[list[Buffer]] = [[]] * count
        groups: dict[tuple[tuple[int, ...], ...], list[tuple[int, list[Array]]]] = {}
        for index in range(count):
            try:
                arrays = [tensor.sample(column[index]) for tensor, column in zip(self._inputs, columns, strict=True)]
            except (ValueError, TypeError) as error:
                results[index] = [failed(self._code, str(error)) for _ in self._outputs]
            else:
                groups.setdefault(tuple(array.shape for array in arrays), []).append((index, arrays))
        single = any(tensor.single for tensor in self._inputs)
        for members in groups.values():
            step = 1 if single else len(members)
            for start in range(0, len(members), step):
                part = members[start : start + step]
                for (index, _), row in zip(part, self._run([arrays for _, arrays in part]), strict=True):
                    results[index] = row
        metas = [buffer.meta for buffer in columns[0]]
        for position, name in enumerate(self._outputs):
            port = data_ctx.output(name)
            for index, row in enumerate(results):
                buffer = row[position]
                for key, value in metas[index].items():
                    buffer.meta.setdefault(key, value)
                port.append(buffer)

    def _run(self, samples: list[list[Array]]) -> list[list[Buffer]]:
        """The results of samples of one shape: for each sample, one buffer for each output."""
        import numpy as np

        feed = {
            tensor.name: np.stack([arrays[position] for arrays in samples])
            for position, tensor in enumerate(self._inputs)
        }
        try:
            found = self._session.run(self._outputs, feed)
        except Exception as error:  # onnxruntime's exceptions have no common base but this
            message = f"the model failed: {' '.join(str(error).split())}"
            return [[failed(self._code, message) for _ in self._outputs] for _ in samples]
        for name, array in zip(self._outputs, found, strict=True):
            if array.ndim == 0 or len(array) != len(samples):
                message = f"output {name!r} of the model has shape {list(array.shape)} for {len(samples)} samples"
                return [[failed(self._code, message) for _ in self._outputs] for _ in samples]
        return [[Buffer(np.ascontiguousarray(array[index])) for array in found] for index in range(len(samples))]


class _Tensor:
    """An input or output of the model. Its first dimension is that of the batch."""

    def __init__(self, name: str, dtype: str, shape: Sequence[Any]) -> None:
        self.name = name
        self.dtype = dtype
        self.single = bool(shape) and shape[0] == 1
        """The model takes one sample a run."""
        self._dims = tuple(size if isinstance(size, int) and size > 0 else None for size in shape[1:])

    def sample(self, buffer: Buffer) -> Array:
        """The buffer's data as the model wants them, without the batch's dimension. Raises ValueError."""
        import numpy as np

        kind = buffer.meta.get("type")
        if kind is None and isinstance(buffer.data, (bytes, bytearray, memoryview)):
            array = np.frombuffer(buffer.data, self.dtype)
        else:
            array = buffer.as_array()
            if array.dtype != self.dtype:
                array = array.astype(self.dtype)
        fixed = [size for size in self._dims if size is not None]
        if len(fixed) == len(self._dims):
            if array.size != math.prod(fixed):
                want = "x".join(map(str, fixed)) or "1"
                raise ValueError(f"input {self.name!r} takes {want} elements a sample, not {array.size}")
            return array.reshape(fixed)
        if array.ndim != len(self._dims):
            raise ValueError(f"input {self.name!r} takes {len(self._dims)} dimensions a sample, not {array.ndim}")
        return array


def _load(path: Path, threads: int) -> Any:
    """Raises FlowError."""
    try:
        import onnxruntime as ort
    except ImportError:
        message = "current environment does not support the inference type: ONNX Runtime is missing (extra `infer`)"
        raise FlowError(StatusCode.STATUS_NOTSUPPORT, message) from None
    try:
        if path.stat().st_size > MAX_MODEL_BYTES:
            raise FlowError(StatusCode.STATUS_BADCONF, f"model {path} is larger than {MAX_MODEL_BYTES:,} bytes")
    except OSError as error:
        raise FlowError(StatusCode.STATUS_NOTFOUND, f"model {path} can't be read: {error.strerror}") from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = max(0, min(threads, 1024))
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base but this
        raise FlowError(StatusCode.STATUS_BADCONF, f"model {path} can't be loaded: {error}") from None


def _tensors(found: Sequence[Any], ports: Sequence[Port], what: str) -> list[_Tensor]:
    """The model's tensors of the ports' names. Raises FlowError if the two don't agree."""
    known = {tensor.name: tensor for tensor in found}
    missing = [port.name for port in ports if port.name not in known]
    if what == "input":
        missing += [name for name in known if all(port.name != name for port in ports)]
    if missing:
        names = ", ".join(known)
        message = f"{what} ports must be named like the model's tensors ({names}): {missing[0]!r} is not on both sides"
        raise FlowError(StatusCode.STATUS_BADCONF, message)
    tensors = []
    for port in ports:
        tensor = known[port.name]
        dtype = _TENSORS.get(tensor.type)
        if dtype is None:
            message = f"{what} {port.name!r} of the model is a {tensor.type}, and only tensors of numbers are supported"
            raise FlowError(StatusCode.STATUS_NOTSUPPORT, message)
        declared = _declared(port)
        if declared and declared != dtype:
            message = f"{what} port {port.name!r} is declared as {port.type}, but the model has {dtype}"
            raise FlowError(StatusCode.STATUS_BADCONF, message)
        tensors.append(_Tensor(port.name, dtype, tensor.shape))
    return tensors


def _declared(port: Port) -> str:
    """The element type that a port's `type` names; empty if it names none that is known."""
    name = port.type.strip().lower()
    kind = data_type(name)
    return _PORT_TYPES.get(name) or (NUMPY_NAMES[kind] if kind is not None else "")
