"""Parses the Graphviz language (https://graphviz.org/doc/info/lang.html) as Graphviz's own library understands it.

Beyond the published grammar, as in the library: lists of nodes (`a, b -> c`). Stricter than the library: a number with
letters behind it, and text behind the graph, are errors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from runyard.flow.dot.lexer import MAX_ID, Kind, Text, Token, tokens
from runyard.flow.dot.tree import DotEdge, DotError, DotGraph, DotNode

MAX_DEPTH = 100
"""Subgraphs inside one another."""
MAX_NODES = 20_000
MAX_EDGES = 100_000
MAX_ATTRIBUTES = 1_000
"""Attributes of one node, edge or graph, and defaults of one scope."""
MAX_ENTRIES = 500_000
"""Attributes of all nodes and edges together, inherited ones counted at each."""

_IDS = (Kind.ID, Kind.QUOTED, Kind.HTML)
_End = tuple[str, str, str]
"""A node as the end of an edge: its name, port and compass point."""
_Ends = list[_End] | dict[str, None]
"""One end of an edge statement: the nodes of a list, or all of a subgraph."""


def parse(text: str) -> DotGraph:
    """The graph in a text. Raises DotError, which has line, column and source line, at the first fault."""
    return _Parser(Text(text)).graph()


@dataclass(slots=True)
class _Scope:
    """A graph or subgraph: the defaults that are set in it, the nodes that are named in it, and its own subgraphs.

    A subgraph is known by its name to the graph around it, and to no other. Its nodes are also the graph's around it.
    """

    around: _Scope | None
    attributes: dict[str, str] = field(default_factory=dict)
    node: dict[str, str] = field(default_factory=dict)
    edge: dict[str, str] = field(default_factory=dict)
    members: dict[str, None] = field(default_factory=dict)
    named: dict[str, _Scope] = field(default_factory=dict)

    def defaults(self, kind: str) -> dict[str, str]:
        """What a `node` or an `edge` gets that is made here now."""
        own: dict[str, str] = getattr(self, kind)
        return {**self.around.defaults(kind), **own} if self.around is not None else dict(own)


class _Parser:
    def __init__(self, source: Text) -> None:
        self._source = source
        self._tokens = tokens(source)
        self._at = 0
        self._scopes: list[_Scope] = []
        self._unique: dict[tuple[str, str], DotEdge] = {}
        self._links = 0
        self._entries = 0
        self._graph: DotGraph

    # Tokens -------------------------------------------------------------------------------------------------------

    def _next(self) -> Token:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def _is(self, mark: str) -> bool:
        token = self._tokens[self._at]
        return token.kind is Kind.MARK and token.text == mark

    def _take(self, mark: str) -> bool:
        found = self._is(mark)
        self._at += found
        return found

    def _keyword(self, *words: str) -> str | None:
        token = self._tokens[self._at]
        if token.kind is Kind.KEYWORD and token.text in words:
            self._at += 1
            return token.text
        return None

    def _fail(self, expected: str, token: Token | None = None) -> DotError:
        token = token or self._tokens[self._at]
        found = "the text ends" if token.kind is Kind.END else f"{_shown(token)} stands"
        return self._source.error(f"expected {expected}, but {found} here", token.offset)

    # Grammar ------------------------------------------------------------------------------------------------------

    def graph(self) -> DotGraph:
        if len(self._tokens) == 1:
            raise self._fail("`digraph { … }`")
        start = self._tokens[0]
        strict = self._keyword("strict") is not None
        kind = self._keyword("digraph", "graph")
        if kind is None:
            raise self._fail("`digraph`")
        name = self._id("a name") if self._tokens[self._at].kind in _IDS else ""
        self._graph = DotGraph(name, kind == "digraph", strict, self._source.position(start.offset))
        scope = _Scope(None, self._graph.attributes)
        self._body(scope, "digraph", start)
        if self._tokens[self._at].kind is not Kind.END:
            raise self._fail("nothing behind the graph's closing `}`")
        return self._graph

    def _body(self, scope: _Scope, what: str, start: Token) -> None:
        """`{`, statements and `}`, in a scope."""
        opened = self._tokens[self._at]
        if not self._take("{"):
            raise self._fail(f"`{{` of the {what}")
        self._scopes.append(scope)
        if len(self._scopes) > MAX_DEPTH:
            raise self._source.error(f"more than {MAX_DEPTH} subgraphs inside one another", start.offset)
        while not self._take("}"):
            if self._tokens[self._at].kind is Kind.END:
                raise self._source.error("the `{` here has no `}`", opened.offset)
            self._statement()
        self._scopes.pop()

    def _statement(self) -> None:
        token = self._tokens[self._at]
        kind = self._keyword("node", "edge", "graph")
        if kind is not None:
            self._defaults(kind)
        elif token.kind in _IDS and self._tokens_assign():
            name = self._id("a name")
            self._take("=")
            self._set(self._scopes[-1].attributes, {name: self._id("a value")}, token)
        else:
            self._edges()
        self._take(";")

    def _tokens_assign(self) -> bool:
        """Whether `ID =` stands here. A name can be made of several strings."""
        at = self._at + 1
        while self._tokens[at][:2] == (Kind.MARK, "+"):
            at += 2
            if at >= len(self._tokens):
                return False
        return self._tokens[at][:2] == (Kind.MARK, "=")

    def _defaults(self, kind: str) -> None:
        scope, token = self._scopes[-1], self._tokens[self._at]
        if not self._is("["):
            raise self._fail(f"`[` with attributes for `{kind}`")
        target = {"node": scope.node, "edge": scope.edge, "graph": scope.attributes}[kind]
        self._set(target, self._attributes(), token)

    def _edges(self) -> None:
        """A node statement, an edge statement with all its links, or a subgraph."""
        start = self._tokens[self._at]
        ends = self._ends("a statement or `}`")
        chain = [(start, ends)]
        while self._is("->") or self._is("--"):
            self._operator()
            token = self._tokens[self._at]
            chain.append((token, self._ends("a node or `{` behind the arrow")))
        attributes = self._attributes()
        if len(chain) == 1 and isinstance(ends, list):
            for name, _, _ in ends:
                self._set(self._graph.nodes[name].attributes, attributes, start)
        for (token, tails), (other, heads) in pairwise(chain):
            self._link(token, tails, other, heads, attributes)

    def _operator(self) -> None:
        token = self._next()
        wanted = "->" if self._graph.directed else "--"
        if token.text != wanted:
            what = "a digraph" if self._graph.directed else "a graph (write `digraph` for arrows)"
            raise self._source.error(f"the edges of {what} are written `{wanted}`, not `{token.text}`", token.offset)

    def _ends(self, expected: str) -> _Ends:
        token = self._tokens[self._at]
        if self._is("{") or (token.kind is Kind.KEYWORD and token.text == "subgraph"):
            return self._subgraph()
        result = [self._node(expected)]
        while self._take(","):
            result.append(self._node("another node behind `,`"))
        return result

    def _subgraph(self) -> dict[str, None]:
        start, name = self._tokens[self._at], ""
        if self._keyword("subgraph") and self._tokens[self._at].kind in _IDS:
            name = self._id("a name")
        around = self._scopes[-1]
        scope = around.named.get(name) if name else None
        if scope is None:
            scope = _Scope(around)
            if name:
                around.named[name] = scope
        self._body(scope, "subgraph", start)
        return scope.members

    def _node(self, expected: str) -> _End:
        token = self._tokens[self._at]
        name = self._id(expected)
        port = compass = ""
        if self._take(":"):
            port = self._id("a port")
            if self._take(":"):
                compass = self._id("a compass point")
        scope = self._scopes[-1]
        if name not in self._graph.nodes:
            if len(self._graph.nodes) >= MAX_NODES:
                raise self._source.error(f"the graph has more than {MAX_NODES:,} nodes", token.offset)
            self._graph.nodes[name] = DotNode(name, self._source.position(token.offset), scope.defaults("node"))
            self._count(self._graph.nodes[name].attributes, token)
        at: _Scope | None = scope
        while at is not None and name not in at.members:
            at.members[name] = None
            at = at.around
        return name, port, compass

    def _link(self, token: Token, tails: _Ends, other: Token, heads: _Ends, attributes: dict[str, str]) -> None:
        graph = self._graph
        # Before the members of subgraphs are looked at, which may be many each time. Edges that a strict graph has
        # already count as well.
        self._links += len(tails) * len(heads)
        if self._links > MAX_EDGES:
            raise self._source.error(f"the graph has more than {MAX_EDGES:,} edges", token.offset)
        position, head_position = self._source.position(token.offset), self._source.position(other.offset)
        defaults = self._scopes[-1].defaults("edge")
        for tail, tail_port, tail_compass in _each(tails) if heads else ():
            for head, head_port, head_compass in _each(heads):
                pair = (tail, head) if graph.directed or tail <= head else (head, tail)
                known = self._unique.get(pair) if graph.strict else None
                if known is not None:
                    self._again(known, (tail, tail_port, tail_compass), (head, head_port, head_compass))
                    self._set(known.attributes, attributes, token)
                    continue
                ports = (tail_port, head_port, tail_compass, head_compass)
                edge = DotEdge(tail, head, *ports, position, head_position, dict(defaults))
                self._count(defaults, token)
                self._set(edge.attributes, attributes, token)
                graph.edges.append(edge)
                self._unique[pair] = edge

    def _again(self, edge: DotEdge, tail: _End, head: _End) -> None:
        """An edge of a strict graph is written once more: ports that are named now replace those before."""
        if edge.tail != tail[0]:
            tail, head = head, tail
        if tail[1]:
            _, edge.tail_port, edge.tail_compass = tail
        if head[1]:
            _, edge.head_port, edge.head_compass = head

    def _attributes(self) -> dict[str, str]:
        """All the attribute lists that stand here."""
        result: dict[str, str] = {}
        while self._take("["):
            while not self._take("]"):
                name = self._id("an attribute or `]`")
                if not self._take("="):
                    raise self._fail(f"`=` and a value for attribute {name!r}")
                result[name] = self._id(f"a value for attribute {name!r}")
                if not self._take(","):
                    self._take(";")
        return result

    def _set(self, target: dict[str, str], attributes: dict[str, str], token: Token) -> None:
        target.update(attributes)
        self._count(attributes, token)
        if len(target) > MAX_ATTRIBUTES:
            raise self._source.error(f"more than {MAX_ATTRIBUTES:,} attributes for one thing", token.offset)

    def _count(self, attributes: dict[str, str], token: Token) -> None:
        self._entries += len(attributes)
        if self._entries > MAX_ENTRIES:
            raise self._source.error(f"the graph has more than {MAX_ENTRIES:,} attributes", token.offset)

    def _id(self, expected: str) -> str:
        token = self._next()
        if token.kind not in _IDS:
            if token.kind is Kind.KEYWORD:
                hint = f"{expected} (the word {token.text} is taken: put it in double quotes to use it as a name)"
                raise self._fail(hint, token)
            raise self._fail(expected, token)
        if token.kind is not Kind.QUOTED or not self._is("+"):
            return token.text
        parts = [token.text]
        while self._take("+"):
            more = self._next()
            if more.kind is not Kind.QUOTED:
                raise self._fail("a string in double quotes behind `+`", more)
            parts.append(more.text)
        text = "".join(parts)
        if len(text) > MAX_ID:
            raise self._source.error(f"this is longer than {MAX_ID:,} characters", token.offset)
        return text


def _each(ends: _Ends) -> list[_End]:
    return ends if isinstance(ends, list) else [(name, "", "") for name in ends]


def _shown(token: Token) -> str:
    text = token.text if len(token.text) <= 40 else token.text[:39] + "…"
    text = "".join(char if char.isprintable() else "·" for char in text)
    return f'"{text}"' if token.kind is Kind.QUOTED else f"<{text}>" if token.kind is Kind.HTML else f"`{text}`"
