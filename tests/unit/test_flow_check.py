"""What `runyard flow check` refuses and takes: spec/modelbox.md 4.6 to 4.8, a table for each part."""

from __future__ import annotations

import pytest

from runyard.flow.check import Checked, check_flow
from runyard.flow.document import FlowDocument, parse_document
from runyard.flow.graph import Bracket
from runyard.flow.problem import BadFlow
from runyard.flow.status import StatusCode
from runyard.flow.unit_library import Port, UnitInfo, UnitLibrary


def _ports(text: str) -> tuple[Port, ...]:
    return tuple(Port(name) for name in text.split())


def _unit(name: str, inputs: str = "", outputs: str = "", **flags: bool) -> UnitInfo:
    return UnitInfo(name, inputs=_ports(inputs), outputs=_ports(outputs), **flags)  # type: ignore[arg-type]


UNITS = (
    _unit("source", "", "1"),
    _unit("source2", "", "1 2"),
    _unit("pass", "1", "1"),
    _unit("fork", "1", "1 2"),
    _unit("join", "1 2", "1"),
    _unit("join3", "1 2 3", "1"),
    _unit("sink", "1"),
    _unit("sink2", "1 2"),
    _unit("stream", "1", "1", flow_stream=True),
    _unit("if", "1", "1 2", condition=True),
    _unit("if3", "1", "1 2 3", condition=True),
    _unit("exp", "1", "1", expand=True),
    _unit("exp2", "1", "1 2", expand=True),
    _unit("col", "1", "1", collapse=True),
    _unit("col2", "1 2", "1", collapse=True),
    _unit("loop", "1", "1 2", loop=True),
    _unit("badloop", "1 2", "1 2 3", loop=True),
)


def _library() -> UnitLibrary:
    library = UnitLibrary(builtin=False)
    for unit in UNITS:
        library.add(unit)
    return library


def _dot(nodes: str, edges: str) -> str:
    """DOT text of `name=unit` pairs (the name alone means a unit of that name) and `a:1>b:1` links."""
    lines = []
    for entry in nodes.split():
        name, _, unit = entry.partition("=")
        kind = f"type={unit}" if unit in ("input", "output") else f"type=flowunit, flowunit={unit or name}"
        lines.append(f'"{name}" [{kind}]')
    lines += [edge.replace(">", " -> ") for edge in edges.split()]
    return "digraph {\n" + "\n".join(lines) + "\n}"


def _check(nodes: str, edges: str, *, strict: bool = True) -> Checked:
    return check_flow(FlowDocument(dot=_dot(nodes, edges), strict=strict), _library())


def _messages(checked: Checked) -> str:
    return "\n".join(problem.sentence for problem in checked.problems)


LEGAL = {
    "M1 diamond": ("a=source b=fork c=pass d=pass e=join f=sink", "a:1>b:1 b:1>c:1 b:2>d:1 c:1>e:1 d:1>e:2 e:1>f:1"),
    "M1 fan-out of one port": ("a=source b=pass c=pass d=sink2", "a:1>b:1 a:1>c:1 b:1>d:1 c:1>d:2"),
    "M1 two inputs of the flow": ("a=input b=input c=join d=output", "a>c:1 b>c:2 c:1>d"),
    "M2 merge": ("a=source i=if c=pass d=pass e=sink", "a:1>i:1 i:1>c:1 i:2>d:1 c:1>e:1 d:1>e:1"),
    "M2 merge straight from the condition": ("a=source i=if e=sink", "a:1>i:1 i:1>e:1 i:2>e:1"),
    "M2 merge of three": (
        "a=source i=if3 c=pass d=pass e=sink",
        "a:1>i:1 i:1>c:1 i:2>d:1 i:3>e:1 c:1>e:1 d:1>e:1",
    ),
    "M2 merge of two of three": (
        "a=source i=if3 c=pass e=sink x=sink",
        "a:1>i:1 i:1>c:1 c:1>e:1 i:2>e:1 i:3>x:1",
    ),
    "M4 both ports fed by the same branch": (
        "a=source i=if c=join d=sink",
        "a:1>i:1 i:1>c:1 i:1>c:2 i:2>d:1 c:1>d:1",
    ),
    "M5 past the whole condition": (
        "a=source2 i=if c=pass d=pass e=sink2",
        "a:1>i:1 i:1>c:1 i:2>d:1 c:1>e:1 d:1>e:1 a:2>e:2",
    ),
    "M6 branches with sinks of their own": ("a=source i=if x=sink y=sink", "a:1>i:1 i:1>x:1 i:2>y:1"),
    "M7 the merge is a condition": (
        "a=source i=if e=if x=sink y=sink",
        "a:1>i:1 i:1>e:1 i:2>e:1 e:1>x:1 e:2>y:1",
    ),
    "M7 the merge is an expand": ("a=source i=if e=exp x=sink", "a:1>i:1 i:1>e:1 i:2>e:1 e:1>x:1"),
    "M7 the merge is a collapse": (
        "a=source e=exp i=if c=col x=sink",
        "a:1>e:1 e:1>i:1 i:1>c:1 i:2>c:1 c:1>x:1",
    ),
    "M8 nested conditions": (
        "a=source i=if j=if c=pass d=pass f=pass g=sink h=pass",
        "a:1>i:1 i:1>j:1 j:1>c:1 j:2>d:1 c:1>f:1 d:1>f:1 f:1>g:1 i:2>h:1 h:1>g:1",
    ),
    "M9 expand without collapse": ("a=source e=exp x=sink", "a:1>e:1 e:1>x:1"),
    "M10 expand and collapse": ("a=source e=exp p=pass c=col x=sink", "a:1>e:1 e:1>p:1 p:1>c:1 c:1>x:1"),
    "M11 one expand above fork and join": (
        "a=source e=exp f=fork j=join c=col x=sink",
        "a:1>e:1 e:1>f:1 f:1>j:1 f:2>j:2 j:1>c:1 c:1>x:1",
    ),
    "M12 one collapse for both": ("a=source e=exp2 c=col2 x=sink", "a:1>e:1 e:1>c:1 e:2>c:2 c:1>x:1"),
    "M12 a collapse for each": (
        "a=source e=exp2 c=col d=col j=sink2",
        "a:1>e:1 e:1>c:1 e:2>d:1 c:1>j:1 d:1>j:2",
    ),
    "M14 level restored": ("a=source2 e=exp c=col x=sink2", "a:1>e:1 e:1>c:1 c:1>x:1 a:2>x:2"),
    "nested expands": (
        "a=source e=exp f=exp c=col d=col x=sink",
        "a:1>e:1 e:1>f:1 f:1>c:1 c:1>d:1 d:1>x:1",
    ),
    "expand and collapse inside a branch": (
        "a=source i=if e=exp c=col x=sink",
        "a:1>i:1 i:1>e:1 e:1>c:1 c:1>x:1 i:2>x:1",
    ),
    "M15 loop": ("a=source l=loop p=pass x=sink", "a:1>l:1 l:1>p:1 p:1>l:1 l:2>x:1"),
    "M15 loop by the other port": ("a=source l=loop p=pass x=sink", "a:1>l:1 l:2>p:1 p:1>l:1 l:1>x:1"),
    "M15 empty body": ("a=source l=loop x=sink", "a:1>l:1 l:1>l:1 l:2>x:1"),
    "M15 condition inside": (
        "a=source l=loop i=if p=pass x=sink",
        "a:1>l:1 l:1>i:1 i:1>p:1 i:2>p:1 p:1>l:1 l:2>x:1",
    ),
    "M16 two loops in a row": (
        "a=source l=loop p=pass m=loop q=pass x=sink",
        "a:1>l:1 l:1>p:1 p:1>l:1 l:2>m:1 m:1>q:1 q:1>m:1 m:2>x:1",
    ),
    "M16 nested loops": (
        "a=source l=loop m=loop q=pass x=sink",
        "a:1>l:1 l:1>m:1 m:1>q:1 q:1>m:1 m:2>l:1 l:2>x:1",
    ),
    "after a loop the level is the same": (
        "a=source2 l=loop p=pass x=sink2",
        "a:1>l:1 l:1>p:1 p:1>l:1 l:2>x:1 a:2>x:2",
    ),
    "output in a branch": ("a=input i=if x=output y=sink", "a>i:1 i:1>x i:2>y:1"),
    "merge on an output": ("a=input i=if x=output", "a>i:1 i:1>x i:2>x"),
}

ILLEGAL = {
    "M1 expand on one way": (
        "a=source f=fork e=exp j=sink2",
        "a:1>f:1 f:1>e:1 e:1>j:1 f:2>j:2",
        "j",
        "different level links",
    ),
    "M1 no common source": ("a=source b=source j=sink2", "a:1>j:1 b:1>j:2", "j", "LeastCommonAncestors"),
    "M2 fan-out into one port": (
        "a=source f=fork c=pass d=pass e=sink",
        "a:1>f:1 f:1>c:1 f:2>d:1 c:1>e:1 d:1>e:1",
        "e",
        "match at c",
    ),
    "M2 two ports of an ordinary node": ("a=source2 e=sink", "a:1>e:1 a:2>e:1", "e", "match at a"),
    "M2 a branch and what is outside": (
        "a=source2 i=if e=sink x=sink",
        "a:1>i:1 i:1>e:1 a:2>e:1 i:2>x:1",
        "e",
        "port match failed",
    ),
    "M2 branches of two conditions": (
        "a=source2 i=if k=if e=sink x=sink y=sink",
        "a:1>i:1 a:2>k:1 i:1>e:1 k:1>e:1 i:2>x:1 k:2>y:1",
        "e",
        "port match failed",
    ),
    "M3 the same branch by two ways": (
        "a=source i=if c=pass d=pass e=sink",
        "a:1>i:1 i:1>c:1 i:1>d:1 c:1>e:1 d:1>e:1 i:2>e:1",
        "e",
        "gets here twice",
    ),
    "M4 branches on different ports": (
        "a=source i=if f=sink2",
        "a:1>i:1 i:1>f:1 i:2>f:2",
        "f",
        "different level links",
    ),
    "M4 merged in two steps": (
        "a=source i=if3 c=pass e=sink",
        "a:1>i:1 i:1>c:1 i:2>c:1 c:1>e:1 i:3>e:1",
        "e",
        "merged before",
    ),
    "M5 from outside into a branch": (
        "a=source2 i=if c=join x=sink y=sink",
        "a:1>i:1 i:1>c:1 a:2>c:2 c:1>x:1 i:2>y:1",
        "c",
        "different level links",
    ),
    "M8 inner branch into the outer branch": (
        "a=source i=if j=if z=sink y=sink",
        "a:1>i:1 i:1>j:1 j:1>y:1 j:2>z:1 i:2>z:1",
        "z",
        "port match failed",
    ),
    "M8 all into one port": (
        "a=source i=if j=if z=sink",
        "a:1>i:1 i:1>j:1 j:1>z:1 j:2>z:1 i:2>z:1",
        "z",
        "port match failed",
    ),
    "M10 collapse without expand": ("a=source c=col x=sink", "a:1>c:1 c:1>x:1", "c", "can't find a expand node for c"),
    "M10 collapse inside an open branch": (
        "a=source e=exp i=if c=col x=sink y=sink",
        "a:1>e:1 e:1>i:1 i:1>c:1 c:1>x:1 i:2>y:1",
        "c",
        "can't find a expand node for c",
    ),
    "M10 collapsed twice": ("a=source e=exp c=col d=col x=sink", "a:1>e:1 e:1>c:1 c:1>d:1 d:1>x:1", "d", "expand"),
    "M11 an expand in each branch": (
        "a=source f=fork e=exp g=exp j=join c=col x=sink",
        "a:1>f:1 f:1>e:1 f:2>g:1 e:1>j:1 g:1>j:2 j:1>c:1 c:1>x:1",
        "j",
        "unmatch expands are not the same.",
    ),
    "M12 one branch collapsed": (
        "a=source e=exp2 c=col j=sink2",
        "a:1>e:1 e:1>c:1 c:1>j:1 e:2>j:2",
        "j",
        "different level links",
    ),
    "M13 across, into the bracket": (
        "a=source2 e=exp p=join c=col x=sink",
        "a:1>e:1 e:1>p:1 a:2>p:2 p:1>c:1 c:1>x:1",
        "p",
        "different level links",
    ),
    "M13 across, out of the bracket": (
        "a=source e=exp p=fork c=col x=sink2",
        "a:1>e:1 e:1>p:1 p:1>c:1 c:1>x:1 p:2>x:2",
        "x",
        "different level links",
    ),
    "M15 side exit": (
        "a=source l=loop p=fork x=sink y=sink",
        "a:1>l:1 l:1>p:1 p:1>l:1 p:2>y:1 l:2>x:1",
        "y",
        "different level links",
    ),
    "M15 body matched with outside": (
        "a=source2 l=loop p=join x=sink",
        "a:1>l:1 l:1>p:1 a:2>p:2 p:1>l:1 l:2>x:1",
        "p",
        "different level links",
    ),
    "M15 open bracket comes back": (
        "a=source l=loop e=exp x=sink",
        "a:1>l:1 l:1>e:1 e:1>l:1 l:2>x:1",
        "l",
        "comes back",
    ),
    "outputs in step at different levels": (
        "a=input i=if x=output y=output",
        "a>i:1 i:1>x i:2>y",
        "y",
        "output_type=unmatch",
    ),
}


@pytest.mark.parametrize("name", LEGAL)
def test_a_legal_structure_is_taken(name: str) -> None:
    checked = _check(*LEGAL[name])
    assert _messages(checked) == ""
    structure = checked.graph.structure
    assert structure is not None
    assert set(structure.order) == set(checked.graph.nodes) == set(structure.levels)
    places = {node: at for at, node in enumerate(structure.order)}
    for edge in checked.graph.edges:
        assert edge.target in structure.loops or places[edge.source] < places[edge.target]


@pytest.mark.parametrize("name", ILLEGAL)
def test_an_illegal_structure_is_refused_at_its_node_with_place_and_code(name: str) -> None:
    nodes, edges, node, words = ILLEGAL[name]
    checked = _check(nodes, edges)
    assert checked.graph.structure is None
    assert [problem.node for problem in checked.problems] == [node]
    (problem,) = checked.problems
    assert words in problem.sentence
    assert problem.code is StatusCode.STATUS_BADCONF
    assert problem.chain.startswith("Bad config, check graph failed, please check graph config. -> ")
    assert problem.port or node == "a"
    assert problem.position is not None and problem.excerpt().endswith("^")


def test_the_structure_says_what_closes_what() -> None:
    structure = _check(
        "a=source2 e=exp i=if c=col l=loop p=pass x=sink2",
        "a:1>e:1 e:1>i:1 i:1>c:1 i:2>c:1 c:1>l:1 l:2>p:1 p:1>l:1 l:1>x:1 a:2>x:2",
    ).graph.structure
    assert structure is not None
    assert structure.merges == {("c", "1"): "i"}
    assert structure.collapses == {"c": "e"}
    assert structure.loops == {"l": ("2", "1")}
    assert [str(level) for level in structure.levels["i"]] == ["expand 'e'", "source 'a'"]
    assert [level.bracket for level in structure.levels["p"]] == [Bracket.LOOP, Bracket.SOURCE]
    assert structure.levels["x"] is structure.levels["e"]
    assert structure.levels["i"].node == structure.levels["c"].node == "e"


FAULTS = [
    ("x=none y=sink", "x:1>y:1", StatusCode.STATUS_NOTFOUND, "x", "can not find flowunit [type: any, name:none]"),
    ("x=sourc y=sink", "x:1>y:1", StatusCode.STATUS_NOTFOUND, "x", "did you mean 'source'"),
    ("x=source y=sink", "x:0>y:1", StatusCode.STATUS_BADCONF, "x", "has no output port '0'"),
    ("x=source y=sink", "x:1>y:2", StatusCode.STATUS_BADCONF, "y", "has no input port '2'"),
    ("x=source y=sink", "x>y:1", StatusCode.STATUS_BADCONF, "x", "write x:1"),
    ("x=source2 y=sink", "x:1>y:1", StatusCode.STATUS_BADCONF, "x", "output port '2' is not connected"),
    ("x=source y=sink2", "x:1>y:1", StatusCode.STATUS_BADCONF, "y", "input port '2' is not connected"),
    ("x=source y=sink z=pass", "x:1>y:1", StatusCode.STATUS_BADCONF, "z", "orphan node: 'z', use graph.strict=false"),
    ("x=source y=sink", "x:1>yy:1", StatusCode.STATUS_NOTSUPPORT, "yy", "did you mean 'y'?"),
    ("", "", StatusCode.STATUS_BADCONF, "", "graph is empty, no node."),
    ("a=source b=sink c=source d=sink", "a:1>b:1 c:1>d:1", StatusCode.STATUS_BADCONF, "c", "not all node union."),
    ("a=pass b=pass", "a:1>b:1 b:1>a:1", StatusCode.STATUS_BADCONF, "a", "start node is not exist."),
    ("a=source b=join c=fork d=sink", "a:1>b:1 b:1>c:1 c:1>b:2 c:2>d:1", StatusCode.STATUS_BADCONF, "b", "b -> c -> b"),
    ("a=source l=loop x=sink y=sink", "a:1>l:1 l:1>x:1 l:2>y:1", StatusCode.STATUS_BADCONF, "l", "link 2 edges."),
    (
        "a=source2 l=badloop x=sink y=sink z=sink",
        "a:1>l:1 a:2>l:2 l:1>x:1 l:2>y:1 l:3>z:1",
        StatusCode.STATUS_FAULT,
        "l",
        "loop node input should be one.",
    ),
    (
        "a=source2 l=badloop x=sink y=sink z=sink",
        "a:1>l:1 a:2>l:2 l:1>x:1 l:2>y:1 l:3>z:1",
        StatusCode.STATUS_FAULT,
        "l",
        "loop node output shoulde be two.",
    ),
    (
        "a=source l=loop s=stream x=sink",
        "a:1>l:1 l:1>s:1 s:1>l:1 l:2>x:1",
        StatusCode.STATUS_FAULT,
        "s",
        "loop node s can not be stream node.",
    ),
    ("a=input b=sink c=source", "a>b:1 c:1>a", StatusCode.STATUS_BADCONF, "a", "can't lead into input node"),
    ("a=source b=output c=sink", "a:1>b b>c:1", StatusCode.STATUS_BADCONF, "b", "can't come out of output node"),
]


@pytest.mark.parametrize(("nodes", "edges", "code", "node", "words"), FAULTS)
def test_a_fault_has_its_code_and_names_its_node(
    nodes: str, edges: str, code: StatusCode, node: str, words: str
) -> None:
    found = [problem for problem in _check(nodes, edges).problems if words in problem.sentence]
    assert [(problem.code, problem.node) for problem in found] == [(code, node)]


def test_a_loop_without_an_exit_is_refused() -> None:
    checked = _check("a=source l=loop j=join", "a:1>l:1 l:1>j:1 l:2>j:2 j:1>l:1")
    assert [problem.message for problem in checked.problems] == ["loop node 'l' has no output that leaves the loop"]


def test_all_the_faults_are_found_at_once() -> None:
    checked = _check("a=sourc b=pass c=sink2 d=nothing", "a:1>b:1 b:7>c:1 c:1>d:1 b:1>e:1")
    assert {problem.node for problem in checked.problems} == {"a", "b", "c", "d", "e"}


ATTRIBUTES = [
    ('flowunit=source, queue_size=0', StatusCode.STATUS_INVALID, "queue_size"),
    ('flowunit=source, batch_size="-1"', StatusCode.STATUS_INVALID, "batch_size"),
    ('flowunit=source, batch_size=many', StatusCode.STATUS_INVALID, "batch_size"),
    ('flowunit=source, queue_size_1="²"', StatusCode.STATUS_INVALID, "queue_size_1"),
    ('flowunit=source, queue_size=99999999999', StatusCode.STATUS_INVALID, "queue_size"),
    ('flowunit=source, device="!"', StatusCode.STATUS_BADCONF, "device"),
    ('type=flowunit', StatusCode.STATUS_INVALID, "flowunit name is empty."),
    ('type=flow, flowunit=source', StatusCode.STATUS_NOTSUPPORT, "unsupport node type. name: 'a' type: 'flow'"),
    ('flowunit=source, device=cuda', StatusCode.STATUS_NOTFOUND, "[type: cuda, name:source]"),
]  # fmt: skip


@pytest.mark.parametrize(("attributes", "code", "words"), ATTRIBUTES)
def test_a_wrong_attribute_is_refused(attributes: str, code: StatusCode, words: str) -> None:
    dot = f"digraph {{ a[{attributes}]; b[flowunit=sink]; a:1 -> b:1 }}"
    problems = check_flow(FlowDocument(dot=dot), _library()).problems
    assert [(problem.code, problem.node) for problem in problems] == [(code, "a")]
    assert words in problems[0].message


def test_a_wrong_output_type_is_refused() -> None:
    dot = "digraph { a[type=input]; b[type=output, output_type=both]; a -> b }"
    (problem,) = check_flow(FlowDocument(dot=dot), _library()).problems
    assert (problem.code, problem.message[:19]) == (StatusCode.STATUS_INVALID, "Invalid Output Type")


def test_unstrict_graphs_leave_out_what_they_do_not_know() -> None:
    dot = "digraph { a[flowunit=source]; b[flowunit=sink]; x[flowunit=pass]; y[type=odd]; a:1 -> b:1; a:1 -> y:1 }"
    checked = check_flow(FlowDocument(dot=dot, strict=False), _library())
    assert (checked.problems, list(checked.graph.nodes)) == ((), ["a", "b"])


def test_nodes_take_over_what_the_graph_says_unless_they_say_otherwise() -> None:
    dot = (
        "digraph { queue_size=9; batch_size=4; a[flowunit=source]; b[flowunit=sink, batch_size=16, queue_size_1=3];"
        " c[flowunit=if]; a:1 -> b:1; a:1 -> c:1; c:1 -> d:1; c:2 -> e:1; d[flowunit=stream]; e[flowunit=sink];"
        " d:1 -> f; f[type=output] }"
    )
    nodes = check_flow(FlowDocument(dot=dot, defaults={"queue_size": "5"}), _library()).graph.nodes
    assert [nodes[name].batch_size for name in "abc"] == [4, 16, 1]
    assert (nodes["a"].queue_size(""), nodes["b"].queue_size("1"), nodes["b"].queue_size("2")) == (9, 3, 9)
    assert nodes["a"].queue_size_event == 9
    assert nodes["a"].queue_size_external == 1024


def test_batches_have_their_defaults() -> None:
    graph = _check("a=source s=stream p=pass x=sink", "a:1>s:1 s:1>p:1 p:1>x:1").graph
    assert [graph.nodes[name].batch_size for name in "asp"] == [8, 1, 8]


def test_arguments_stand_in_for_options() -> None:
    text = '[graph]\nformat = "graphviz"\ngraphconf = """%s"""\n[args.who]\ndefault = "all"\n[args.what]\n'
    dot = 'digraph { a[flowunit=source, x="$who", y="$what", z="a$who"]; b[flowunit=sink]; a:1 -> b:1 }'
    document = parse_document(text % dot)
    node = check_flow(document, _library(), {"what": "it"}).graph.nodes["a"]
    assert [node.attributes[key] for key in "xyz"] == ["all", "it", "a$who"]
    (problem,) = check_flow(document, _library()).problems
    assert "needs argument 'what'" in problem.message
    (problem,) = check_flow(document, _library(), {"what": "it", "whoo": "me"}).problems
    assert problem.sentence == "the flow has no argument 'whoo' (did you mean 'who'?)"


def test_a_dollar_is_a_character_where_there_are_no_arguments() -> None:
    dot = 'digraph { a[flowunit=source, x="$who"]; b[flowunit=sink]; a:1 -> b:1 }'
    checked = check_flow(FlowDocument(dot=dot), _library())
    assert (checked.problems, checked.graph.nodes["a"].attributes["x"]) == ((), "$who")


def test_a_misspelt_option_is_a_warning() -> None:
    library = UnitLibrary(builtin=True)
    dot = "digraph { a[flowunit=httpserver_sync_receive, max_request=3, shape=box]; b[flowunit=httpserver_sync_reply];"
    checked = check_flow(FlowDocument(dot=dot + " a:out_request_info -> b:in_reply_info }"), library)
    assert checked.problems == ()
    assert [warning.hint for warning in checked.warnings] == ["did you mean 'max_requests'?"]


def test_the_graph_of_the_seed_document_is_taken() -> None:
    lines = [
        " digraph demo { ",
        "          httpserver_sync_receive[type=flowunit, flowunit=httpserver_sync_receive, device=cpu, deviceid=0, "
        'label="<Out_1>", request_url="http://localhost:54321/example", max_requests=10, time_out=5]',
        "          httpserver_sync_reply[type=flowunit, flowunit=httpserver_sync_reply, device=cpu, deviceid=0, "
        'label="<In_1>"]',
        "          httpserver_sync_receive:out_request_info -> httpserver_sync_reply:in_reply_info",
        "  }",
    ]
    dot = "\n".join(lines)
    checked = check_flow(FlowDocument(dot=dot), UnitLibrary())
    assert (checked.problems, checked.warnings) == ((), ())
    assert checked.graph.name == "demo"


def test_a_fault_in_a_toml_document_points_into_the_document() -> None:
    text = '[graph]\nformat = "graphviz"\ngraphconf = """digraph demo { x[flowunit=none]\n  x:1 -> y:1\n}"""\n'
    problems = check_flow(parse_document(text, file="f.toml"), _library()).problems
    places = {problem.node: problem.where for problem in problems}
    assert places == {"x": "f.toml:3:31", "y": "f.toml:4:10"}
    for problem in problems:
        assert problem.position is not None
        row, caret = problem.excerpt().split("\n")
        assert row == text.split("\n")[problem.position.line - 1]
        assert row[caret.index("^")] == problem.node


def test_a_fault_in_an_array_of_lines_points_into_the_graph() -> None:
    graph = '{"graph": {"format": "graphviz", "graphconf": ["digraph {", " x[flowunit=\\"none\\"]", " x:1->x:1 }"]}}'
    problem = check_flow(parse_document(graph, file="f.json"), _library()).problems[0]
    assert problem.where == "f.json:graphconf:2:2"


def test_text_that_is_no_graph_is_one_problem() -> None:
    checked = check_flow(FlowDocument(dot="digraph {\n a -> }"), _library())
    (problem,) = checked.problems
    assert (problem.code, problem.where) == (StatusCode.STATUS_FAULT, "graphconf:2:7")
    with pytest.raises(BadFlow, match="expected a node"):
        checked.raise_problems()


def test_an_undirected_graph_is_refused() -> None:
    checked = check_flow(FlowDocument(dot="graph { a[flowunit=source]; b[flowunit=sink]; a:1 -- b:1 }"), _library())
    assert [problem.message for problem in checked.problems] == ["the graph has no direction"]


def test_the_count_of_problems_is_bounded() -> None:
    dot = "digraph {" + "".join(f"a{n}[flowunit=none{n}] a{n}:1 -> b{n}:1\n" for n in range(500)) + "}"
    assert 100 <= len(check_flow(FlowDocument(dot=dot), _library()).problems) <= 200


@pytest.mark.parametrize("unit", ["pass", "exp", "if"])
def test_deep_and_wide_graphs_are_no_trouble(unit: str) -> None:
    size, other = 1200, ""
    if unit == "if":
        other = "".join(f"x{n}[flowunit=sink] n{n}:2 -> x{n}:1\n" for n in range(size))
    nodes = "".join(f"n{n}[flowunit={unit}] " for n in range(size))
    links = "".join(f"n{n}:1 -> n{n + 1}:1\n" for n in range(size - 1))
    dot = f"digraph {{ a[flowunit=source] z[flowunit=sink] a:1 -> n0:1 {nodes}{links}{other} n{size - 1}:1 -> z:1 }}"
    checked = check_flow(FlowDocument(dot=dot), _library())
    assert checked.problems == ()
    assert checked.graph.structure is not None
    assert checked.graph.structure.levels["z"].depth == (0 if unit == "pass" else size)
