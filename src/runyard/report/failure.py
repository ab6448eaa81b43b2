"""Errors as the K12AI document draws them (seed 1.2.1): file, line, function, exception and traceback.

Made from an exception, or, of a program that only printed one, from its last words on stderr.
"""

from __future__ import annotations

import re
from types import TracebackType
from typing import Any

#: Characters of an exception's text; of a line of source.
MAX_TEXT, MAX_SOURCE = 10_000, 500
#: Frames that are kept: the first ones, and the last ones.
FIRST, LAST = 20, 80
_OWN = ("runyard.report", "runyard.runcode")
_FRAME = re.compile(r'  File "(?P<file>[^"\n]{1,4096})", line (?P<line>\d{1,9})(?:, in (?P<name>.{1,500}))?')
_RAISED = re.compile(r"(?P<type>[A-Za-z_][\w.<>]{0,200})(?:: (?P<text>.*))?")
#: Lines of a traceback that point at a part of the line above.
_MARKER = re.compile(r"\s*[\^~][\s^~]*")
_HEAD = "Traceback (most recent call last):"


def of_exception(
    error: BaseException, keep: frozenset[str] | None = None, trace: TracebackType | None = None
) -> dict[str, Any]:
    """`detail` of an exception. With `keep`, frames of these files only: those of the user's own code."""
    return {
        "exc_type": type(error).__name__,
        "exc_text": text_of(error),
        "traceback": _cut(_frames(error, keep, trace or error.__traceback__)),
    }


def text_of(error: BaseException) -> str:
    """What it says; some exceptions fail when they are asked."""
    try:
        return str(error)[:MAX_TEXT]
    except Exception:
        return f"<{type(error).__name__} without a text>"


def of_caller(depth: int = 1) -> dict[str, Any]:
    """`detail` of an error that is no exception: where it was raised, `depth` frames above the caller of this."""
    import sys

    frame = sys._getframe(depth + 1)
    return {"filename": frame.f_code.co_filename, "linenum": frame.f_lineno, "funcname": frame.f_code.co_name}


def of_text(text: str) -> dict[str, Any] | None:
    """`detail` of the last Python traceback in a text, with the exceptions that led to it left out; None without one.

    Only a traceback that the text ends with counts, but for 20 lines that may follow it.
    """
    start = text.rfind(_HEAD)
    if start < 0:
        # A syntax error in the program itself has frames, and no head.
        start = text.rfind('  File "')
        lines = text[start:].splitlines() if start >= 0 else []
        if not any(line.startswith(("SyntaxError", "IndentationError", "TabError")) for line in lines):
            return None
    else:
        lines = text[start:].splitlines()[1:]
    frames: list[dict[str, Any]] = []
    for place, line in enumerate(lines):
        if found := _FRAME.fullmatch(line):
            frames.append(_frame(found["file"], int(found["line"]), found["name"] or "", ""))
        elif line.startswith("    "):
            if frames and not frames[-1]["source"] and not _MARKER.fullmatch(line):
                frames[-1]["source"] = line.strip()[:MAX_SOURCE]
        elif (raised := _RAISED.fullmatch(line)) and frames:
            rest = [raised["text"] or "", *lines[place + 1 :]]
            if len(rest) > 21:
                return None
            message = "\n".join(rest).strip()
            name = raised["type"].rpartition(".")[2]
            return {"exc_type": name, "exc_text": message[:MAX_TEXT], "traceback": _cut(frames)}
        elif not line.startswith("  [Previous line repeated"):
            return None
    return None


def _frames(error: BaseException, keep: frozenset[str] | None, trace: TracebackType | None) -> list[dict[str, Any]]:
    import linecache

    frames = []
    while trace is not None:
        code = trace.tb_frame.f_code
        own = str(trace.tb_frame.f_globals.get("__name__", "")).startswith(_OWN)
        if code.co_filename in keep if keep is not None else not own:
            source = linecache.getline(code.co_filename, trace.tb_lineno, trace.tb_frame.f_globals).strip()
            frames.append(_frame(code.co_filename, trace.tb_lineno, code.co_name, source))
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename is not None:
        # The place of the mistake is in no frame: nothing of it has run.
        frames.append(_frame(error.filename, error.lineno or 0, "", (error.text or "").strip()))
    return frames


def _frame(filename: str, linenum: int, funcname: str, source: str) -> dict[str, Any]:
    return {"filename": filename, "linenum": linenum, "funcname": funcname, "source": source[:MAX_SOURCE]}


def _cut(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return frames if len(frames) <= FIRST + LAST else frames[:FIRST] + frames[-LAST:]
