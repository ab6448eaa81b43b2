"""The requests about projects. Pure, as those in `runyard.client.request`."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any
from urllib.parse import quote

import msgspec

from runyard.client.request import API, PAGE, Request
from runyard.model.errors import InvalidInput
from runyard.model.project import MemberList, ProjectDoc, ProjectList

_JSON = {"Content-Type": "application/json"}


def project_path(ref: str | int, action: str = "") -> str:
    """The path of a project, by the id of its job or by name."""
    text = str(ref)
    if text in ("", ".", ".."):
        raise InvalidInput(f"{text!r} names no project; give an id or a name")
    return f"{API}/projects/{quote(text, safe='')}" + (f"/{action}" if action else "")


def create(definition: Mapping[str, Any], start: bool) -> Request[ProjectDoc]:
    return Request(
        method="POST",
        path=f"{API}/projects",
        answer=ProjectDoc,
        params=(("start", "true"),) if start else (),
        headers=_JSON,
        content=msgspec.json.encode(dict(definition)),
    )


def listing(user_id: str | None, cursor: str | None) -> Request[ProjectList]:
    chosen = (("user_id", user_id), ("cursor", cursor), ("limit", str(PAGE)))
    params = tuple((name, value) for name, value in chosen if value is not None)
    return Request(method="GET", path=f"{API}/projects", answer=ProjectList, params=params, repeatable=True)


def show(ref: str | int) -> Request[ProjectDoc]:
    return Request(method="GET", path=project_path(ref), answer=ProjectDoc, repeatable=True)


def members(ref: str | int) -> Request[MemberList]:
    return Request(method="GET", path=project_path(ref, "members"), answer=MemberList, repeatable=True)


def act(ref: str | int, action: str, **fields: Any) -> Request[ProjectDoc]:
    """`start`, `stop`, `advance` or `report`; fields that are None are left out."""
    body = {name: value for name, value in fields.items() if value is not None}
    return Request(
        method="POST",
        path=project_path(ref, action),
        answer=ProjectDoc,
        headers=_JSON,
        content=msgspec.json.encode(body),
    )


def delete(ref: str | int) -> Request[None]:
    return Request(method="DELETE", path=project_path(ref), answer=NoneType)
