"""What travels through a flow: buffers (data, meta, perhaps an error) and ordered lists of them (spec 5.1)."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from runyard.flow.status import Status, StatusCode

if TYPE_CHECKING:
    import numpy as np

Scope = tuple[str, ...]


class DataType(IntEnum):
    """Element types, by the names and the order of ModelBox."""

    UINT8 = 0
    INT8 = 1
    BOOL = 2
    INT16 = 3
    UINT16 = 4
    INT32 = 5
    UINT32 = 6
    INT64 = 7
    UINT64 = 8
    FLOAT = 9
    DOUBLE = 10
    HALF = 11


NUMPY_NAMES: dict[DataType, str] = {
    DataType.UINT8: "uint8", DataType.INT8: "int8", DataType.BOOL: "bool", DataType.INT16: "int16",
    DataType.UINT16: "uint16", DataType.INT32: "int32", DataType.UINT32: "uint32", DataType.INT64: "int64",
    DataType.UINT64: "uint64", DataType.FLOAT: "float32", DataType.DOUBLE: "float64", DataType.HALF: "float16",
}  # fmt: skip
TYPES_BY_NAME = {name: kind for kind, name in NUMPY_NAMES.items()}


def data_type(value: Any) -> DataType | None:
    """The element type that a numpy dtype, its name, or ModelBox's name (`float`, `uint8`) means. None: unknown."""
    if isinstance(value, DataType):
        return value
    name = str(value).rsplit(".", 1)[-1].lower()
    if found := TYPES_BY_NAME.get(name):
        return found
    return DataType.__members__.get(name.upper())


class Device:
    """Where data lie. There is one: the host's memory."""

    __slots__ = ("_id", "_type")

    def __init__(self, kind: str = "cpu", device_id: str = "0") -> None:
        self._type = kind
        self._id = device_id

    def get_device_id(self) -> str:
        return self._id

    def get_type(self) -> str:
        return self._type

    def get_device_desc(self) -> str:
        return "Host cpu device."


CPU = Device()


def is_array(value: Any) -> bool:
    """Whether this is a numpy array. Never imports numpy: without it there are no arrays."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


class Buffer:
    """One datum: data, a dictionary of meta values, and perhaps an error instead of the data.

    Data may be bytes (or anything bytes-like), str, a numpy array, or any Python object; it is shared, never copied,
    when a buffer is passed on. `Buffer(data)` and ModelBox's `Buffer(device, data)` are the same. An array brings its
    `shape` and `type` as meta; a list of arrays is joined, `shape` is then the list of their shapes.
    """

    ModelBoxDataType = DataType

    __slots__ = ("__weakref__", "_data", "_error", "_meta", "_scope")

    _data: Any
    _meta: dict[str, Any] | None
    _error: tuple[str, str] | None
    _scope: Scope | None

    def __init__(self, *args: Any, meta: dict[str, Any] | None = None) -> None:
        if args and (args[0] is None or isinstance(args[0], Device)) and len(args) <= 2:
            data = args[1] if len(args) == 2 else None
        elif len(args) <= 1:
            data = args[0] if args else None
        else:
            raise TypeError("use Buffer(data) or Buffer(device, data)")
        self._meta = meta
        self._error = None
        self._scope = None
        kind = type(data)
        if kind is not bytes and kind is not str and data is not None:
            if is_array(data):
                self._meta = {**(meta or {}), "shape": list(data.shape), "type": data_type(data.dtype)}
            elif kind is list and data and all(map(is_array, data)):
                data, self._meta = _joined(data, meta)
        self._data = data

    # -- data ----------------------------------------------------------------------------------------------------

    @property
    def data(self) -> Any:
        """The data as they were given. None after an error was set."""
        return self._data

    @data.setter
    def data(self, value: Any) -> None:
        self._data = value

    def build(self, size: int) -> Status:
        """Makes the data a block of `size` zero bytes that can be written to."""
        self._data = bytearray(size)
        return Status()

    def as_bytes(self) -> bytes:
        """The data as bytes: text as UTF-8, an array as its memory. Raises TypeError for other objects."""
        data = self._data
        if type(data) is bytes:
            return data
        if data is None:
            return b""
        if isinstance(data, str):
            return _encoded(data)
        if is_array(data):
            return bytes(data.tobytes())
        return bytes(memoryview(data))

    def get_bytes(self) -> int:
        """How many bytes the data have. 0 where they are no bytes."""
        data = self._data
        if isinstance(data, str):
            return len(_encoded(data))
        if is_array(data):
            return int(data.nbytes)
        try:
            return memoryview(data).nbytes
        except TypeError:
            return 0

    def as_text(self) -> str:
        """The data as text: bytes are read as UTF-8, other bytes are kept as surrogates."""
        data = self._data
        return data if isinstance(data, str) else self.as_bytes().decode("utf-8", "surrogateescape")

    def as_object(self) -> Any:
        """Text as str, raw bytes as a one-dimensional typed array, any other object as it is."""
        data = self._data
        if isinstance(data, (bytes, bytearray, memoryview)):
            return self.as_array().reshape(-1)
        if is_array(data):
            return data.reshape(-1)
        return data

    def as_array(self) -> np.ndarray[Any, Any]:
        """The data as a numpy array with the meta's `shape` and `type` where they fit (else flat, uint8)."""
        import numpy as np

        data = self._data
        if isinstance(data, np.ndarray):
            return data
        if isinstance(data, (int, float, bool, list, tuple)):
            return np.asarray(data)
        meta = self._meta or {}
        kind = data_type(meta["type"]) if "type" in meta else None
        raw = self.as_bytes() if isinstance(data, str) or data is None else data
        flat = np.frombuffer(raw, dtype=np.uint8)
        element = np.dtype(NUMPY_NAMES[DataType.UINT8 if kind is None else kind])
        if flat.size % element.itemsize == 0:
            flat = flat.view(element)
        shape = meta.get("shape")
        if isinstance(shape, (list, tuple)) and all(isinstance(size, int) and size >= 0 for size in shape):
            return flat.reshape(shape) if math.prod(shape) == flat.size else flat
        return flat

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        import numpy as np

        array = self.as_array()
        if dtype is not None and array.dtype != np.dtype(dtype):
            return array.astype(dtype)
        return array.copy() if copy else array

    def get_device(self) -> Device:
        return CPU

    # -- meta ----------------------------------------------------------------------------------------------------

    @property
    def meta(self) -> dict[str, Any]:
        """The meta values, to read and to write."""
        if self._meta is None:
            self._meta = {}
        return self._meta

    def set(self, key: str, value: Any) -> bool:
        """Sets one meta value: a number, text, list, array, dictionary or any object."""
        if self._meta is None:
            self._meta = {}
        self._meta[key] = value
        return True

    def get(self, key: str, *default: Any) -> Any:
        """One meta value. Raises ValueError where it is missing and no default is given."""
        if self._meta is not None and key in self._meta:
            return self._meta[key]
        if default:
            return default[0]
        raise ValueError(f"can not find buffer meta: {key}")

    def copy_meta(self, other: Buffer) -> Status:
        """Takes over all meta keys of the other buffer; keys that only this one has stay."""
        if other._meta:
            self.meta.update(other._meta)
        return Status()

    # -- error ---------------------------------------------------------------------------------------------------

    @property
    def error(self) -> tuple[str, str] | None:
        """(code, message), or None where all is well."""
        return self._error

    def has_error(self) -> bool:
        return self._error is not None

    def set_error(self, code: str, message: str = "") -> None:
        """Marks the datum as failed, e.g. `("ImageDecoder.DecodeFailed", "…")`. The data are dropped."""
        self._error = (str(code), str(message))
        self._scope = None
        self._data = None

    def get_error_code(self) -> str:
        return self._error[0] if self._error else ""

    def get_error_msg(self) -> str:
        return self._error[1] if self._error else ""

    def __str__(self) -> str:
        try:
            return self.as_text()
        except TypeError:
            return str(self._data)

    def __repr__(self) -> str:
        if self._error:
            return f"Buffer(error={self._error!r})"
        return f"Buffer({type(self._data).__name__}, {self.get_bytes()} bytes, meta={sorted(self._meta or {})})"


def error_buffer(code: str, message: str, scope: Scope | None = None) -> Buffer:
    """A buffer that is nothing but an error, raised at the nesting level `scope`."""
    buffer = Buffer()
    buffer._error = (code, message)
    buffer._scope = scope
    return buffer


class BufferList(list[Buffer]):
    """The buffers of one port in one call, in order. A Python list with ModelBox's methods.

    `BufferList()`, `(device)`, `(buffer)`, `([buffers])` are the ways to make one.
    """

    __slots__ = ()

    def __init__(self, *args: Any) -> None:
        rest = [arg for arg in args if not isinstance(arg, Device)]
        super().__init__()
        for arg in rest:
            if isinstance(arg, Buffer):
                self.append(arg)
            else:
                self.extend(as_buffer(each) for each in arg)

    def build(self, sizes: Sequence[int], contiguous: bool = True) -> Status:
        """Makes one zeroed buffer for each size."""
        self.clear()
        for size in sizes:
            buffer = Buffer()
            buffer.build(size)
            self.append(buffer)
        return Status()

    def push_back(self, item: Any) -> Status:
        """Appends a buffer, or what can be made one: an array, text, bytes, an object."""
        self.append(item if type(item) is Buffer else as_buffer(item))
        return Status()

    def size(self) -> int:
        return len(self)

    def at(self, index: int) -> Buffer:
        return self[index]

    def front(self) -> Buffer:
        """The first buffer. Raises IndexError where there is none."""
        return self[0]

    def back(self) -> Buffer:
        return self[-1]

    def get_bytes(self) -> int:
        return sum(buffer.get_bytes() for buffer in self)

    def get_device(self) -> Device:
        return CPU

    def set(self, key: str, value: Any) -> Status:
        """Sets a meta value on every buffer."""
        for buffer in self:
            buffer.set(key, value)
        return Status()

    def set_error(self, code: str, message: str = "") -> None:
        for buffer in self:
            buffer.set_error(code, message)

    def has_error(self) -> bool:
        return any(buffer._error is not None for buffer in self)

    def copy_meta(self, other: Iterable[Buffer], overwrite: bool = True) -> Status:
        """Buffer by buffer. STATUS_FAULT where the counts differ."""
        others = list(other)
        if len(others) != len(self):
            return Status(StatusCode.STATUS_FAULT, f"{len(self)} buffers can't take the meta of {len(others)}")
        for mine, theirs in zip(self, others, strict=True):
            mine.copy_meta(theirs)
        return Status()


class DataMeta:
    """Values that belong to a whole stream, set by the unit that makes it and read by those behind it."""

    __slots__ = ("_values",)

    def __init__(self, values: dict[str, Any] | None = None) -> None:
        self._values: dict[str, Any] = dict(values or {})

    def set_private(self, key: str, value: Any) -> None:
        self._values[key] = value

    def get_private(self, key: str) -> Any:
        return self._values.get(key)

    def set_private_string(self, key: str, value: str) -> None:
        self._values[key] = str(value)

    def set_private_int(self, key: str, value: int) -> None:
        self._values[key] = int(value)

    def get_private_string(self, key: str) -> str:
        """Raises RuntimeError where there is no such text."""
        value = self._values.get(key)
        if not isinstance(value, str):
            raise RuntimeError("invalid key.")
        return value

    def get_private_int(self, key: str) -> int:
        """Raises RuntimeError where there is no such number."""
        value = self._values.get(key)
        if not isinstance(value, int):
            raise RuntimeError("invalid key.")
        return value

    def keys(self) -> Iterator[str]:
        return iter(self._values)


def as_buffer(item: Any) -> Buffer:
    """The item itself where it is a buffer; else a new buffer with it as data."""
    return item if isinstance(item, Buffer) else Buffer(CPU, item)


def _encoded(text: str) -> bytes:
    """UTF-8. What came of other bytes becomes them again; half a pair of surrogates, as JSON may have it, stays one."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _joined(arrays: list[Any], meta: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
    import numpy as np

    whole = np.concatenate([array.reshape(-1) for array in arrays])
    return whole, {
        **(meta or {}),
        "shape": [list(array.shape) for array in arrays],
        "type": data_type(whole.dtype),
    }
