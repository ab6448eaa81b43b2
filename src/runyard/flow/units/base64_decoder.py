"""`base64_decoder`: text in base64, or a member of a JSON object that holds some, becomes bytes (modelbox.md 6.3)."""

from __future__ import annotations

import binascii
import json

from runyard.flow.buffer import Buffer
from runyard.flow.configuration import Configuration
from runyard.flow.status import FlowError, StatusCode
from runyard.flow.unit import DataContext, FlowUnit
from runyard.flow.unit_library import Option, Port, UnitInfo

_FORMATS = ("raw", "json")
_BLANKS = b" \t\r\n"
ERROR = "base64_decoder.ProcessError"


class Base64Decoder(FlowUnit):
    """Each buffer by itself: a bad one becomes an error, its neighbours in the batch don't."""

    info = UnitInfo(
        name="base64_decoder",
        description="Decodes base64 text, raw or in a member of a JSON object.",
        group="Image",
        inputs=(Port("in_data"),),
        outputs=(Port("out_data"),),
        options=(
            Option("data_format", default="raw", description="what the text is", values=_FORMATS),
            Option("key", description="with json: the member that holds the base64 text"),
        ),
        entry=f"{__name__}:Base64Decoder",
    )

    def __init__(self) -> None:
        self._key: str | None = None

    def open(self, config: Configuration) -> None:
        data_format = config.get_string("data_format", "raw")
        if data_format not in _FORMATS:
            raise FlowError(StatusCode.STATUS_BADCONF, f"data_format must be raw or json, not {data_format!r}")
        key = config.get_string("key")
        if data_format == "json" and not key:
            raise FlowError(StatusCode.STATUS_BADCONF, "data_format is json: key must name the member with the text")
        self._key = key if data_format == "json" else None

    def process(self, data_ctx: DataContext) -> None:
        results = data_ctx.output("out_data")
        for buffer in data_ctx.input("in_data") or ():
            result = Buffer(meta={key: value for key, value in buffer.meta.items() if key not in ("shape", "type")})
            try:
                data = _decoded(buffer.as_bytes() if self._key is None else _member(buffer.as_bytes(), self._key))
            except (ValueError, TypeError, RecursionError) as error:
                result.set_error(ERROR, f"base64 decode failed: {error}")
            else:
                result.data = data
                result.set("size", len(data))
            results.append(result)


def _member(text: bytes, key: str) -> bytes:
    """Raises ValueError if there is no such text."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("the JSON text is nested too deeply") from None
    if not isinstance(found, dict) or key not in found:
        raise ValueError(f"the JSON text is no object with the key {key!r}")
    if not isinstance(found[key], str):
        raise ValueError(f"the JSON member {key!r} is no text")
    return str(found[key]).encode()


def _decoded(text: bytes) -> bytes:
    """Line breaks and blanks between are allowed. Raises ValueError for anything else that is no base64."""
    return binascii.a2b_base64(text.translate(None, _BLANKS), strict_mode=True)
