"""`buff_meta_mapping`: copies one meta value to another key, perhaps by a table (modelbox.md 6.3)."""

from __future__ import annotations

from typing import Any

from runyard.flow.configuration import Configuration
from runyard.flow.status import FlowError, StatusCode
from runyard.flow.unit import DataContext, FlowUnit
from runyard.flow.unit_library import Option, OptionType, Port, UnitInfo
from runyard.flow.units.passing import failed, with_meta

ERROR = "buff_meta_mapping.ProcessError"


class BuffMetaMapping(FlowUnit):
    """A buffer without the meta passes as it is."""

    info = UnitInfo(
        name="buff_meta_mapping",
        description="Copies a meta value of each buffer to another key, with replacements.",
        group="Image",
        inputs=(Port("in_data"),),
        outputs=(Port("out_data"),),
        options=(
            Option("src_meta", description="key to copy from", required=True),
            Option("dest_meta", description="key to copy to", required=True),
            Option("rules", OptionType.LIST, description="replacements, as value=replacement, with commas between"),
        ),
        flow_stream=True,
        same_count=True,
        entry=f"{__name__}:BuffMetaMapping",
    )

    def __init__(self) -> None:
        self._source = self._target = ""
        self._rules: dict[str, str] = {}

    def open(self, config: Configuration) -> None:
        self._source, self._target = config.get_string("src_meta"), config.get_string("dest_meta")
        if not self._source or not self._target:
            raise FlowError(StatusCode.STATUS_BADCONF, "src_meta and dest_meta must be set")
        for rule in config.get_string_list("rules"):
            value, equals, replacement = rule.partition("=")
            if not equals or not value.strip() or not replacement.strip() or "=" in replacement:
                message = f'rule {rule!r} is malformed: rules must be like "a=b,c=d"'
                raise FlowError(StatusCode.STATUS_BADCONF, message)
            self._rules[value.strip()] = replacement.strip()

    def process(self, data_ctx: DataContext) -> None:
        results = data_ctx.output("out_data")
        for buffer in data_ctx.input("in_data") or ():
            if self._source not in buffer.meta:
                results.append(buffer)
                continue
            value = buffer.meta[self._source]
            try:
                results.append(with_meta(buffer, {self._target: self._mapped(value)}))
            except ValueError as error:
                results.append(failed(ERROR, str(error)))

    def _mapped(self, value: Any) -> Any:
        """Raises ValueError if the replacement does not fit the value's type."""
        replacement = self._rules.get(_text(value))
        if replacement is None:
            return value
        try:
            return _TYPES.get(type(value), str)(replacement)
        except ValueError:
            kind = type(value).__name__
            raise ValueError(f"rule {_text(value)}={replacement}: {self._source} is of type {kind}") from None


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise ValueError(text)
    return text.lower() in ("true", "1")


_TYPES: dict[type, Any] = {int: int, float: float, bool: _truth, str: str}
