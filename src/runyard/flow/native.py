"""The short way to write a unit: a function or class with type hints under `@flowunit`.

    @flowunit(inputs="text", outputs="title")
    def title(text: str) -> str:
        return text.title()

The hints say as what the data are wanted: `str`, `bytes`, `int`, `float`, `dict` and `list` (from JSON text),
`numpy.ndarray`, `Buffer`; without a hint they come as they are. Each datum is called for by itself, and what it
raises becomes the error of that datum alone.
"""

from __future__ import annotations

import inspect
import json
import traceback
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from runyard.flow.buffer import Buffer, as_buffer, error_buffer
from runyard.flow.configuration import Configuration
from runyard.flow.status import FlowError, Status, StatusCode
from runyard.flow.unit import DataContext, FlowUnit
from runyard.flow.unit_library import Port, UnitInfo

_FROM_BUFFER = ("shape", "type")
"""Meta keys that belong to the data themselves and are not taken over to new data."""


class NativeUnit:
    """What `@flowunit` makes. Calling it calls the function or class itself, so it can be tested as it is.

    `info` describes the unit; `make()` gives an instance for a node.
    """

    def __init__(self, target: Callable[..., Any], info: UnitInfo) -> None:
        self._target = target
        self.info = info
        self.__name__ = getattr(target, "__name__", info.name)
        self.__doc__ = target.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._target(*args, **kwargs)

    def make(self) -> FlowUnit:
        """A new unit object."""
        target = self._target
        if isinstance(target, type):
            if issubclass(target, FlowUnit):
                return target()
            made: Any = target()
            return _Wrapped(made.process, self.info, made)
        return _Wrapped(target, self.info, None)


def flowunit(
    *,
    inputs: str | Sequence[str] = (),
    outputs: str | Sequence[str] = (),
    name: str = "",
    stream: bool = False,
    condition: bool = False,
    loop: bool = False,
    expand: bool = False,
    collapse: bool = False,
    exception_visible: bool = False,
    batch_size: int | None = None,
) -> Callable[[Callable[..., Any]], NativeUnit]:
    """Makes a unit of a function, of a class with `process` (and perhaps `open(config)` and `close()`), or of a
    FlowUnit.

    A function gets one argument for each input, in order, and answers for one datum:

    * normal: the result; with several outputs a tuple or a dictionary by port,
    * `condition`, `loop`: the port's name, or (name, result),
    * `expand`, `stream`: an iterable of results, of any length,
    * `collapse`: gets lists, answers one result, or None for nothing.

    Raises ValueError where inputs and parameters do not fit together.
    """
    ins = (inputs,) if isinstance(inputs, str) else tuple(inputs)
    outs = (outputs,) if isinstance(outputs, str) else tuple(outputs)

    def wrap(target: Callable[..., Any]) -> NativeUnit:
        own = isinstance(target, type) and issubclass(target, FlowUnit)
        if not own:
            _check(target, ins)
        info = UnitInfo(
            name or getattr(target, "__name__", "unit"),
            type="function",
            description=inspect.getdoc(target) or "",
            inputs=tuple(Port(port) for port in ins),
            outputs=tuple(Port(port) for port in outs),
            flow_stream=stream,
            condition=condition,
            loop=loop,
            expand=expand,
            collapse=collapse,
            exception_visible=exception_visible,
            default_batch_size=batch_size,
            factory=lambda: unit.make(),
        )
        unit = NativeUnit(target, info)
        return unit

    return wrap


def _check(target: Callable[..., Any], inputs: tuple[str, ...]) -> None:
    function: Any = getattr(target, "process", None) if isinstance(target, type) else target
    if function is None:
        raise ValueError(f"class {target.__qualname__} has no process()")
    given = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    if isinstance(target, type):
        given = given[1:]
    if not inputs:
        raise ValueError("a unit without inputs is a source: write it as a FlowUnit class")
    if not any(p.kind is p.VAR_POSITIONAL for p in given) and len(given) != len(inputs):
        raise ValueError(f"{function.__qualname__} takes {len(given)} arguments, but there are {len(inputs)} inputs")


class _Wrapped(FlowUnit):
    """Calls a plain function for each datum."""

    def __init__(self, function: Callable[..., Any], info: UnitInfo, owner: Any) -> None:
        self._function = function
        self._info = info
        self._owner = owner
        self._ins = [port.name for port in info.inputs]
        self._outs = [port.name for port in info.outputs]
        self._readers = _readers(function, len(self._ins), collapse=info.collapse)

    def open(self, config: Configuration) -> Any:
        return self._owner.open(config) if hasattr(self._owner, "open") else None

    def close(self) -> Any:
        return self._owner.close() if hasattr(self._owner, "close") else None

    def process(self, data_ctx: DataContext) -> Any:
        columns: list[list[Buffer]] = [data_ctx.input(port) or [] for port in self._ins]
        if self._info.collapse:
            arguments = [
                [read(buffer) for buffer in column] for read, column in zip(self._readers, columns, strict=True)
            ]
            result = self._function(*arguments)
            if result is not None:
                self._put(data_ctx, result, columns[0][0])
            return None
        for row in zip(*columns, strict=True):
            try:
                arguments = [read(buffer) for read, buffer in zip(self._readers, row, strict=True)]
                self._answer(data_ctx, self._function(*arguments), row[0])
            except Exception as error:
                self._fail(data_ctx, error)
        return None

    def _answer(self, context: DataContext, result: Any, source: Buffer) -> None:
        info = self._info
        if info.condition or info.loop:
            port, value = result if isinstance(result, tuple) else (result, source)
            if port not in self._outs:
                raise ValueError(f"the answer {port!r} is none of the outputs {', '.join(self._outs)}")
            context.output(port).append(_made(value, source))
        elif info.expand or info.flow_stream:
            if isinstance(result, (str, bytes, dict)) or not isinstance(result, Iterable):
                raise TypeError(f"an iterable of results is wanted, not {type(result).__name__}")
            for each in result:
                self._put(context, each, source)
        else:
            self._put(context, result, source)

    def _put(self, context: DataContext, result: Any, source: Buffer) -> None:
        outs = self._outs
        if len(outs) == 1:
            values: Sequence[Any] = (result,)
        elif isinstance(result, dict) and set(result) == set(outs):
            values = [result[port] for port in outs]
        elif isinstance(result, tuple) and len(result) == len(outs):
            values = result
        elif not outs:
            return
        else:
            raise TypeError(f"results for the outputs {', '.join(outs)} are wanted, as a tuple or a dictionary")
        for port, value in zip(outs, values, strict=True):
            context.output(port).append(_made(value, source))

    def _fail(self, context: DataContext, error: Exception) -> None:
        if self._info.condition or self._info.loop:
            raise error
        code, text = f"{self._info.name}.ProcessError", "".join(traceback.format_exception(error))
        if not self._outs:
            raise FlowError(Status(StatusCode.STATUS_FAULT, text)) from error
        for port in self._outs:
            context.output(port).append(error_buffer(code, text))


def _made(value: Any, source: Buffer) -> Buffer:
    """A result as a buffer, with the meta of the datum that it was made of."""
    if isinstance(value, Buffer):
        return value
    buffer = as_buffer(value)
    if source._meta:
        for key, each in source._meta.items():
            if key not in _FROM_BUFFER:
                buffer.meta.setdefault(key, each)
    return buffer


def _readers(function: Callable[..., Any], count: int, *, collapse: bool) -> list[Callable[[Buffer], Any]]:
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError):
        hints = {}
    names = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    wanted = [hints.get(name) for name in names] + [None] * count
    if collapse:
        wanted = [(typing.get_args(hint) or (None,))[0] for hint in wanted]
    return [_reader(hint) for hint in wanted[:count]]


def _reader(hint: Any) -> Callable[[Buffer], Any]:
    kind = typing.get_origin(hint) or hint
    if kind is str:
        return Buffer.as_text
    if kind is bytes:
        return Buffer.as_bytes
    if isinstance(kind, type) and issubclass(kind, Buffer):
        return lambda buffer: buffer
    if kind in (int, float):
        return lambda buffer: kind(buffer.data if not isinstance(buffer.data, bytes) else buffer.as_text())
    if kind in (dict, list):
        return lambda buffer: buffer.data if isinstance(buffer.data, kind) else json.loads(buffer.as_text())
    if getattr(kind, "__name__", "") == "ndarray":
        return Buffer.as_array
    return lambda buffer: buffer.data
