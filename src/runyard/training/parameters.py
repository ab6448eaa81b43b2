"""The parameters of a task: flat with dotted keys or nested, with reserved entries among them (spec/k12ai.md, 1.3).
Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from runyard.model.message import MAX_DEPTH
from runyard.training.codes import Code

MAX_IMAGES = 1000
_REMOTE = ("http://", "https://", "ftp://", "oss://")
#: Taken out before the framework gets its configuration.
_RESERVED = ("_k12", "developer")


class Problem(Exception):
    """A task can't be prepared. Told as a message, for the request was accepted (spec 1.4)."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code, self.text = int(code), text


class Image(msgspec.Struct, frozen=True):
    """A picture to predict: its bytes, or where it lies."""

    name: str
    content: bytes = b""
    url: str = ""


def unfold(params: dict[str, Any]) -> dict[str, Any]:
    """A tree: `{"a.b": 1}` becomes `{"a": {"b": 1}}`. What comes later wins. Raises Problem."""
    tree: dict[str, Any] = {}
    for key, value in params.items():
        *path, name = key.split(".")
        if len(path) >= MAX_DEPTH:
            raise Problem(Code.BAD_PARAMETERS, f"the parameter {key[:100]!r} has more than {MAX_DEPTH} levels")
        table = tree
        for part in path:
            inner = table.get(part)
            if not isinstance(inner, dict):
                inner = table[part] = {}
            table = inner
        value = unfold(value) if isinstance(value, dict) else value
        before = table.get(name)
        table[name] = overlaid(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return tree


def overlaid(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Both trees in one; where they meet, `above` wins."""
    result = dict(below)
    for key, value in above.items():
        before = result.get(key)
        result[key] = overlaid(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return result


def get(tree: dict[str, Any], name: str) -> Any:
    """The value under a dotted name; None if there is none."""
    value: Any = tree
    for part in name.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def put(tree: dict[str, Any], name: str, value: Any) -> None:
    *path, last = name.split(".")
    for part in path:
        inner = tree.get(part)
        if not isinstance(inner, dict):
            inner = tree[part] = {}
        tree = inner
    tree[last] = value


def configuration(tree: dict[str, Any]) -> dict[str, Any]:
    """What the framework gets: everything but the reserved entries."""
    return {key: value for key, value in tree.items() if key not in _RESERVED}


def check_required(tree: dict[str, Any], required: Sequence[str]) -> None:
    """Raises Problem for the first one that is missing."""
    for name in required:
        if get(tree, name) in (None, ""):
            code = Code.NO_DATASET_NAME if name.endswith("dataset_name") else Code.PARAMETER_MISSING
            raise Problem(code, f"service_params lacks {name!r}")


def read_images(tree: dict[str, Any]) -> list[Image]:
    """The pictures in `_k12.predict_images`. Raises Problem."""
    given = get(tree, "_k12.predict_images")
    if given is None:
        raise Problem(Code.NO_INPUT, "service_params lacks '_k12.predict_images': a list of {name, content}")
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_IMAGES:
        raise Problem(Code.BAD_INPUT, f"'_k12.predict_images' must be a list of 1 to {MAX_IMAGES} objects")
    return [_image(item, number) for number, item in enumerate(given)]


def _image(item: Any, number: int) -> Image:
    where = f"'_k12.predict_images'[{number}]"
    if not isinstance(item, dict) or not isinstance(item.get("content"), str):
        raise Problem(Code.BAD_INPUT, f"{where} must be an object with `name` and `content`")
    content: str = item["content"]
    # Numbered, so that no two have one name; and no path.
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", str(item.get("name") or "image"))[-100:]
    name = f"{number:04d}-{safe}"
    if content.startswith(_REMOTE):
        return Image(name, url=content[:4096])
    if content.startswith("data:"):
        content = content.partition(",")[2]
    try:
        data = base64.b64decode("".join(content.split()), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data:
        raise Problem(Code.BAD_INPUT, f"{where}.content must be base64, or an address (http, https, ftp, oss)")
    return Image(name, data)
