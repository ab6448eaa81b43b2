"""A model used straight from a program: ModelBox's `Model` (spec 5.11), a graph of one inference unit inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runyard.flow.buffer import Buffer
from runyard.flow.sdk import Flow
from runyard.flow.sdk_graph import FlowGraphDesc
from runyard.flow.status import FlowError, Status, StatusCode


class Model:
    """`path` is a directory with the TOML file of the inference unit `name`. `start`, `infer`, `stop`."""

    def __init__(self, path: str, name: str, max_batch: int = 1, device: str = "cpu", device_id: str = "0") -> None:
        self._paths = [path]
        self._name = name
        self._batch = max_batch
        self._device = device
        self._flow: Flow | None = None
        self._inputs: list[str] = []
        self._outputs: list[str] = []

    def add_path(self, path: str) -> Status:
        """Another directory to search."""
        self._paths.append(path)
        return Status()

    def start(self) -> Status:
        """Loads the model. STATUS_NOTFOUND where there is no such unit."""
        graph = FlowGraphDesc()
        graph.set_drivers_dir(self._paths)
        info = graph.library().find(self._name, self._device)
        if info is None:
            return Status(StatusCode.STATUS_NOTFOUND, f"no unit {self._name!r} in {', '.join(self._paths)}")
        self._inputs = [port.name for port in info.inputs]
        self._outputs = [port.name for port in info.outputs]
        sources = {port: graph.add_input(f"in {port}") for port in self._inputs}
        node = graph.add_node(self._name, self._device, {"batch_size": str(self._batch)}, sources)
        for port in self._outputs:
            graph.add_output(f"out {port}", node[port])
        flow = Flow()
        status = flow.init(graph)
        status = status and flow.start_run()
        if status:
            self._flow = flow
        return status

    def stop(self) -> Status:
        flow, self._flow = self._flow, None
        return flow.stop() if flow is not None else Status()

    def infer(self, inputs: Sequence[Any]) -> list[Buffer]:
        """One sample: a value for each input port, a buffer of each output port. Raises FlowError on failure."""
        return [row[0] for row in self.infer_batch([[each] for each in inputs])]

    def infer_batch(self, inputs: Sequence[Sequence[Any]]) -> list[list[Buffer]]:
        """Samples by input port; the results by output port. Raises FlowError on failure."""
        if self._flow is None:
            raise FlowError(StatusCode.STATUS_INVALID, "the model is not started")
        if len(inputs) != len(self._inputs) or len({len(column) for column in inputs}) != 1:
            ports = ", ".join(self._inputs)
            raise FlowError(StatusCode.STATUS_INVALID, f"equally many samples for each input are wanted: {ports}")
        session = self._flow.create_external_data_map().exchange
        for port, column in zip(self._inputs, inputs, strict=True):
            session.send(f"in {port}", column).raise_failure()
        session.close()
        results: list[list[Buffer]] = []
        for port in self._outputs:
            row = [session.results.recv(f"out {port}") for _ in inputs[0]]
            for buffer in row:
                if buffer is None or buffer.has_error():
                    text = ": ".join(buffer.error or ()) if buffer else "the flow ended"
                    raise FlowError(StatusCode.STATUS_FAULT, text)
            results.append([buffer for buffer in row if buffer is not None])
        return results
