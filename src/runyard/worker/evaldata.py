"""`EVAL_DATA`: the JSON text by which a run knows its record (`conf`) and its name (`alias`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def eval_data(env: Mapping[str, str]) -> str:
    """The run's `EVAL_DATA`, or one that says what there is to say."""
    given = env.get("EVAL_DATA")
    return given if given is not None else json.dumps({"conf": {}, "alias": _alias(env)})


def parse(text: str, env: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    """`conf` and `alias`. Raises ValueError, with a text for people."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ValueError(f"EVAL_DATA is not JSON: {error}") from None
    if not isinstance(data, dict) or not isinstance(data.get("conf") or {}, dict):
        raise ValueError("EVAL_DATA must be a JSON object, and its `conf` one too")
    return data.get("conf") or {}, str(data.get("alias") or _alias(env))


def _alias(env: Mapping[str, str]) -> str:
    return f"{env.get('RUNYARD_JOB_NAME') or env.get('RUNYARD_JOB_ID', 'run')}:{env.get('RUNYARD_REPLICA', '0')}"
