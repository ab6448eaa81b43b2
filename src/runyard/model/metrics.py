"""The body of a `metrics` message, and its two forms on the wire of K12AI (spec 1.8).

Inside the server a body is always `{"values": {name: number or None}}`, with `step` (a number), `category` (`train`,
`val`, …) and `items` (typed objects: pictures, matrices, texts, scalars with several curves) where they were given.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import Any

from runyard.model.check import refuse

#: Names and objects in one message.
MAX_VALUES = 1000
MAX_NAME = 255
_RESERVED = frozenset({"values", "step", "category", "items"})
_ENDLESS = frozenset({"nan", "inf", "infinity"})


def metrics_body(raw: Any) -> dict[str, Any]:
    """The body in the server's form, of what a program has sent: flat numbers (`{"loss": 0.4, "step": 3}`), a list of
    typed objects, or the server's form itself.

    A number that is none (NaN) or has no end becomes None. Raises InvalidInput.
    """
    if isinstance(raw, list):
        return _with_items({}, raw)
    if not isinstance(raw, dict):
        raise refuse("body", type(raw).__name__, "metrics are an object of numbers, or a list of metric objects")
    if isinstance(raw.get("values"), dict) or isinstance(raw.get("items"), list):
        for key in raw:
            if key not in _RESERVED:
                raise refuse(f"body.{key}", key, f"unknown beside `values`; known: {', '.join(sorted(_RESERVED))}")
        given, rest = raw.get("values") or {}, raw
    else:
        rest = {key: raw[key] for key in ("step", "category") if isinstance(raw.get(key), int | float | str)}
        given = {key: value for key, value in raw.items() if key not in rest}
        if isinstance(rest.get("step"), str):
            raise refuse("body.step", rest["step"], "must be a number")
        if not isinstance(rest.get("category", ""), str):
            given["category"] = rest.pop("category")
    body: dict[str, Any] = {"values": _numbers(given)}
    if rest.get("step") is not None:
        body["step"] = _number("body.step", rest["step"])
    if rest.get("category") is not None:
        category = rest["category"]
        if not isinstance(category, str) or not 1 <= len(category) <= MAX_NAME:
            raise refuse("body.category", category, f"must be a text of 1 to {MAX_NAME} characters")
        body["category"] = category
    return _with_items(body, rest["items"]) if rest.get("items") else body


def flat(body: dict[str, Any]) -> dict[str, float | None]:
    """The numbers by name: the seed's form."""
    values: dict[str, float | None] = body.get("values") or {}
    return values


def late(body: dict[str, Any], category: str = "train", step: float | None = None) -> list[dict[str, Any]]:
    """The typed objects: the late form. Numbers that came flat become a scalar each; `category` and `step` stand in
    for what the body does not say."""
    items: list[dict[str, Any]] = list(body.get("items") or [])
    shown = {name for item in items for name in _item_values(item)}
    group = body.get("category") or category
    x = body.get("step", step)
    return items + [scalar(group, name, value, x) for name, value in flat(body).items() if name not in shown]


def scalar(category: str, title: str, value: float | None, step: float | None) -> dict[str, Any]:
    """One number as a typed object."""
    payload = {"x": {"label": "step", "value": step}, "y": [{"label": title, "value": value}]}
    return typed("scalar", category, title, payload)


def typed(kind: str, category: str, title: str, payload: Any, **more: Any) -> dict[str, Any]:
    """A metric object; `more` goes into its `data` (such as `format`)."""
    data = {"title": title, "payload": payload, **more}
    return {"_id_": widget(kind, category, title), "category": category, "type": kind, "data": data}


def widget(kind: str, category: str, title: str) -> str:
    """Sixteen hexadecimal digits: the same for what belongs into the same chart."""
    return hashlib.md5(f"{kind}{category}{title}".encode(), usedforsecurity=False).hexdigest()[:16]


def _with_items(body: dict[str, Any], items: Any) -> dict[str, Any]:
    if not isinstance(items, list) or len(items) > MAX_VALUES:
        raise refuse("body.items", type(items).__name__, f"must be a list of at most {MAX_VALUES} metric objects")
    taken = [_item(item, number) for number, item in enumerate(items)]
    values = dict(body.get("values") or {})
    step = body.get("step")
    for item in taken:
        values |= _item_values(item)
        if step is None and item["type"] == "scalar":
            step = _finite((item["data"]["payload"].get("x") or {}).get("value"))
    result = {**body, "values": _numbers(values), "items": taken}
    return result if step is None else {**result, "step": step}


def _item(item: Any, number: int) -> dict[str, Any]:
    where = f"body.items[{number}]"
    if not isinstance(item, dict) or not isinstance(item.get("data"), dict):
        raise refuse(where, type(item).__name__, "must be an object with `type`, `category` and `data`")
    kind, category, data = item.get("type"), item.get("category", "train"), item["data"]
    title = data.get("title")
    for field, text in (("type", kind), ("category", category), ("data.title", title)):
        if not isinstance(text, str) or not 1 <= len(text) <= MAX_NAME:
            raise refuse(f"{where}.{field}", text, f"must be a text of 1 to {MAX_NAME} characters")
    assert isinstance(kind, str) and isinstance(category, str) and isinstance(title, str)
    if "payload" not in data:
        raise refuse(f"{where}.data", title, "has no `payload`")
    if kind == "scalar" and not _is_chart(data["payload"]):
        raise refuse(f"{where}.data.payload", title, 'must be {"x": {"value": …}, "y": [{"label": …, "value": …}]}')
    return {**item, "_id_": item.get("_id_") or widget(kind, category, title), "type": kind, "category": category}


def _is_chart(payload: Any) -> bool:
    if not isinstance(payload, dict) or not isinstance(payload.get("y"), list):
        return False
    x = payload.get("x")
    return (x is None or isinstance(x, dict)) and all(isinstance(curve, dict) for curve in payload["y"])


def _item_values(item: dict[str, Any]) -> dict[str, float | None]:
    """What an object says in flat form: scalars, and texts that are numbers."""
    data, kind = item["data"], item["type"]
    title: str = data["title"]
    if kind == "scalar":
        curves = data["payload"]["y"]
        if len(curves) == 1:
            return {title: _finite(curves[0].get("value"))}
        return {f"{title}_{curve.get('label', place)}": _finite(curve.get("value")) for place, curve in _count(curves)}
    if kind == "text" and (number := _finite(data["payload"])) is not None:
        return {title: number}
    return {}


def _count(curves: Iterable[dict[str, Any]]) -> Iterable[tuple[int, dict[str, Any]]]:
    return enumerate(curves)


def _numbers(values: dict[str, Any]) -> dict[str, float | None]:
    if len(values) > MAX_VALUES:
        raise refuse("body", len(values), f"at most {MAX_VALUES} numbers in one message")
    return {_name(name): _number(f"body.{name}", value) for name, value in values.items()}


def _name(name: str) -> str:
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise refuse("body", name, f"the name of a metric has 1 to {MAX_NAME} printable characters")
    return name


def _number(where: str, value: Any) -> float | None:
    if value is None or isinstance(value, float):
        return value if value is None or math.isfinite(value) else None
    if isinstance(value, int):
        # Beyond what a float can hold there is no curve to draw.
        return int(value) if abs(value) < 1 << 1023 else None
    number = _finite(value)
    if number is None and not (isinstance(value, str) and value.strip().lower().lstrip("+-") in _ENDLESS):
        raise refuse(where, value, "must be a number")
    return number


def _finite(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if not isinstance(value, int | float) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if abs(value) < 1 << 1023 else None
