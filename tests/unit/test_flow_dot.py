"""The parser of the Graphviz language: what a text comes to, what is refused and where, and its bounds."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runyard.flow.dot import DotError, DotGraph, parse
from runyard.flow.dot.lexer import MAX_CHARACTERS, MAX_ID
from runyard.flow.dot.parser import MAX_ATTRIBUTES, MAX_DEPTH, MAX_EDGES, MAX_ENTRIES, MAX_NODES
from runyard.flow.problem import Position


def _nodes(graph: DotGraph) -> dict[str, dict[str, str]]:
    return {name: node.attributes for name, node in graph.nodes.items()}


def _edges(graph: DotGraph) -> list[str]:
    return [
        f"{edge.tail}{edge.tail_port and ':' + edge.tail_port} {edge.head}{edge.head_port and ':' + edge.head_port}"
        for edge in graph.edges
    ]


NAMES = [
    ("abc", "abc"),
    ("_a1", "_a1"),
    ("äöü_流", "äöü_流"),
    ("-1.5", "-1.5"),
    (".5", ".5"),
    ("5.", "5."),
    ("-.0", "-.0"),
    ('""', ""),
    ('"a b"', "a b"),
    (r'"a\"b"', 'a"b'),
    (r'"a\\"', r"a\\"),
    (r'"a\nb\N"', r"a\nb\N"),
    ('"a\\\nb"', "ab"),
    ('"a\\\r\nb"', "ab"),
    ('"a\nb"', "a\nb"),
    ('"a" + "b"+"c"', "abc"),
    ('"a" /* x */ + // y\n "b"', "ab"),
    ("<b>", "b"),
    ("<<b>x</b>>", "<b>x</b>"),
    ("<a<!-- > -->b>", "a<!-- > -->b"),
    ('"node"', "node"),
    ('"// no comment"', "// no comment"),
    ('"{}[]->;"', "{}[]->;"),
    ("nodes", "nodes"),
]


@pytest.mark.parametrize(("written", "name"), NAMES)
def test_a_name_is_read_everywhere(written: str, name: str) -> None:
    graph = parse(
        f"digraph {written} {{ {written} [{written}={written}]; {written}:{written} -> {written}:{written} }}"
    )
    assert graph.name == name
    assert _nodes(graph) == {name: {name: name}}
    assert [(e.tail, e.tail_port, e.head, e.head_port) for e in graph.edges] == [(name, name, name, name)]


GRAPHS = [
    ("digraph{}", {}, []),
    ("DiGraph g {}", {}, []),
    ("strict digraph {}", {}, []),
    ("\ufeffdigraph {}", {}, []),
    ("digraph{a}", {"a": {}}, []),
    ("digraph{a;b c}", {"a": {}, "b": {}, "c": {}}, []),
    ("digraph{a[]}", {"a": {}}, []),
    ("digraph{a[x=1,y=2;z=3 w=4,]}", {"a": {"x": "1", "y": "2", "z": "3", "w": "4"}}, []),
    ("digraph{a[x=1][y=2]}", {"a": {"x": "1", "y": "2"}}, []),
    ("digraph{a[x=1] a[x=2,y=3]}", {"a": {"x": "2", "y": "3"}}, []),
    ('digraph{a[x=""]}', {"a": {"x": ""}}, []),
    ("digraph{a:p[x=1]}", {"a": {"x": "1"}}, []),
    ("digraph{a,b[x=1]}", {"a": {"x": "1"}, "b": {"x": "1"}}, []),
    ("digraph{a->b}", {"a": {}, "b": {}}, ["a b"]),
    ("digraph{a->b->c;}", {"a": {}, "b": {}, "c": {}}, ["a b", "b c"]),
    ("digraph{a:o->b:i}", {"a": {}, "b": {}}, ["a:o b:i"]),
    ("digraph{a:o:n->b:i:sw}", {"a": {}, "b": {}}, ["a:o b:i"]),
    ("digraph{a->a}", {"a": {}}, ["a a"]),
    ("digraph{a->b a->b}", {"a": {}, "b": {}}, ["a b", "a b"]),
    ("strict digraph{a->b a->b b->a}", {"a": {}, "b": {}}, ["a b", "b a"]),
    ("strict graph{a--b b--a}", {"a": {}, "b": {}}, ["a b"]),
    ("graph{a--b}", {"a": {}, "b": {}}, ["a b"]),
    ("digraph{a,b->c,d}", {n: {} for n in "abcd"}, ["a c", "a d", "b c", "b d"]),
    ("digraph{a->{b c}}", {n: {} for n in "abc"}, ["a b", "a c"]),
    ("digraph{{a b}->{c d}->e}", {n: {} for n in "abcde"}, ["a c", "a d", "b c", "b d", "c e", "d e"]),
    ("digraph{a->{b->c}}", {n: {} for n in "abc"}, ["b c", "a b", "a c"]),
    ("digraph{a->{}}", {"a": {}}, []),
    ("digraph{{{a->b}}}", {"a": {}, "b": {}}, ["a b"]),
    ("digraph{subgraph s {a b} subgraph s {c} x -> subgraph s {}}", {n: {} for n in "abcx"}, ["x a", "x b", "x c"]),
    ("digraph{a node[x=1] b node[x=2,y=3] c b}", {"a": {}, "b": {"x": "1"}, "c": {"x": "2", "y": "3"}}, []),
    ("digraph{node[x=1] {node[x=2] a} b}", {"a": {"x": "2"}, "b": {"x": "1"}}, []),
    ("digraph{subgraph s{node[x=2]} subgraph s{a} b}", {"a": {"x": "2"}, "b": {}}, []),
    ("digraph{NODE[x=1] a SubGraph {b}}", {"a": {"x": "1"}, "b": {"x": "1"}}, []),
    ("digraph{// a -> b\n/* c\n -> */ d # e\n# e -> f\n}", {"d": {}}, []),
    ("# 1 \"file\"\ndigraph{a}", {"a": {}}, []),
    ("digraph{a=b c}", {"c": {}}, []),
    ('digraph{"a"+"b"=c "d"+"e"}', {"de": {}}, []),
    ("digraph\r\n{\ra\f}", {"a": {}}, []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "nodes", "edges"), GRAPHS)
def test_a_text_comes_to_nodes_and_edges(text: str, nodes: dict[str, dict[str, str]], edges: list[str]) -> None:
    graph = parse(text)
    assert (_nodes(graph), _edges(graph)) == (nodes, edges)


def test_the_graph_has_its_own_properties() -> None:
    graph = parse('strict digraph "my graph" { a=1; graph [b=2, a=3] { c=4 } subgraph s { d e } }')
    assert (graph.name, graph.directed, graph.strict) == ("my graph", True, True)
    assert graph.attributes == {"a": "3", "b": "2"}
    assert list(graph.nodes) == ["d", "e"]


def test_edges_have_attributes_compass_points_and_places() -> None:
    graph = parse("digraph {\n edge[x=1]\n a:o:n -> b:i:sw -> c [y=2]\n c -> a\n}")
    assert [edge.attributes for edge in graph.edges] == [{"x": "1", "y": "2"}, {"x": "1", "y": "2"}, {"x": "1"}]
    first = graph.edges[0]
    assert (first.tail_compass, first.head_compass) == ("n", "sw")
    assert (first.position, first.head_position) == (Position(3, 2), Position(3, 11))
    assert graph.nodes["b"].position == Position(3, 11)


ERRORS = [
    ("", 1, 1, "expected `digraph { … }`"),
    ("# nothing\n", 2, 1, "expected `digraph"),
    ("a -> b", 1, 1, "expected `digraph`, but `a` stands here"),
    ("digraph", 1, 8, "expected `{` of the digraph, but the text ends"),
    ("digraph {", 1, 9, "the `{` here has no `}`"),
    ("digraph {\n {a }", 1, 9, "the `{` here has no `}`"),
    ("digraph {}}", 1, 11, "nothing behind the graph's closing `}`"),
    ("digraph {} digraph {}", 1, 12, "nothing behind"),
    ("digraph {\n  a -> }", 2, 8, "expected a node or `{` behind the arrow"),
    ("digraph {a -- b}", 1, 12, "written `->`, not `--`"),
    ("graph {a -> b}", 1, 10, "write `digraph` for arrows"),
    ("digraph {a - b}", 1, 12, "`-` can't stand alone"),
    ("digraph {a-b}", 1, 11, "`-` can't stand alone"),
    ("digraph {a [x]}", 1, 14, "expected `=` and a value for attribute 'x'"),
    ("digraph {a [x=]}", 1, 15, "expected a value for attribute 'x'"),
    ("digraph {a [x=1}", 1, 16, "expected an attribute or `]`"),
    ("digraph {a [x=1,,y=2]}", 1, 17, "expected an attribute or `]`"),
    ("digraph {a:}", 1, 12, "expected a port"),
    ("digraph {a:b:}", 1, 14, "expected a compass point"),
    ("digraph {a:b:c:d}", 1, 15, "expected a statement or `}`, but `:`"),
    ("digraph {a; ;}", 1, 13, "expected a statement or `}`, but `;`"),
    ("digraph {a -> b,}", 1, 17, "expected another node behind `,`"),
    ("digraph {node a}", 1, 15, "expected `[` with attributes for `node`"),
    ("digraph {a -> node}", 1, 15, "the word node is taken"),
    ("digraph {a [label=graph]}", 1, 19, "the word graph is taken"),
    ("digraph {subgraph s}", 1, 20, "expected `{` of the subgraph"),
    ('digraph {"a}', 1, 10, "has no closing quote"),
    ('digraph {"a\\"}', 1, 10, "has no closing quote"),
    ('digraph {"a" + b}', 1, 16, "a string in double quotes behind `+`"),
    ('digraph {"a" +', 1, 15, "a string in double quotes behind `+`"),
    ("digraph {a + b}", 1, 12, "expected a statement or `}`"),
    ("digraph {<a}", 1, 10, "has no closing `>`"),
    ("digraph {<<!-- a>}", 1, 11, "has no `-->`"),
    ("digraph {/* a }", 1, 10, "has no `*/`"),
    ("digraph {1st}", 1, 10, "1st begins like a number"),
    ("digraph {1.2.3}", 1, 10, "1.2.3 begins like a number"),
    ("digraph {'a'}", 1, 10, "use double quotes"),
    ("digraph {a.b}", 1, 11, "put the name in double quotes"),
    ("digraph {a\\b}", 1, 11, "`\\` can't stand in a name"),
    ("digraph {a\x01}", 1, 11, "`\\x01` can't stand in a name"),
    ("digraph {a\x00b}", 1, 11, "a NUL character"),
    ("digraph {]}", 1, 10, "expected a statement or `}`"),
]


@pytest.mark.parametrize(("text", "line", "column", "words"), ERRORS)
def test_a_fault_is_said_with_its_place(text: str, line: int, column: int, words: str) -> None:
    with pytest.raises(DotError) as caught:
        parse(text)
    assert words in caught.value.message
    assert caught.value.position == Position(line, column)
    assert caught.value.text == (text.split("\n")[line - 1] if "NUL" not in words else text)


BOUNDS = {
    "the graph is longer than": "digraph {" + "a" * (MAX_CHARACTERS + 1),
    "this is longer than": f'digraph {{"{"a" * (MAX_ID + 1)}"}}',
    "this is longer": "digraph {" + "+".join([f'"{"a" * 1000}"'] * (MAX_ID // 1000 + 1)) + "}",
    f"more than {MAX_DEPTH} subgraphs": "digraph " + "{" * (MAX_DEPTH + 1) + "}" * (MAX_DEPTH + 1),
    f"more than {MAX_NODES:,} nodes": "digraph {" + " ".join(f"n{n}" for n in range(MAX_NODES + 1)) + "}",
    f"more than {MAX_EDGES:,} edges": "digraph {subgraph s {" + " ".join(f"n{n}" for n in range(400)) + "}"
    " subgraph s {} -> subgraph s {} }",
    "edges": "strict digraph {subgraph s {"
    + " ".join(f"n{n}" for n in range(400))
    + "}"
    + "subgraph s{} -> n0 " * 251
    + "}",
    "attributes for one thing": "digraph {a[" + ",".join(f"x{n}=1" for n in range(MAX_ATTRIBUTES + 1)) + "]}",
    "attributes for one": "digraph {node[" + ",".join(f"x{n}=1" for n in range(MAX_ATTRIBUTES + 1)) + "]}",
    f"more than {MAX_ENTRIES:,} attributes": "digraph {node["
    + ",".join(f"x{n}=1" for n in range(900))
    + "]"
    + " ".join(f"n{n}" for n in range(600))
    + "}",
    "half of a surrogate pair": "digraph {\ud800}",
}


@pytest.mark.parametrize("words", BOUNDS)
def test_everything_has_a_bound(words: str) -> None:
    with pytest.raises(DotError) as caught:
        parse(BOUNDS[words])
    assert words in caught.value.message


def test_a_subgraph_that_is_opened_again_is_not_gone_through_again() -> None:
    names = [f"n{n}" for n in range(MAX_NODES)]
    graph = parse("digraph {subgraph s {" + " ".join(names) + "}" + "subgraph s{} subgraph s{} -> {}" * 50_000 + "}")
    assert list(graph.nodes) == names and not graph.edges
    edges = parse("digraph {subgraph s {a} -> subgraph s {b}}").edges
    assert {edge.tail + edge.head for edge in edges} == {"aa", "ab", "ba", "bb"}, "as in Graphviz"


def test_the_deepest_graph_allowed_is_read() -> None:
    assert list(parse("digraph " + "{" * MAX_DEPTH + "a" + "}" * MAX_DEPTH).nodes) == ["a"]


_WORDS = st.lists(
    st.sampled_from([*'{}[]=;,:+"<>#/*\\\n\t -', "->", "--", "a", "b1", "1", "-.5", '"x"', "node", "graph", "subgraph",
                     "edge", "digraph", "strict", "//", "/*", "*/", "<b>", "\x00", "é", "\ud800", "'"]),
    max_size=60,
)  # fmt: skip


@given(_WORDS, st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_text_is_a_graph_or_a_dot_error(words: list[str], wrapped: bool) -> None:
    text = "".join(words)
    text = f"digraph {{{text}}}" if wrapped else text
    try:
        graph = parse(text)
    except DotError as error:
        lines = text.split("\n")
        assert 1 <= error.position.line <= len(lines)
        assert 1 <= error.position.column <= len(lines[error.position.line - 1]) + 1
    else:
        assert all(edge.tail in graph.nodes and edge.head in graph.nodes for edge in graph.edges)


@given(st.dictionaries(st.text(st.characters(exclude_characters="\0\\", exclude_categories=["Cs"])), st.text("ab\n<{")))
@settings(max_examples=100, deadline=None)
def test_quoted_names_and_values_come_back(attributes: dict[str, str]) -> None:
    def quoted(text: str) -> str:
        return '"' + text.replace('"', '\\"') + '"'

    listed = ",".join(f"{quoted(name)}={quoted(value)}" for name, value in attributes.items())
    assert parse(f"digraph {{ a [{listed}] }}").nodes["a"].attributes == attributes


def _large(nodes: int) -> str:
    body = "".join(f'n{n} [type=flowunit, flowunit="u", x={n}]\n n{n}:out -> n{n + 1}:in\n' for n in range(nodes))
    return f"digraph {{ {body} }}"


def test_time_grows_with_the_size_and_not_faster() -> None:
    def cost(text: str) -> float:
        """The least CPU time of three goes: other processes can only add to it."""
        times = []
        for _ in range(3):
            start = time.process_time()
            parse(text)
            times.append(time.process_time() - start)
        return min(times)

    small, large = _large(300), _large(3_000)
    assert len(parse(large).nodes) == 3_001
    # Linear is 10 times; quadratic would be 100.
    assert cost(large) < 40 * cost(small)
