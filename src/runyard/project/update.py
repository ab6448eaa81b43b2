"""Telemetry of members: `status_update` (spec/tango.md 1.5). Pure."""

from __future__ import annotations

import json
import math
from typing import Any

from runyard.project.wire import BadReport, bare

#: Characters of one update, values in it, and kinds of updates that are kept of one member.
MAX_UPDATE, MAX_VALUES, MAX_KINDS = 64 * 1024, 1000, 64

#: How far a training has come, by what it tells of (spec 1.5).
PROGRESS = {
    "project_info": 0.0,
    "system": 1.0,
    "model": 1.5,
    "model_summary": 1.5,
    "train_dataset": 2.0,
    "val_dataset": 2.0,
    "anchors": 3.0,
    "train_end": 4.0,
    "finetune_end": 5.0,
}
#: Browsers' names for what is no name in their language.
_RENAMED = {"class": "class_type", "mAP50-95": "mAP50_95", "FLOPS": "flops"}
#: Real senders' slips, and what they mean.
_KINDS = {"fintune_start": "finetune_start", "finetue_loss": "finetune_loss", "finetue_acc": "finetune_acc"}


def read_update(values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """What an update tells of, and its content, in which every number is one that JSON has: NaN and Infinity are null.

    `update_content` is an object, or the text of one. Raises BadReport.
    """
    kind = bare(str(values.get("update_id") or ""))
    if not kind or len(kind) > 64 or not kind.isprintable():
        raise BadReport("update_id is missing: it says what the update tells of, for example train_loss")
    content = values.get("update_content")
    if isinstance(content, str):
        if len(content) > MAX_UPDATE:
            raise BadReport(f"update_content is longer than {MAX_UPDATE} characters")
        content = read_json(content) if content.strip() else {}
    if content is None:
        content = {}
    if not isinstance(content, dict):
        content = {"value": content}
    counted = [0]
    return _KINDS.get(kind, kind), {_name(key): _plain(item, counted) for key, item in content.items()}


def numbers_of(container: str, kind: str, content: dict[str, Any]) -> dict[str, Any] | None:
    """The numbers of an update as the body of a `metrics` message, over the epoch if it says one; None without any."""
    values = {
        f"{container}.{kind}.{key}": item
        for key, item in content.items()
        if isinstance(item, int | float) and not isinstance(item, bool) and len(key) <= 100 and key.isprintable()
    }
    if not values:
        return None
    step = content.get("epoch", content.get("current_epoch"))
    has_step = isinstance(step, int | float) and not isinstance(step, bool)
    return {"values": values} | ({"step": step} if has_step else {})


def read_json(text: str | bytes) -> Any:
    """JSON as Python writes it, in which NaN and Infinity stand as words: they become null. Raises BadReport."""
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise BadReport(f"it is not JSON: {error}") from None


def _plain(value: Any, counted: list[int], depth: int = 0) -> Any:
    counted[0] += 1
    if counted[0] > MAX_VALUES or depth > 8:
        raise BadReport(f"update_content has more than {MAX_VALUES} values, or is nested too deeply")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and not isinstance(value, bool):
        # Larger ones than a browser can hold exactly lose nothing as text.
        return value if abs(value) < 1 << 53 else str(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return {_name(key): _plain(item, counted, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, counted, depth + 1) for item in value]
    return value


def _name(key: str) -> str:
    return _RENAMED.get(key) or _text(key)


def _text(text: str) -> str:
    """As much as is kept of it; JSON may have halves of surrogate pairs, which can't be stored."""
    return text[:4096].encode("utf-8", "replace").decode()
