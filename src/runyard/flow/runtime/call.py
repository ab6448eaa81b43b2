"""Calls a unit and judges what it did: results per port, an error in their place, or the end of the flow (spec 5.6)."""

from __future__ import annotations

import traceback
from time import perf_counter
from typing import Any

from runyard.flow.buffer import as_buffer, error_buffer
from runyard.flow.runtime.lane import PLACEHOLDER, Call
from runyard.flow.runtime.plan import Kind, NodePlan
from runyard.flow.runtime.stream_node import too_many
from runyard.flow.status import FlowError, Status, StatusCode
from runyard.flow.unit import DataContext

MAX_TRACEBACK = 16_000
"""Characters of a traceback that an error carries; of a longer one the end is kept."""

_SUCCESS = StatusCode.STATUS_SUCCESS
_CONTINUE = StatusCode.STATUS_CONTINUE
_ENDING = (StatusCode.STATUS_STOP, StatusCode.STATUS_SHUTDOWN)
_STREAMED = (Kind.STREAM, Kind.SOURCE, Kind.EXPAND)


class UnitFailure(Exception):
    """A call failed elsewhere, such as in a worker process; `text` is what the error buffers say."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def run(call: Call) -> None:
    """Calls the unit and fills in the call's results. Never raises: whatever the unit raises becomes an error."""
    node = call.node
    plan = node.plan
    unit = node.unit
    context = call.context
    result: Any = None
    failure: str | None = None
    before = False
    call.started = started = perf_counter()
    try:
        if call.post:
            result = unit.data_post(context)
        else:
            if call.first and plan.stream:
                before = True
                result = unit.data_pre(context)
                if result is None or result is True or result == _SUCCESS:
                    before = False
                    result = unit.process(context)
            else:
                result = unit.process(context)
    except UnitFailure as error:
        failure = error.text
    except FlowError as error:
        result = error.status
    except BaseException as error:
        failure = trimmed(error)
    call.seconds = perf_counter() - started
    if failure is None and (result is None or result is True or result is _SUCCESS):
        judge(call, plan, context)
        return
    status = Status(StatusCode.STATUS_FAULT, failure) if failure is not None else as_status(result)
    code = status.code()
    if code == _SUCCESS:
        judge(call, plan, context)
    elif code in _ENDING:
        call.stop = Status(code, status.errormsg())
    elif code == _CONTINUE and not call.post and not before:
        call.again = plan.kind in _STREAMED
        judge(call, plan, context)
    else:
        reason = "DataPreError" if before else "DataPostError" if call.post else "ProcessError"
        message = status.errormsg() if not status._wrapped else status.wrap_errormsgs()
        fail(call, plan, f"{plan.unit or plan.name}.{reason}", message or status.str_code())
        if call.post:
            call.outputs = [[] for _ in plan.outputs]


def as_status(result: Any) -> Status:
    """What a unit returned, as a status. Anything that is none is a fault."""
    if isinstance(result, Status):
        return result
    if result is None or result is True:
        return Status()
    if result is False:
        return Status(StatusCode.STATUS_FAULT, "the unit returned False")
    if isinstance(result, int):
        try:
            return Status(result)
        except ValueError as error:
            return Status(StatusCode.STATUS_FAULT, str(error))
    return Status(StatusCode.STATUS_FAULT, f"the unit returned {type(result).__name__}, not a Status")


def trimmed(error: BaseException) -> str:
    """The traceback of what a unit raised, without the frames of the runtime."""
    tb = error.__traceback__
    text = "".join(traceback.format_exception(type(error), error, tb.tb_next if tb and tb.tb_next else tb))
    return text if len(text) <= MAX_TRACEBACK else "…" + text[-MAX_TRACEBACK:]


def fail(call: Call, plan: NodePlan, code: str, message: str) -> None:
    """Puts errors in the place of the results: one for each input where the unit answers one to one, else one."""
    call.error = (code, message)
    one_to_one = plan.kind in (Kind.NORMAL, Kind.CONDITION, Kind.LOOP) or code.endswith(".DataPreError")
    count = call.rows if one_to_one else 1
    call.outputs = [[error_buffer(code, message, scope) for _ in range(count)] for scope in plan.out_scopes]
    call.mixed = True


def judge(call: Call, plan: NodePlan, context: DataContext) -> None:
    """Checks the counts of a successful call and notes the errors among its results."""
    filled = context._outputs
    outputs: list[list[Any]] = []
    mixed = False
    for port, name in enumerate(plan.outputs):
        buffers: list[Any] | None = filled.get(name)
        if not buffers:
            outputs.append([])
            continue
        try:
            for buffer in buffers:
                if buffer._error is not None:
                    mixed = True
        except AttributeError:
            try:
                buffers = [as_buffer(item) for item in buffers]
            except Exception as error:
                fail(call, plan, f"{plan.unit or plan.name}.ProcessError", trimmed(error))
                return
            mixed = True
        if mixed:
            scope = plan.out_scopes[port]
            for buffer in buffers:
                if buffer._error is not None and buffer._scope is None:
                    buffer._scope = scope
        outputs.append(list(buffers))
    call.outputs = outputs
    call.mixed = mixed
    kind = plan.kind
    if kind is Kind.NORMAL:
        for buffers in outputs:
            if len(buffers) != call.rows:
                _miscounted(call, plan, len(buffers))
                return
    elif kind is Kind.STREAM:
        if plan.check_output and any(len(buffers) != len(outputs[0]) for buffers in outputs):
            counts = ", ".join(f"{name}: {len(buffers)}" for name, buffers in zip(plan.outputs, outputs, strict=True))
            call.stop = Status(StatusCode.STATUS_FAULT, f"node {plan.name!r}: its outputs differ in count ({counts})")
    elif kind is Kind.CONDITION or kind is Kind.LOOP:
        _choose(call, plan, outputs)
    elif kind is Kind.COLLAPSE and (most := max(map(len, outputs), default=0)) > 1:
        call.stop = too_many(plan.name, most)


def _miscounted(call: Call, plan: NodePlan, count: int) -> None:
    text = f"input buffer count {call.rows} should equal output buffer count {count}"
    if plan.check_output:
        call.stop = Status(StatusCode.STATUS_FAULT, f"node {plan.name!r}: {text}")
    else:
        fail(call, plan, f"{plan.unit or plan.name}.ProcessError", text)


def _choose(call: Call, plan: NodePlan, outputs: list[list[Any]]) -> None:
    """A condition or loop gives its datum to exactly one port."""
    chosen = [port for port, buffers in enumerate(outputs) if buffers]
    if len(chosen) != 1 or len(outputs[chosen[0]]) != 1:
        filled = ", ".join(f"{plan.outputs[port]}: {len(outputs[port])}" for port in chosen) or "none"
        text = f"exactly one port must get exactly one buffer of each datum; filled: {filled}"
        if plan.check_output:
            call.stop = Status(StatusCode.STATUS_FAULT, f"node {plan.name!r}: {text}")
        else:
            fail(call, plan, f"{plan.unit or plan.name}.ProcessError", text)
        return
    call.outputs = [list(buffers) if buffers else [PLACEHOLDER] for buffers in outputs]
    call.mixed = True
