"""Cuts a DOT text into tokens (https://graphviz.org/doc/info/lang.html)."""

from __future__ import annotations

import re
from bisect import bisect_right
from enum import Enum, auto
from typing import NamedTuple

from runyard.flow.dot.tree import DotError
from runyard.flow.problem import Position

MAX_CHARACTERS = 4 * 1024 * 1024
"""Length of a text; a longer one is refused before it is looked at."""
MAX_ID = 64 * 1024
"""Characters of one identifier or value."""

KEYWORDS = frozenset(("node", "edge", "graph", "digraph", "subgraph", "strict"))


class Kind(Enum):
    """What a token is. An identifier's text has its quotes and escapes taken away."""

    ID = auto()
    QUOTED = auto()
    HTML = auto()
    KEYWORD = auto()
    MARK = auto()
    END = auto()


class Token(NamedTuple):
    """A token and its offset in the text. The text of a keyword is in lower case."""

    kind: Kind
    text: str
    offset: int


_LETTER = r"A-Za-z_\u0080-\U0010ffff"
_TOKEN = re.compile(
    rf"""
      (?P<space>[ \t\r\n\f\v]+)
    | (?P<word>[{_LETTER}][{_LETTER}0-9]*)
    | (?P<mark>->|--|[{{}}\[\]=;,:+])
    | (?P<quote>")
    | (?P<number>-?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?))
    | (?P<line>(?://|\#)[^\n]*)
    | (?P<block>/\*)
    | (?P<html><)
    """,
    re.VERBOSE,
)
_QUOTED = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_ESCAPE = re.compile(r'\\("|\r?\n|\\)')
_ANGLE = re.compile(r"<!--.*?-->|<!--|[<>]", re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
_AFTER_NUMBER = re.compile(rf"[{_LETTER}0-9.]*")


class Text:
    """A text, and where its lines begin."""

    def __init__(self, text: str) -> None:
        # A byte order mark is no part of the text, as in Graphviz.
        self.text = text.removeprefix("\ufeff")
        self._starts: list[int] = []

    def position(self, offset: int) -> Position:
        if not self._starts:
            self._starts = [0, *(match.end() for match in re.finditer("\n", self.text))]
        line = bisect_right(self._starts, offset)
        return Position(line, offset - self._starts[line - 1] + 1)

    def line(self, offset: int) -> str:
        """The line around the offset."""
        start = self.text.rfind("\n", 0, offset) + 1
        end = self.text.find("\n", offset)
        return self.text[start : end if end >= 0 else len(self.text)].rstrip("\r")

    def error(self, message: str, offset: int) -> DotError:
        return DotError(message, self.position(offset), self.line(offset))


def tokens(source: Text) -> list[Token]:
    """All tokens, with one of kind END as the last. Raises DotError."""
    text = source.text
    if len(text) > MAX_CHARACTERS:
        raise DotError(f"the graph is longer than {MAX_CHARACTERS:,} characters", Position(1, 1), "")
    if "\0" in text:
        raise source.error("a NUL character can't stand in a graph", text.index("\0"))
    half = None if text.isascii() else _SURROGATE.search(text)
    if half is not None:
        raise source.error("half of a surrogate pair is no character", half.start())
    result: list[Token] = []
    offset, match_at, end = 0, _TOKEN.match, len(text)
    while offset < end:
        match = match_at(text, offset)
        if match is None:
            raise source.error(_stray(text[offset]), offset)
        start, kind, offset = offset, match.lastgroup, match.end()
        if kind == "space" or kind == "line":
            continue
        if kind == "mark":
            result.append(Token(Kind.MARK, match[0], start))
        elif kind == "word":
            word = match[0]
            lower = word.lower()
            result.append(Token(Kind.KEYWORD, lower, start) if lower in KEYWORDS else Token(Kind.ID, word, start))
        elif kind == "quote":
            value, offset = _quoted(source, offset)
            result.append(Token(Kind.QUOTED, value, start))
        elif kind == "number":
            _check_number(source, start, offset)
            result.append(Token(Kind.ID, match[0], start))
        elif kind == "block":
            offset = text.find("*/", offset) + 2
            if offset == 1:
                raise source.error("the comment that begins here has no `*/`", start)
        elif kind == "html":
            value, offset = _html(source, offset)
            result.append(Token(Kind.HTML, value, start))
        if offset - start > MAX_ID and kind in ("word", "quote", "number", "html"):
            raise source.error(f"this is longer than {MAX_ID:,} characters", start)
    result.append(Token(Kind.END, "", end))
    return result


def _quoted(source: Text, offset: int) -> tuple[str, int]:
    """The string that begins at `offset`, behind its quote, and where it ends."""
    match = _QUOTED.match(source.text, offset)
    if match is None:
        raise source.error("the string that begins here has no closing quote", offset - 1)
    value = source.text[offset : match.end() - 1]
    if "\\" in value:
        value = _ESCAPE.sub(_unescape, value)
    return value, match.end()


def _unescape(match: re.Match[str]) -> str:
    """Only `\\"` and a line's end are escapes; `\\\\` is kept, so that the quote behind it ends the string."""
    return {'"': '"', "\\": "\\\\"}.get(match[1], "")


def _html(source: Text, offset: int) -> tuple[str, int]:
    """The HTML string that begins at `offset`, behind its `<`, and where it ends."""
    depth = 1
    for match in _ANGLE.finditer(source.text, offset):
        if match[0] == "<!--":
            raise source.error("the comment that begins here has no `-->`", match.start())
        if match[0] == "<":
            depth += 1
        elif match[0] == ">":
            depth -= 1
            if depth == 0:
                return source.text[offset : match.start()], match.end()
    raise source.error("the HTML string that begins here has no closing `>`", offset - 1)


def _check_number(source: Text, start: int, end: int) -> None:
    """Graphviz cuts `1st` into `1` and `st`, with a warning. Nobody means that."""
    rest = _AFTER_NUMBER.match(source.text, end)
    if rest and rest[0]:
        word = source.text[start : min(rest.end(), end + 40)]
        raise source.error(f"{word} begins like a number but is none: put it in double quotes", start)


def _stray(char: str) -> str:
    shown = char if char.isprintable() else ascii(char)[1:-1]
    if char == "'":
        return "' is no quote here: use double quotes"
    if char == "-":
        return "`-` can't stand alone: an edge is `->`, and a name with `-` in it needs double quotes"
    return f"`{shown}` can't stand in a name: put the name in double quotes"
