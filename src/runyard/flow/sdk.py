"""Flows inside a program: build, feed, read, stop (spec 5.9, 5.11). Methods return a Status, as ModelBox's do.

with Flow.load("flow.toml") as flow:
    stream = flow.create_stream_io()
    stream.send("in", b"data")
    stream.close_input()
    result = stream.recv("out")
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runyard.flow.buffer import Buffer, BufferList, DataMeta
from runyard.flow.configuration import Configuration
from runyard.flow.document import FlowDocument, build_document, load_document, parse_document
from runyard.flow.problem import BadFlow
from runyard.flow.runtime.external import Exchange
from runyard.flow.runtime.runner import GOOD_ENDS, FlowRun, load_flow
from runyard.flow.sdk_graph import FlowGraphDesc
from runyard.flow.session import SessionContext
from runyard.flow.status import FlowError, Status, StatusCode
from runyard.flow.unit_library import UnitLibrary

GRACE = 10.0
"""Seconds that `stop` waits for units that are in the middle of a call."""
NAMED_SUFFIXES = (".toml", ".json")


class Flow:
    """One flow. `init…`, then `build`, then `run` or `run_async`; or `Flow.load` and a `with` block."""

    def __init__(self) -> None:
        self._document: FlowDocument | None = None
        self._library: UnitLibrary | None = None
        self._arguments: Mapping[str, str] = {}
        self._run: FlowRun | None = None

    @classmethod
    def load(
        cls,
        source: str | Path | FlowGraphDesc | FlowDocument | Mapping[str, Any],
        *,
        arguments: Mapping[str, str] | None = None,
        units: Sequence[Any] = (),
    ) -> Flow:
        """A flow that is built and running, from a file, a description, or a document as plain data.

        `units` are units of the program's own, made with `@flowunit`. Raises BadFlow or FlowError where it can't run.
        """
        flow = cls()
        if isinstance(source, FlowGraphDesc):
            flow._document, flow._library = source.document(), source.library()
        elif isinstance(source, FlowDocument):
            flow._document = source
        elif isinstance(source, Mapping):
            flow._document = build_document(source)
        else:
            flow._document = load_document(source)
        if units:
            document = flow._document
            flow._library = flow._library or UnitLibrary.load(document.directories, builtin=not document.skip_default)
            for unit in units:
                flow._library.add(unit.info)
        flow._arguments = arguments or {}
        flow._build()
        flow._running().start()
        return flow

    def __enter__(self) -> Flow:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- ModelBox's steps --------------------------------------------------------------------------------------------

    def init(self, source: Any, text: str | None = None, format: str = "") -> Status:
        """From a file, from (name, document text), a Configuration with `graph.…` keys, or a FlowGraphDesc."""
        try:
            if text is not None:
                self._document = parse_document(text, format if format in ("toml", "json") else "")
            elif isinstance(source, FlowGraphDesc):
                self._document, self._library = source.document(), source.library()
            elif isinstance(source, Configuration):
                self._document = build_document(_nested(source))
            else:
                self._document = load_document(source)
        except BadFlow as error:
            return _bad(error)
        except FlowError as error:
            return error.status
        except OSError as error:
            return Status(StatusCode.STATUS_NOTFOUND, f"can't read {source}: {error.strerror or error}")
        except ValueError as error:
            return Status(StatusCode.STATUS_INVALID, f"can't read {source!r}: {error}")
        return Status()

    def init_by_name(self, name: str, args: Mapping[str, str] | None = None, flow_dir: str = "") -> Status:
        """The document in the directory whose `flow.name` is this; `args` replace `$name` in node options (4.9)."""
        directory = Path(flow_dir or ".")
        for path in sorted(each for each in directory.rglob("*") if each.suffix in NAMED_SUFFIXES):
            try:
                document = load_document(path)
            except (BadFlow, OSError):
                continue
            if document.name == name:
                self._document = document
                self._arguments = {key: str(value) for key, value in (args or {}).items()}
                return Status()
        return Status(StatusCode.STATUS_NOTFOUND, f"no flow named {name!r} in {directory}")

    def build(self) -> Status:
        """Checks the graph and opens the units. What was built before is stopped."""
        try:
            self._build()
        except BadFlow as error:
            return _bad(error)
        except FlowError as error:
            return Status(error.status.code(), "build graph failed, please check graph config.", error.status)
        return Status()

    def run_async(self) -> Status:
        """Lets it run in threads of its own."""
        if self._run is None:
            return Status(StatusCode.STATUS_INVALID, "the flow is not built")
        self._run.start()
        return Status()

    def run(self) -> Status:
        """Runs until the flow ends; its result."""
        status = self.run_async()
        if not status:
            return status
        result = self._running().wait()
        return Status() if result is None or result.code() in GOOD_ENDS else result

    def start_run(self) -> Status:
        """`build` and `run_async`."""
        return self.build() and self.run_async()

    def wait(self, timeout_ms: int = 0, status: Status | None = None) -> Status:
        """Waits for the end, at most that many milliseconds (0: without limit), then STATUS_TIMEDOUT. How the flow
        ended goes into `status`."""
        if self._run is None:
            return Status(StatusCode.STATUS_INVALID, "the flow is not built")
        result = self._run.wait(timeout_ms / 1000 if timeout_ms > 0 else None)
        if result is None:
            return Status(StatusCode.STATUS_TIMEDOUT)
        if status is not None:
            status._code, status._message, status._wrapped = result._code, result._message, result._wrapped
        return Status() if result.code() in GOOD_ENDS else result

    def stop(self, grace: float = GRACE) -> Status:
        """Ends the flow and closes the units. STATUS_TIMEDOUT names units that did not return within the grace."""
        if self._run is None:
            return Status()
        stuck = self._run.stop(grace)
        return Status(StatusCode.STATUS_TIMEDOUT, f"still in process(): {', '.join(stuck)}") if stuck else Status()

    # -- data --------------------------------------------------------------------------------------------------------

    def create_external_data_map(self) -> ExternalDataMap:
        """A session at the graph's inputs. Raises FlowError where the graph has none."""
        return ExternalDataMap(self._running().exchange())

    def create_stream_io(self) -> FlowStreamIO:
        """A session at the graph's inputs, buffer by buffer. Raises FlowError where the graph has none."""
        return FlowStreamIO(self._running().exchange())

    def statistics(self) -> dict[str, Any]:
        """What the flow is doing: see `runyard.flow.statistics`."""
        return self._running().statistics.snapshot()

    def _build(self) -> None:
        if self._document is None:
            raise FlowError(StatusCode.STATUS_FAULT, "Flow not initialized.")
        run = load_flow(self._document, library=self._library, arguments=self._arguments)
        self.stop()
        run.open()
        self._run = run

    def _running(self) -> FlowRun:
        if self._run is None:
            raise FlowError(StatusCode.STATUS_INVALID, "the flow is not built")
        return self._run


class ExtOutputBufferList:
    """What `ExternalDataMap.recv` fills."""

    def __init__(self) -> None:
        self.lists: dict[str, BufferList] = {}

    def get_buffer_list(self, output: str) -> BufferList | None:
        """The buffers of an output; None where there are none."""
        return self.lists.get(output)


class ExternalDataMap:
    """One session: lists of buffers in, lists out."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.told = False
        """Whether `recv` has said that there is nothing more."""

    def create_buffer_list(self) -> BufferList:
        return BufferList()

    def send(self, input: str, buffers: Sequence[Any]) -> Status:
        """Data for one input. The inputs must get equally many."""
        return self.exchange.send(input, buffers)

    def recv(self, results: ExtOutputBufferList, timeout_ms: int = 0) -> Status:
        """Waits for results (0: without limit). STATUS_INVALID where they are errors, STATUS_TIMEDOUT. When all were
        delivered STATUS_EOF, or STATUS_INVALID if the session had an error or was shut down."""
        collector = self.exchange.results
        found = collector.recv_all(timeout_ms / 1000 if timeout_ms > 0 else None)
        good = {name: BufferList([each for each in some if not each.has_error()]) for name, some in found.items()}
        results.lists = {name: some for name, some in good.items() if some}
        if results.lists:
            return Status()
        failed = self.exchange.aborted or self.exchange.context.last_error is not None
        self.told = done = collector.done()
        if found or (failed and done):
            return Status(StatusCode.STATUS_INVALID, self.get_last_error().get_description())
        return Status(StatusCode.STATUS_EOF if done else StatusCode.STATUS_TIMEDOUT)

    @property
    def readable(self) -> bool:
        """Whether `recv` would return at once, and with something new."""
        return self.exchange.results.waiting() or (self.exchange.results.over and not self.told)

    def close(self) -> Status:
        """No more data."""
        self.exchange.close()
        return Status()

    def shutdown(self) -> Status:
        """Ends the session: units wait for no more events. What has been sent still comes out, and can be received."""
        self.exchange.shutdown()
        return Status()

    def set_output_meta(self, input: str, meta: DataMeta) -> Status:
        """The meta of the stream that enters at an input. Set it before the first data."""
        return self.exchange.set_meta(input, meta)

    def get_last_error(self) -> Any:
        from runyard.flow.unit import FlowUnitError

        error = self.exchange.context.last_error
        if error is not None:
            return FlowUnitError(f"{error[0]}: {error[1]}")
        return FlowUnitError("EOF" if self.exchange.aborted or self.exchange.results.over else "")

    def get_session_context(self) -> SessionContext:
        return self.exchange.context

    def get_session_config(self) -> Configuration:
        return self.exchange.context.get_session_config()


class ExternalDataSelect:
    """Waits for whichever of several maps has results first."""

    def __init__(self) -> None:
        self._maps: list[ExternalDataMap] = []
        self._something = threading.Event()

    def register_external_data(self, data: ExternalDataMap) -> None:
        self._maps.append(data)
        data.exchange.results.watchers.append(self._something.set)
        self._something.set()

    def remove_external_data(self, data: ExternalDataMap) -> None:
        if data in self._maps:
            self._maps.remove(data)

    def select_external_data(self, ready: list[ExternalDataMap], timeout_ms: int = 0) -> Status:
        """Puts the maps that can be read into the list. STATUS_TIMEDOUT when none can within the time (0: no limit)."""
        end = time.monotonic() + timeout_ms / 1000 if timeout_ms > 0 else None
        ready.clear()
        while True:
            self._something.clear()
            ready.extend(each for each in self._maps if each.readable)
            if ready:
                return Status()
            left = None if end is None else end - time.monotonic()
            if (left is not None and left <= 0) or not self._something.wait(left):
                return Status(StatusCode.STATUS_TIMEDOUT)


class FlowStreamIO:
    """One session: buffers in, buffers out."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def create_buffer(self, data: Any = None) -> Buffer:
        return Buffer(None, data)

    def send(self, input: str, data: Any, timeout_ms: int = 0) -> Status:
        """One datum for an input: a buffer, an array, text, bytes, an object."""
        return self._exchange.send(input, [data], timeout_ms / 1000 if timeout_ms > 0 else None)

    def recv(self, output: str, *rest: Any) -> Any:
        """`recv(output[, timeout_ms])`: the next buffer, or None when there is none and will be none, or none in time.

        `recv(output, buffer[, timeout_ms])` fills the buffer instead and returns a Status. A result that is an error
        comes as a buffer with an error. Raises FlowError for an unknown output.
        """
        into = rest[0] if rest and isinstance(rest[0], Buffer) else None
        times = rest[1:] if into is not None else rest
        results = self._exchange.results
        if output not in results.outputs:
            known = ", ".join(results.outputs) or "none"
            raise FlowError(StatusCode.STATUS_INVALID, f"there is no output {output!r}; the outputs are: {known}")
        found = results.recv(output, times[0] / 1000 if times and times[0] > 0 else None)
        if into is None:
            return found
        if found is None:
            return Status(StatusCode.STATUS_EOF if results.done(output) else StatusCode.STATUS_TIMEDOUT)
        into._data, into._meta, into._error, into._scope = found._data, found._meta, found._error, found._scope
        return Status() if found._error is None else Status(StatusCode.STATUS_INVALID, ": ".join(found._error))

    def close_input(self) -> Status:
        """No more data."""
        self._exchange.close()
        return Status()

    def get_session_context(self) -> SessionContext:
        return self._exchange.context


def _bad(error: BadFlow) -> Status:
    """All that is wrong with a flow, as a chained status."""
    first = error.problems[0]
    text = "\n".join(str(problem) for problem in error.problems)
    code: Any = first.code
    known = StatusCode.__members__.get(str(getattr(code, "name", code)).rsplit(".", 1)[-1], StatusCode.STATUS_BADCONF)
    return Status(known, "build graph failed, please check graph config.", Status(known, text))


def _nested(config: Configuration) -> dict[str, Any]:
    """A flat configuration (`graph.format` and so on) as the nested document."""
    tree: dict[str, Any] = {}
    for key in config.keys():  # noqa: SIM118 - a Configuration is no mapping
        at = tree
        *path, last = key.split(".")
        for part in path:
            at = at.setdefault(part, {})
            if not isinstance(at, dict):
                raise FlowError(StatusCode.STATUS_BADCONF, f"{key!r} is below {part!r}, which has a value of its own")
        at[last] = config.get(key)
    return tree
