"""A graph built in code: inputs, units, functions, outputs (spec 5.11)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runyard.flow.document import FlowDocument, Profile
from runyard.flow.native import NativeUnit
from runyard.flow.status import FlowError, Status, StatusCode
from runyard.flow.unit import FlowUnit
from runyard.flow.unit_library import Port, UnitInfo, UnitLibrary


class FlowPortDesc:
    """An output port of a node, to be linked to an input."""

    def __init__(self, node: FlowNodeDesc, port: str | int) -> None:
        self._node = node
        self._port = port

    def get_node_name(self) -> str:
        return self._node.get_node_name()

    def get_port_name(self) -> str:
        """Raises FlowError for a number that the node has no port for."""
        return self._node.port_name(self._port)


class FlowNodeDesc:
    """A node of a graph description. `node["port"]` and `node[0]` are its outputs."""

    def __init__(self, name: str, info: UnitInfo | None, attributes: dict[str, str]) -> None:
        self._name = name
        self.info = info
        self.attributes = attributes
        self.links: dict[str, FlowPortDesc] = {}

    def set_node_name(self, name: str) -> None:
        self._name = name

    def get_node_name(self) -> str:
        return self._name

    def __getitem__(self, port: str | int) -> FlowPortDesc:
        return FlowPortDesc(self, port)

    def port_name(self, port: str | int) -> str:
        if isinstance(port, str):
            return port
        names = [each.name for each in self.info.outputs] if self.info else [""]
        if not 0 <= port < len(names):
            raise FlowError(
                StatusCode.STATUS_INVALID, f"node {self._name!r} has {len(names)} outputs, no number {port}"
            )
        return names[port]


Link = FlowPortDesc | FlowNodeDesc


class FlowGraphDesc:
    """Describes a graph; `Flow.init` takes it."""

    def __init__(self) -> None:
        self.nodes: list[FlowNodeDesc] = []
        self._functions: list[UnitInfo] = []
        self._directories: list[str] = []
        self._skip_default = False
        self._defaults: dict[str, str] = {}
        self._profile_dir = ""
        self._trace = False
        self._library: UnitLibrary | None = None
        self._count = 0

    def set_queue_size(self, size: int) -> Status:
        self._defaults["queue_size"] = str(int(size))
        return Status()

    def set_batch_size(self, size: int) -> Status:
        self._defaults["batch_size"] = str(int(size))
        return Status()

    def set_drivers_dir(self, directories: Sequence[str] | str) -> Status:
        """Directories with units. Set them before nodes are added that use them by port number."""
        self._directories = [directories] if isinstance(directories, str) else [str(each) for each in directories]
        self._library = None
        return Status()

    def set_skip_default_drivers(self, skip: bool) -> Status:
        self._skip_default = bool(skip)
        self._library = None
        return Status()

    def set_profile_dir(self, directory: str) -> Status:
        self._profile_dir = str(directory)
        return Status()

    def set_profile_trace_enable(self, enable: bool) -> Status:
        self._trace = bool(enable)
        return Status()

    def add_input(self, name: str) -> FlowNodeDesc:
        """An input node; send data to it by its name."""
        return self._add(FlowNodeDesc(name, None, {"type": "input"}))

    def add_output(self, name: str, source: Link, output_type: str = "match") -> FlowNodeDesc:
        """An output node behind a port, or behind a node's first port."""
        node = self._add(FlowNodeDesc(name, None, {"type": "output", "output_type": output_type}))
        node.links[""] = _port(source)
        return node

    def add_node(self, flowunit: str, device: str = "cpu", *rest: Any) -> FlowNodeDesc:
        """A unit: after the device its options as `["key=value"]` or a dictionary of texts, then its inputs as
        `{port: source}`, or one source for a unit with one input."""
        info = self.library().find(flowunit, device)
        attributes = {"type": "flowunit", "flowunit": flowunit, "device": device}
        links: Any = None
        for item in rest:
            if isinstance(item, (FlowNodeDesc, FlowPortDesc)) or _is_links(item):
                links = item
            elif isinstance(item, Mapping):
                attributes.update({str(key): str(value) for key, value in item.items()})
            else:
                attributes.update(_option(text) for text in item)
        self._count += 1
        node = self._add(FlowNodeDesc(f"{flowunit}_{self._count}", info, attributes))
        self._link(node, links)
        return node

    def add_function(
        self,
        function: Callable[..., Any],
        inputs: Sequence[str] = (),
        outputs: Sequence[str] = (),
        links: Mapping[str, Link] | Link | None = None,
    ) -> FlowNodeDesc:
        """A function as a unit: it gets the data context, like `FlowUnit.process`. A unit made with `@flowunit`
        brings its own ports."""
        self._count += 1
        if isinstance(function, NativeUnit):
            known = function.info
            name = f"{known.name}_{self._count}"
            info = UnitInfo(
                name, type="function", inputs=known.inputs, outputs=known.outputs, flow_stream=known.flow_stream,
                condition=known.condition, loop=known.loop, expand=known.expand, collapse=known.collapse,
                exception_visible=known.exception_visible, default_batch_size=known.default_batch_size,
                factory=function.make,
            )  # fmt: skip
        else:
            name = f"{getattr(function, '__name__', 'function').strip('<>')}_{self._count}"
            info = UnitInfo(
                name, type="function", inputs=tuple(map(Port, inputs)), outputs=tuple(map(Port, outputs)),
                factory=lambda: _Function(function),
            )  # fmt: skip
        self._functions.append(info)
        node = self._add(FlowNodeDesc(name, info, {"type": "flowunit", "flowunit": name, "device": "cpu"}))
        self._link(node, links)
        return node

    def library(self) -> UnitLibrary:
        """The units that the graph may use."""
        if self._library is None:
            self._library = UnitLibrary.load(self._directories, builtin=not self._skip_default)
        for info in self._functions:
            self._library.add(info)
        return self._library

    def document(self) -> FlowDocument:
        """The graph as a document. Raises FlowError where a link names a port by a wrong number."""
        lines = ["digraph flow {"]
        for node in self.nodes:
            name = node.get_node_name()
            options = ", ".join(f"{_quoted(key)}={_quoted(value)}" for key, value in node.attributes.items() if value)
            lines.append(f"{_quoted(name)} [{options}]")
            for port, source in node.links.items():
                at = source.get_port_name()
                lines.append(f"{_end(source.get_node_name(), at)} -> {_end(name, port)}")
        lines.append("}")
        profile = Profile(trace=self._trace, directory=self._profile_dir or Profile().directory)
        return FlowDocument(
            dot="\n".join(lines), directories=tuple(self._directories), skip_default=self._skip_default,
            defaults=self._defaults, profile=profile,
        )  # fmt: skip

    def _add(self, node: FlowNodeDesc) -> FlowNodeDesc:
        self.nodes.append(node)
        return node

    def _link(self, node: FlowNodeDesc, links: Any) -> None:
        if links is None:
            return
        if isinstance(links, Mapping):
            node.links.update({port: _port(source) for port, source in links.items()})
        else:
            port = node.info.inputs[0].name if node.info and node.info.inputs else ""
            node.links[port] = _port(links)


class _Function(FlowUnit):
    def __init__(self, function: Callable[..., Any]) -> None:
        self.process = function  # type: ignore[method-assign]


def _port(source: Link) -> FlowPortDesc:
    return source if isinstance(source, FlowPortDesc) else source[0]


def _is_links(item: Any) -> bool:
    return isinstance(item, Mapping) and all(isinstance(each, (FlowNodeDesc, FlowPortDesc)) for each in item.values())


def _option(text: str) -> tuple[str, str]:
    key, equals, value = str(text).partition("=")
    if not equals or not key.strip():
        raise FlowError(StatusCode.STATUS_INVALID, f"the option {text!r} must be written key=value")
    return key.strip(), value.strip()


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _end(node: str, port: str) -> str:
    return f"{_quoted(node)}:{_quoted(port)}" if port else _quoted(node)
