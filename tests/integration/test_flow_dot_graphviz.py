"""Our parser of DOT against Graphviz's own (`gvpr`). RUNYARD_REQUIRE_GRAPHVIZ=1 makes sure that it is there."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from runyard.flow.dot import DotError, parse

GVPR = shutil.which("gvpr")
pytestmark = pytest.mark.skipif(
    GVPR is None and os.environ.get("RUNYARD_REQUIRE_GRAPHVIZ") != "1", reason="needs Graphviz (apt install graphviz)"
)
_PROGRAM = r"""
BEGIN { string a; }
BEG_G { printf("G\1%d\1%d\n", isDirect($G), isStrict($G)); }
N {
  printf("N\1%s", $.name);
  for (a = fstAttr($G, "N"); a != ""; a = nxtAttr($G, "N", a)) printf("\1%s\2%s", a, aget($, a));
  print("");
}
E {
  printf("E\1%s\1%s", $.tail.name, $.head.name);
  for (a = fstAttr($G, "E"); a != ""; a = nxtAttr($G, "E", a)) printf("\1%s\2%s", a, aget($, a));
  print("");
}
"""


def _graphviz(texts: list[str], folder: Path) -> list[object] | None:
    """What Graphviz makes of the texts, None for all if it finds a syntax error."""
    assert GVPR is not None, "RUNYARD_REQUIRE_GRAPHVIZ=1, but gvpr is missing: install the package graphviz"
    program, files = folder / "print.g", []
    program.write_text(_PROGRAM)
    for number, text in enumerate(texts):
        files.append(folder / f"{number}.gv")
        files[-1].write_bytes(text.encode())
    result = subprocess.run([GVPR, "-f", program, *files], capture_output=True, timeout=60, check=False)
    if b"syntax error" in result.stderr:
        return None
    assert result.stderr == b""
    graphs: list[list[list[str]]] = []
    for record in result.stdout.decode().split("\n"):
        fields = record.split("\1")
        if fields[0] == "G":
            graphs.append([])
        if len(fields) > 1:
            graphs[-1].append(fields)
    return [_told(records) for records in graphs]


def _told(records: list[list[str]]) -> object:
    """One graph as Graphviz tells it, in a shape that compares."""
    nodes, edges = {}, Counter[object]()
    _, directed, strict = records[0]
    for kind, *fields in records[1:]:
        given = dict(field.split("\2") for field in fields if "\2" in field)
        attributes = {key: value for key, value in given.items() if value}
        if kind == "N":
            nodes[fields[0]] = attributes
        else:
            edges[fields[0], fields[1], frozenset(attributes.items())] += 1
    return (directed == "1", strict == "1", nodes, edges)


def _ours(text: str) -> object:
    """The same shape from our parser. Graphviz keeps ports as attributes."""
    graph = parse(text)
    nodes = {name: {k: v for k, v in node.attributes.items() if v} for name, node in graph.nodes.items()}
    edges = Counter[object]()
    for edge in graph.edges:
        ports = {
            "tailport": ":".join(part for part in (edge.tail_port, edge.tail_compass) if part),
            "headport": ":".join(part for part in (edge.head_port, edge.head_compass) if part),
        }
        attributes = {key: value for key, value in {**edge.attributes, **ports}.items() if value}
        edges[edge.tail, edge.head, frozenset(attributes.items())] += 1
    return (graph.directed, graph.strict, nodes, edges)


LEGAL = [
    "digraph{}",
    "strict digraph g{a}",
    "digraph{a;b c}",
    "digraph{a[x=1,y=2;z=3 w=4,]}",
    "digraph{a[x=1][y=2] a[x=3]}",
    "digraph{a,b[x=1]}",
    "digraph{a->b->c}",
    "digraph{a:o->b:i}",
    "digraph{a:o:n->b:i:sw->c:ne}",
    "digraph{a->b a->b}",
    "strict digraph{a->b[x=1] a->b[y=2] b->a}",
    "graph{a--b--c}",
    "digraph{a,b->c,d}",
    "digraph{a->{b c}->d}",
    "digraph{a->{b->c}}",
    "digraph{subgraph s {a b} subgraph s {c} x -> subgraph s {}}",
    "digraph{a node[x=1] b node[x=2,y=3] c b}",
    "digraph{node[x=1] {node[x=2] a} b}",
    "digraph{subgraph s{node[x=2]} subgraph s{a} b}",
    "digraph{edge[x=1] a->b {edge[x=2] c->d} e->f[x=3]}",
    "DIGRAPH{NODE[x=1] a Subgraph {b}}",
    "digraph{// a -> b\n/* c\n -> */ d # b\n# e -> f\n}",
    '# 1 "file"\ndigraph{a}',
    r'digraph{"a\"b" "a\\" "a b" -1.5 .5 5. "" + "x"}',
    'digraph{"a\\\nb" "c" + "d"}',
    "digraph{a[label=<<b>x</b>>]}",
    'digraph{"node" -> "graph"}',
    "digraph{ä_流 -> b}",
    "digraph{x=1 graph[y=2] a}",
    "digraph{{{a->b}}}",
    "digraph{a->{}}",
]
ILLEGAL = [
    "digraph{a->}",
    "digraph{a--b}",
    "graph{a->b}",
    "digraph{a-b}",
    "digraph{a[x]}",
    "digraph{a[x=]}",
    "digraph{a[x=1,,y=2]}",
    "digraph{a:}",
    "digraph{a:b:c:d}",
    "digraph{a; ;}",
    "digraph{a->b,}",
    "digraph{a->node}",
    "digraph{a[label=graph]}",
    'digraph{"a" + b}',
    "digraph{a + b}",
    "digraph{'a'}",
    "digraph{a.b}",
    "digraph{]}",
    "digraph",
    "digraph{",
    "a->b",
]


def test_both_read_the_same_graphs(tmp_path: Path) -> None:
    told = _graphviz(LEGAL, tmp_path)
    assert told is not None
    assert dict(zip(LEGAL, told, strict=True)) == {text: _ours(text) for text in LEGAL}


@pytest.mark.parametrize("text", ILLEGAL)
def test_both_refuse_the_same_texts(text: str, tmp_path: Path) -> None:
    assert _graphviz([text], tmp_path) is None
    with pytest.raises(DotError):
        parse(text)


_NAMES = ("a", "b", "c", "d", '"d e"', '"f\\"g"', "-1", '"x"+"y"', "<h>", "流")


def _statement(random: Random, depth: int) -> str:
    """A random statement of a digraph."""

    def name() -> str:
        return random.choice(_NAMES)

    def attributes() -> str:
        return "[" + ",".join(f"{random.choice('xyz')}={name()}" for _ in range(random.randrange(3))) + "]"

    def end() -> str:
        kind = random.randrange(6)
        if kind == 0:
            return "{" + " ".join(name() for _ in range(random.randrange(4))) + "}"
        return name() if kind < 4 else f"{name()}:{name()}"

    kind = random.randrange(8 if depth < 4 else 6)
    if kind < 4:
        return "->".join(end() for _ in range(random.randrange(1, 5))) + attributes()
    if kind < 6:
        return random.choice(("node", "edge", "graph")) + attributes()
    inner = ";".join(_statement(random, depth + 1) for _ in range(random.randrange(4)))
    return random.choice(("", f"subgraph s{depth} ")) + "{" + inner + "}"


def test_both_read_random_graphs_alike(tmp_path: Path) -> None:
    random = Random(5)
    texts = []
    for _ in range(300):
        statements = ";".join(_statement(random, 0) for _ in range(random.randrange(8)))
        texts.append(f"{random.choice(('', 'strict '))}digraph {{{statements}}}")
    told = _graphviz(texts, tmp_path)
    assert told is not None
    differing = [text for text, theirs in zip(texts, told, strict=True) if _ours(text) != theirs]
    assert differing == []
