"""`data_source_generator`: one datum made of the node's own options, sent once (modelbox.md 6.5)."""

from __future__ import annotations

import json

from runyard.flow.buffer import Buffer, BufferList
from runyard.flow.configuration import Configuration
from runyard.flow.status import FlowError, StatusCode
from runyard.flow.unit import DataContext, FlowUnit
from runyard.flow.unit_library import Option, Port, UnitInfo

_OF_THE_ENGINE = frozenset(
    (
        "type",
        "flowunit",
        "device",
        "deviceid",
        "label",
        "batch_size",
        "queue_size",
        "queue_size_event",
        "queue_size_external",
        "source_type",
    )
)


class DataSourceGenerator(FlowUnit):
    """Sends a JSON object of all its options, with `source_type` as meta, in one session."""

    info = UnitInfo(
        name="data_source_generator",
        description="Sends one JSON object, made of its own options.",
        group="Input",
        outputs=(Port("out_data"),),
        options=(Option("source_type", description="kind of source, for data_source_parser", required=True),),
        entry=f"{__name__}:DataSourceGenerator",
    )

    def open(self, config: Configuration) -> None:
        source_type = config.get_string("source_type")
        values = {key: config.get_string(key) for key in config.keys() if key not in _OF_THE_ENGINE}  # noqa: SIM118
        if not source_type or not values:
            raise FlowError(StatusCode.STATUS_BADCONF, "source_type and source config must be set in config")
        external = self.create_external_data()
        status = external.send(BufferList(Buffer(json.dumps(values), meta={"source_type": source_type})))
        external.close()
        if not status:
            raise FlowError(status, "the datum can't be sent")

    def process(self, data_ctx: DataContext) -> None:
        data_ctx.output("out_data").extend(data_ctx.external())
