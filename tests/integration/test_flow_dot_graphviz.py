"""Our parser of DOT against Graphviz's own. Needs its `gvpr`; RUNYARD_REQUIRE_GRAPHVIZ=1 makes sure that it is there."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    "digraph{// a -> b\n/* c\n -> */ d\n# e -> f\n}",
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
    "digraph{ # a\n}",
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


_NAME = st.sampled_from(["a", "b", "c", '"d e"', '"f\\"g"', "-1", '"x"+"y"', "<h>", "流"])
_LIST = st.lists(st.tuples(st.sampled_from("xyz"), _NAME), max_size=3).map(
    lambda pairs: "[" + ",".join(f"{name}={value}" for name, value in pairs) + "]"
)
_END = st.one_of(_NAME, st.tuples(_NAME, _NAME).map(":".join), st.lists(_NAME, max_size=3).map(lambda names: f"{{{' '.join(names)}}}"))
_EDGE = st.tuples(st.lists(_END, min_size=1, max_size=4).map("->".join), _LIST).map("".join)
_DEFAULT = st.tuples(st.sampled_from(["node", "edge", "graph"]), _LIST).map("".join)
_STATEMENT = st.recursive(
    st.one_of(_EDGE, _DEFAULT),
    lambda inner: st.tuples(
        st.sampled_from(["", "subgraph s1 ", "subgraph s2 "]), st.lists(inner, max_size=4)
    ).map(lambda pair: f"{pair[0]}{{{';'.join(pair[1])}}}"),
    max_leaves=8,
)
_GRAPH = st.tuples(st.sampled_from(["digraph", "strict digraph"]), st.lists(_STATEMENT, max_size=6)).map(
    lambda pair: f"{pair[0]} {{{';'.join(pair[1])}}}"
)


@given(st.lists(_GRAPH, min_size=20, max_size=40))
@settings(max_examples=8, deadline=None)
def test_both_read_random_graphs_alike(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    taken = []
    for text in texts:
        try:
            taken.append((text, _ours(text)))
        except DotError as error:
            assert "inside itself" in error.message
    told = _graphviz([text for text, _ in taken], tmp_path_factory.mktemp("dot"))
    assert told is not None
    for (text, ours), theirs in zip(taken, told, strict=True):
        assert ours == theirs, text
