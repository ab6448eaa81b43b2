"""Errors in both of K12AI's spellings, made from whatever a program has reported (spec/k12ai.md, 1.7). Pure."""

from __future__ import annotations

import os
from typing import Any

from runyard.training.codes import Code, code_of

#: Frames that are passed on.
MAX_FRAMES = 200
_PLACE = ("filename", "linenum", "funcname")
_FRAME = (*_PLACE, "source")


def detail_of(body: dict[str, Any]) -> dict[str, Any]:
    """The seed's `detail` in a report: of an exception with class, text and traceback, else with the place. Accepts
    `exc_*` and `err_*`, `traceback` and `trackback`, `source` and `souce`, in the body or a level below. Empty without.
    """
    expand = body.get("expand")
    found: dict[str, Any] = {}
    for place in (body.get("detail"), body.get("errinfo"), expand.get("errinfo") if isinstance(expand, dict) else None):
        if isinstance(place, dict):
            found = place
            break
    else:
        found = body
    detail: dict[str, Any] = {}
    name = found.get("exc_type", found.get("err_type"))
    if isinstance(name, str) and name:
        detail["exc_type"] = name
        detail["exc_text"] = str(found.get("exc_text", found.get("err_text", "")))
    frames = found.get("traceback", found.get("trackback"))
    if isinstance(frames, list):
        detail["traceback"] = [_frame(frame) for frame in frames[:MAX_FRAMES] if isinstance(frame, dict)]
    elif name and "filename" not in found:
        detail["traceback"] = []
    return {key: found[key] for key in _PLACE if key in found} | detail


def errinfo_of(detail: dict[str, Any]) -> dict[str, Any]:
    """The later spelling of a `detail`."""
    info = {key: detail[key] for key in _PLACE if key in detail}
    if "exc_type" in detail:
        info |= {"err_type": detail["exc_type"], "err_text": detail["exc_text"]}
    if "traceback" in detail:
        info["trackback"] = detail["traceback"]
    return info | {key: value for key, value in detail.items() if key not in {*_PLACE, *_SEED}}


def seed_part(detail: dict[str, Any]) -> dict[str, Any]:
    """What of a `detail` the document draws."""
    return {key: value for key, value in detail.items() if key in _PLACE or key in _SEED}


def outward(detail: dict[str, Any]) -> dict[str, Any]:
    """As other people may see it: files by their names alone."""
    if "filename" in detail:
        detail = {**detail, "filename": os.path.basename(str(detail["filename"]))}
    if "traceback" in detail:
        frames = [{**frame, "filename": os.path.basename(frame["filename"])} for frame in detail["traceback"]]
        detail = {**detail, "traceback": frames}
    return detail


def code_in(body: dict[str, Any], detail: dict[str, Any], vision: bool = False) -> int:
    """The code of a failure: the one that the program gives, else that of its exception."""
    expand = body.get("expand")
    info = expand.get("errinfo") if isinstance(expand, dict) else None
    for given in (body.get("code"), info.get("err_code") if isinstance(info, dict) else None, body.get("err_code")):
        if isinstance(given, int) and not isinstance(given, bool) and 100100 < given <= 999999:
            return given
    if "exc_type" in detail:
        return code_of(detail["exc_type"], detail["exc_text"], vision)
    return int(Code.TASK_OTHER)


_SEED = frozenset({"exc_type", "exc_text", "traceback"})


def _frame(frame: dict[str, Any]) -> dict[str, Any]:
    line = frame.get("linenum")
    return {
        "filename": str(frame.get("filename", "")),
        "linenum": line if isinstance(line, int) else 0,
        "funcname": str(frame.get("funcname", "")),
        "source": str(frame.get("source", frame.get("souce", ""))),
    }
