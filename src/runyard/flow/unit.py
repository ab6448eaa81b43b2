"""What a flow unit is and what it sees of the flow: the base class, the context of a call, events (spec 5.2 to 5.5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from runyard.flow.buffer import CPU, Buffer, BufferList, DataMeta, Device
from runyard.flow.configuration import Configuration
from runyard.flow.session import ExternalData, SessionContext
from runyard.flow.status import FlowError, Status, StatusCode

Result = Status | StatusCode | bool | None
"""What a unit's methods may return. None and True are success, False is a fault."""


class FlowUnitEvent:
    """Sent by a unit to itself (`send_event`); its `process` is then called with it instead of data."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def set_private(self, key: str, value: Any) -> None:
        self._values[key] = value

    def get_private(self, key: str) -> Any:
        return self._values.get(key)

    set_private_string = set_private
    set_private_int = set_private
    get_private_string = get_private
    get_private_int = get_private


class FlowUnitError:
    """An error in words."""

    __slots__ = ("_description",)

    def __init__(self, description: str = "") -> None:
        self._description = description

    def get_description(self) -> str:
        return self._description

    __str__ = get_description


class DataContext:
    """What one call of `process`, `data_pre` or `data_post` works on."""

    __slots__ = (
        "_event", "_external", "_inputs", "_metas", "_outputs", "_ports", "_private", "_read_meta", "_send", "_session",
        "_view",
    )  # fmt: skip

    def __init__(
        self,
        session: SessionContext,
        ports: tuple[str, ...],
        private: dict[str, Any],
        *,
        inputs: dict[str, BufferList] | None = None,
        external: BufferList | None = None,
        event: FlowUnitEvent | None = None,
        send: Callable[[FlowUnitEvent], Status] | None = None,
        read_meta: Callable[[str], DataMeta | None] | None = None,
        view: tuple[str, ...] = ("",),
    ) -> None:
        self._session = session
        self._ports = ports
        self._private = private
        self._inputs = inputs
        self._outputs: dict[str, BufferList] = {}
        self._external = external
        self._event = event
        self._send = send
        self._read_meta = read_meta
        self._metas: dict[str, DataMeta] | None = None
        self._view = view

    def input(self, port: str) -> BufferList | None:
        """The buffers of an input port, in order. None in a call for an event, and for a port that does not exist."""
        return self._inputs.get(port) if self._inputs is not None else None

    def output(self, port: str) -> BufferList:
        """The list to put results into. Raises FlowError for a port that the unit does not have."""
        buffers = self._outputs.get(port)
        if buffers is None:
            if port not in self._ports:
                known = ", ".join(self._ports) or "none"
                raise FlowError(
                    StatusCode.STATUS_INVALID, f"there is no output port {port!r}; the outputs are: {known}"
                )
            buffers = self._outputs[port] = BufferList()
        return buffers

    def external(self) -> BufferList:
        """Of a source: the datum that was sent in from outside."""
        return self._external if self._external is not None else BufferList()

    def event(self) -> FlowUnitEvent | None:
        """The event that this call is for, if it is for one."""
        return self._event

    def send_event(self, event: FlowUnitEvent) -> Status:
        """Asks for another call of `process` for the same stream, with this event. May be called from any thread.

        Return STATUS_CONTINUE, so that the stream is not taken for finished meanwhile.
        """
        if self._send is None:
            return Status(StatusCode.STATUS_NOTSUPPORT, "only stream, expand and source units may send events")
        return self._send(event)

    def has_error(self) -> bool:
        """Whether any input buffer is an error. Only units with `exception_visible` ever see one."""
        return self._inputs is not None and any(buffers.has_error() for buffers in self._inputs.values())

    def get_error(self) -> FlowUnitError | None:
        """The first error of the inputs."""
        for buffers in (self._inputs or {}).values():
            for buffer in buffers:
                if buffer._error is not None:
                    return FlowUnitError(f"{buffer._error[0]}: {buffer._error[1]}")
        return None

    def set_private(self, key: str, value: Any) -> None:
        """Keeps a value for the later calls of the same stream. In a normal unit: for this call."""
        self._private[key] = value

    def get_private(self, key: str) -> Any:
        """The value kept under the key, or None."""
        return self._private.get(key)

    set_private_string = set_private
    set_private_int = set_private

    def get_private_string(self, key: str) -> str:
        """Raises RuntimeError where there is none."""
        value: str = _typed(self._private, key, str)
        return value

    def get_private_int(self, key: str) -> int:
        """Raises RuntimeError where there is none."""
        value: int = _typed(self._private, key, int)
        return value

    def get_input_meta(self, port: str) -> DataMeta | None:
        """The meta of the stream that comes in at the port; set by whichever unit upstream set one last."""
        return self._read_meta(port) if self._read_meta is not None else None

    get_input_group_meta = get_input_meta

    def set_output_meta(self, port: str, meta: DataMeta) -> Status:
        """Sets the meta of the stream that leaves at the port. Do it before the first buffer of the stream."""
        if port not in self._ports:
            return Status(StatusCode.STATUS_INVALID, f"there is no output port {port!r}")
        if self._metas is None:
            self._metas = {}
        self._metas[port] = meta
        return Status()

    def get_session_context(self) -> SessionContext:
        return self._session

    def get_session_config(self) -> Configuration:
        """The session's options as this node sees them: its own, its unit's, then those for all nodes."""
        return Configuration(self._session.values, prefixes=self._view)


class UnitHost(Protocol):
    """What the runtime does for a unit."""

    def create_external_data(self) -> ExternalData:
        """Begins a session at this source."""

    @property
    def node_name(self) -> str: ...


class FlowUnit:
    """Base of all units. Only `process` must be written; every method may return a status, or nothing for success.

    One instance serves a node. A normal unit's `process` is called by several threads at once; that of a stream unit
    by one at a time for each stream.
    """

    _host: UnitHost | None = None

    @property
    def node_name(self) -> str:
        """Name of the node in the graph; empty outside of a flow."""
        return self._host.node_name if self._host else ""

    def open(self, config: Configuration) -> Any:
        """Once, while the flow is built. A failure or exception fails the flow."""
        return None

    def close(self) -> Any:
        """Once, when the flow has stopped."""
        return None

    def process(self, data_ctx: DataContext) -> Any:
        """Data, an external datum or an event: read the inputs, fill the outputs."""
        raise NotImplementedError(f"{type(self).__name__} has no process()")

    def data_pre(self, data_ctx: DataContext) -> Any:
        """Before the first datum of a stream. Stream units only."""
        return None

    def data_post(self, data_ctx: DataContext) -> Any:
        """After the last datum of a stream. Stream units only."""
        return None

    def data_group_pre(self, data_ctx: DataContext) -> Any:
        """Never called; ModelBox's older units have it."""
        return None

    def data_group_post(self, data_ctx: DataContext) -> Any:
        """Never called; ModelBox's older units have it."""
        return None

    def get_bind_device(self) -> Device:
        return CPU

    def create_buffer(self, data: Any) -> Buffer:
        """A buffer of an array, text, bytes or an object."""
        return Buffer(CPU, data)

    def create_external_data(self) -> ExternalData:
        """Of a source: begins a session. Send data with it, from any thread, and close it."""
        if self._host is None:
            raise FlowError(StatusCode.STATUS_INVALID, "external data can be made only inside a flow, from open() on")
        return self._host.create_external_data()


def _typed(values: dict[str, Any], key: str, kind: type) -> Any:
    value = values.get(key)
    if not isinstance(value, kind):
        raise RuntimeError("invalid key.")
    return value
