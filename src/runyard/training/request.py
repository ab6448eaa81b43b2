"""The request for a framework task, checked in K12AI's order (spec/k12ai.md, 1.3 and 1.4). Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from runyard.model.check import explain_json
from runyard.model.framework import is_safe
from runyard.model.hook import is_address
from runyard.model.message import MAX_DEPTH, depth
from runyard.training.codes import Code
from runyard.training.operation import OPERATIONS, Operation
from runyard.training.reply import Refusal

MAX_APP, MAX_TOKEN, MAX_URL = 128, 65536, 2048


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A request whose parts are what they should be."""

    op: Operation
    user: str
    service: str
    uuid: str
    params: Any = None
    """An object, unless the client sent something else."""
    token: Any = ""
    """Copied into every message, and never looked at."""
    app: str
    callback: str = ""
    password: str | None = None


def read_body(body: bytes) -> dict[str, Any]:
    """The object in a body (step 1). Raises Refusal."""
    try:
        raw = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        text = explain_json(body, error).detail
        raise Refusal(Code.NOT_JSON, text, ("JSONDecodeError", text)) from None
    if not isinstance(raw, dict):
        text = f"the body must be a JSON object, not {type(raw).__name__}"
        raise Refusal(Code.NOT_JSON, text, ("TypeError", text))
    return raw


def read_ask(raw: dict[str, Any], route: str | None, app: str) -> Ask:
    """The checked request: steps 2 to 6. `route` is the phase in the address, None for `execute`; `app` is the queue
    prefix of requests without `appId`. Raises Refusal."""
    for key in ("user", "op"):
        need(raw, key)
    op = raw["op"]
    operation = OPERATIONS.get(op) if isinstance(op, str) else None
    if operation is None:
        known = ", ".join(OPERATIONS)
        raise Refusal(Code.NOT_ALLOWED, f"op {_shown(op)} is not supported; there are: {known}")
    if route is not None and operation.phase != route:
        raise Refusal(
            Code.NOT_ALLOWED, f"op {op!r} does not belong to /k12ai/framework/{route}: it begins with {route!r} there"
        )
    for key in ("service_name", "service_uuid"):
        need(raw, key)
    params = raw.get("service_params")
    if isinstance(params, str):
        try:
            params = msgspec.json.decode(params)
        except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
            text = f"service_params is a text that is not JSON: {error}"
            raise Refusal(Code.KEY_MISSING, text, ("JSONDecodeError", str(error))) from None
    if depth(params) > MAX_DEPTH:
        raise Refusal(Code.NOT_ALLOWED, f"service_params has more than {MAX_DEPTH} levels of objects and lists")
    user, uuid = name_of(raw, "user"), name_of(raw, "service_uuid")
    service = raw["service_name"]
    if not isinstance(service, str):
        raise Refusal(Code.NO_SERVICE, f"service_name {_shown(service)} must be a text")
    network = raw.get("custom_model")
    if network and service == "k12cv" and isinstance(params, dict):
        params = {**params, "network.net_def": network}
    return Ask(
        op=operation,
        user=user,
        service=service,
        uuid=uuid,
        params=params,
        token=token_of(raw),
        app=app_of(raw, app),
        callback=_callback(raw.get("callback_url")),
        password=raw["password"] if isinstance(raw.get("password"), str) else None,
    )


def need(raw: dict[str, Any], key: str) -> None:
    """Raises Refusal if the key is missing."""
    if key not in raw:
        raise Refusal(Code.KEY_MISSING, f"the request lacks {key!r}", ("KeyError", repr(key)))


def name_of(raw: dict[str, Any], key: str) -> str:
    """A name that may become part of a path. Raises Refusal."""
    value = raw[key]
    if not isinstance(value, str):
        raise Refusal(Code.NOT_ALLOWED, f"{key} {_shown(value)} must be a text")
    if not is_safe(value):
        rule = "must have 1 to 128 letters, digits, `.`, `_`, `*`, `-`, and no `..`"
        raise Refusal(Code.NOT_ALLOWED, f"{key} {_shown(value)} {rule}")
    return value


def app_of(raw: dict[str, Any], default: str) -> str:
    """The queue prefix. Raises Refusal."""
    app = raw.get("appId")
    if app is None:
        return default
    if not isinstance(app, str) or not 1 <= len(app) <= MAX_APP or not app.isprintable() or "," in app:
        raise Refusal(
            Code.NOT_ALLOWED, f"appId {_shown(app)} must be a text of 1 to {MAX_APP} printable characters, no comma"
        )
    return app


def token_of(raw: dict[str, Any]) -> Any:
    """What is copied into every message. Raises Refusal."""
    token = raw.get("token", "")
    if depth(token) > MAX_DEPTH or len(msgspec.json.encode(token)) > MAX_TOKEN:
        limits = f"{MAX_TOKEN} bytes as JSON, and {MAX_DEPTH} levels of objects and lists"
        raise Refusal(Code.NOT_ALLOWED, f"token must have at most {limits}")
    return token


def _callback(url: Any) -> str:
    if url is None or url == "":
        return ""
    if not isinstance(url, str) or len(url) > MAX_URL or not is_address(url):
        raise Refusal(Code.NOT_ALLOWED, f"callback_url {_shown(url)} must be an address of http or https")
    return str(url)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "…"
