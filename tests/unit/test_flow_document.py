"""Flow documents: what TOML and JSON come to, and every wrong shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runyard.flow.document import MAX_BYTES, Argument, FlowDocument, build_document, load_document, parse_document
from runyard.flow.problem import BadFlow
from runyard.flow.status import StatusCode

DOT = "digraph { a -> b }"
GRAPH = {"format": "graphviz", "graphconf": DOT}


def _problems(tree: object, **options: Any) -> list[tuple[StatusCode, str]]:
    with pytest.raises(BadFlow) as caught:
        build_document(tree, **options)
    return [(problem.code, problem.message) for problem in caught.value.problems]


def test_a_document_has_all_its_sections() -> None:
    document = parse_document(
        """
        [driver]
        dir = ["units", "/opt/units", ""]
        skip-default = true
        [flow]
        name = "demo"
        desc = "What it does"
        version = "1.2.3"
        [graph]
        format = "graphviz"
        graphconf = ["digraph {", "  a -> b", "}"]
        strict = false
        queue_size = 64
        batch_size = "8"
        thread-num = 4
        [log]
        level = "DEBUG"
        [profile]
        profile = true
        trace = true
        dir = "/tmp/perf"
        [args.model]
        default = 3
        desc = "Which"
        [args.other]
        """,
        file="/srv/flow.toml",
    )
    assert document.dot == "digraph {\n  a -> b\n}"
    assert document.directories == ("/srv/units", "/opt/units")
    assert (document.skip_default, document.strict, document.threads) == (True, False, 4)
    assert (document.name, document.description, document.version) == ("demo", "What it does", "1.2.3")
    assert document.defaults == {"queue_size": "64", "batch_size": "8"}
    assert document.log_level == "DEBUG"
    assert (document.profile.performance, document.profile.trace, document.profile.session) == (True, True, False)
    assert document.profile.directory == "/tmp/perf"
    assert document.arguments == {"model": Argument("model", "3", "Which"), "other": Argument("other")}


@pytest.mark.parametrize("form", ["", "json"])
def test_json_comes_to_the_same(form: str) -> None:
    tree = {"driver": {"dir": "/usr/local/lib/"}, "graph": GRAPH, "flow": None}
    document = parse_document(json.dumps(tree), form)
    assert (document.dot, document.directories) == (DOT, ("/usr/local/lib",))


def test_the_least_document_is_taken() -> None:
    assert build_document({"graph": GRAPH}) == FlowDocument(dot=DOT)


def test_a_byte_order_mark_is_no_part_of_a_document() -> None:
    assert parse_document("\ufeff" + json.dumps({"graph": GRAPH})).dot == DOT


WRONG = [
    ([], StatusCode.STATUS_BADCONF, "a flow is a table with [graph], not list"),
    ("x", StatusCode.STATUS_BADCONF, "a flow is a table with [graph], not str"),
    ({"graph": {"graphconf": DOT}}, StatusCode.STATUS_BADCONF, "graph.format is empty"),
    ({"graph": {**GRAPH, "format": "dot"}}, StatusCode.STATUS_NOTSUPPORT, "support type:graphviz"),
    ({"graph": {**GRAPH, "format": ["x"]}}, StatusCode.STATUS_NOTSUPPORT, "support type:graphviz"),
    ({"graph": {"format": "graphviz"}}, StatusCode.STATUS_NOTFOUND, "graph config path is null."),
    ({"graph": {**GRAPH, "graphconf": ""}}, StatusCode.STATUS_NOTFOUND, "graph config path is null."),
    ({"graph": {**GRAPH, "graphconf": 3}}, StatusCode.STATUS_BADCONF, "graph.graphconf must be a text"),
    ({"graph": {**GRAPH, "graphconf": ["a", 1]}}, StatusCode.STATUS_BADCONF, "graph.graphconf must be a text"),
    ({"graph": []}, StatusCode.STATUS_BADCONF, "[graph] must be a table, not list"),
    ({"grap": GRAPH}, StatusCode.STATUS_BADCONF, "did you mean [graph] by [grap]?"),
    ({"graph": GRAPH, "flow": {"enable": False}}, StatusCode.STATUS_PERMIT, "flow is disabled"),
    ({"graph": GRAPH, "flow": {"name": [1]}}, StatusCode.STATUS_BADCONF, "flow.name must be a text"),
    ({"graph": GRAPH, "driver": {"dir": 3}}, StatusCode.STATUS_BADCONF, "driver.dir must be"),
    ({"graph": GRAPH, "driver": {"dir": ["a\0"]}}, StatusCode.STATUS_BADCONF, "driver.dir must be"),
    ({"graph": GRAPH, "driver": {"dir": ["a"] * 65}}, StatusCode.STATUS_BADCONF, "more than 64 directories"),
    ({"graph": GRAPH, "driver": {"skip-default": 1}}, StatusCode.STATUS_BADCONF, "driver.skip-default must be true or"),
    ({"graph": {**GRAPH, "queue_size": -1}}, StatusCode.STATUS_BADCONF, "graph.queue_size must be a whole number"),
    ({"graph": {**GRAPH, "queue_size": True}}, StatusCode.STATUS_BADCONF, "graph.queue_size must be a whole number"),
    ({"graph": {**GRAPH, "batch_size": 2**31}}, StatusCode.STATUS_BADCONF, "graph.batch_size must be a whole number"),
    ({"graph": {**GRAPH, "strict": "maybe"}}, StatusCode.STATUS_BADCONF, "graph.strict must be true or false"),
    ({"graph": GRAPH, "args": {"a": 3}}, StatusCode.STATUS_BADCONF, "[args.a] must be a table"),
    ({"graph": GRAPH, "args": {"a": {"default": []}}}, StatusCode.STATUS_BADCONF, "args.a.default must be a text"),
    ({"graph": GRAPH, "profile": "x"}, StatusCode.STATUS_BADCONF, "[profile] must be a table"),
]


@pytest.mark.parametrize(("tree", "code", "words"), WRONG)
def test_a_wrong_shape_is_said(tree: object, code: StatusCode, words: str) -> None:
    assert [known for known, message in _problems(tree) if words in message] == [code]


def test_all_that_is_wrong_is_said_at_once() -> None:
    assert len(_problems({"graph": {"strict": 3}, "driver": {"dir": 3}, "flow": {"enable": False}})) == 5


TEXTS = [
    ("[graph", "toml", "f.toml:1:7"),
    ("[graph]\nformat = graphviz", "", "f.toml:2:10"),
    ('[graph]\na = "', "", "f.toml:2:6"),
    ('{"graph": {},\n x}', "", "f.toml:2:2"),
    ("{", "json", "f.toml:1:2"),
    ("x = 1", "json", "f.toml:1:1"),
    ("[" * 100_000, "json", "f.toml"),
    ('{"a": ' + "9" * 10_000 + "}", "json", "f.toml"),
    ('{"graph": "\\ud800"}', "json", "f.toml"),
    ("a = " + "[" * 10_000, "toml", "f.toml"),
    ("x" * (MAX_BYTES + 1), "", "f.toml"),
]


@pytest.mark.parametrize(("text", "form", "where"), TEXTS, ids=range(len(TEXTS)))
def test_text_that_can_not_be_read_is_one_problem_with_its_place(text: str, form: str, where: str) -> None:
    with pytest.raises(BadFlow) as caught:
        parse_document(text, form, file="f.toml")
    (problem,) = caught.value.problems
    assert problem.where == where
    assert "\n" not in str(problem)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(BadFlow, match="Unsupport graph format: yaml"):
        parse_document("x", "yaml")


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["graph", "driver", "flow", "args", "profile", "log", "format", "graphconf", "dir", "enable",
                         "strict", "queue_size", "default", "x"]), inner, max_size=4),
    max_leaves=12,
))  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_any_tree_is_a_document_or_a_bad_flow(tree: object) -> None:
    try:
        build_document(tree, files=False)
    except BadFlow as bad:
        assert bad.problems


# Files ------------------------------------------------------------------------------------------------------------


def test_the_format_of_a_file_is_its_suffix_or_its_first_character(tmp_path: Path) -> None:
    toml, text = f'[graph]\nformat = "graphviz"\ngraphconf = "{DOT}"', json.dumps({"graph": GRAPH})
    for name, content in (("a.toml", toml), ("a.json", text), ("flow1", toml), ("flow2", text), ("a.dot", DOT)):
        (tmp_path / name).write_text(content)
        document = load_document(tmp_path / name)
        assert (document.dot, document.file) == (DOT, str(tmp_path / name))


def test_the_graph_may_lie_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "g.dot").write_text(DOT)
    tree = {"graph": {"format": "graphviz", "graphconffilepath": "g.dot"}}
    file = str(tmp_path / "flow.json")
    document = build_document(tree, file=file)
    assert (document.dot, document.dot_file) == (DOT, str(tmp_path / "g.dot"))
    assert _problems(tree, files=False)[0][1] == "graph.graphconffilepath is not allowed here"
    missing = {"graph": {"format": "graphviz", "graphconffilepath": "no.dot"}}
    assert _problems(missing, file=file) == [
        (StatusCode.STATUS_NOTFOUND, "graph.graphconffilepath 'no.dot': No such file or directory")
    ]


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadFlow, match="not UTF-8: byte 0xff at 0"):
        load_document(tmp_path / "a.toml")
    with pytest.raises(BadFlow, match="no regular file"):
        load_document("/dev/zero")
    with pytest.raises(OSError, match="No such file"):
        load_document(tmp_path / "none")
