"""The library of units: what a unit's TOML comes to, directories, and what happens to what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runyard.flow import unit_library
from runyard.flow.unit_file import NotAUnit, parse_unit
from runyard.flow.unit_library import OptionType, UnitInfo, UnitKind, UnitLibrary

UNIT = """
[base]
name = "{name}"
device = "{device}"
version = "1.0.0"
description = "{description}"
type = "python"
entry = "m@C"
[input]
[input.input1]
name = "in"
[output]
[output.output1]
name = "out"
"""


def _write(path: Path, name: str, device: str = "cpu", description: str = "It") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(UNIT.format(name=name, device=device, description=description))
    return path


def _parse(text: str) -> UnitInfo:
    info, problems = parse_unit(text.encode(), Path("u.toml"))
    assert problems == []
    assert info is not None
    return info


def _base(**more: object) -> str:
    given = {"name": "u", "device": "cpu", "version": "1.0.0", "description": "It", "type": "python", "entry": "m@C"}
    values = {**given, **more}
    lines = [
        f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for key, value in values.items()
    ]
    return "\n".join(["[base]", *lines]) + "\n"


def test_a_unit_has_all_its_keys() -> None:
    info = _parse(
        _base(
            group_type="Image/Scale",
            stream=False,
            expand=True,
            stream_same_count=True,
            exception_visible=True,
            is_input_contiguous="false",
            max_batch_size=16,
            default_batch_size="4",
            virtual_type="v",
        )
        + """
        [config]
        text = "a"
        count = 3
        share = 0.5
        flag = true
        list = ["a", 1]
        [input]
        input1 = {name = "a", type = "float", device = "cpu"}
        input2 = {name = "b"}
        [output.output1]
        name = "c"
        [encryption]
        rootkey = "k"
        """
    )
    assert (info.name, info.device, info.type, info.entry, info.group) == ("u", "cpu", "python", "m@C", "Image/Scale")
    assert [(port.name, port.type) for port in info.inputs] == [("a", "float"), ("b", "")]
    assert [port.name for port in info.outputs] == ["c"]
    assert (info.kind, info.stream, info.same_count, info.exception_visible) == (UnitKind.EXPAND, False, True, True)
    assert (info.input_contiguous, info.max_batch_size, info.default_batch_size) == (False, 16, 4)
    assert [(option.name, option.type, option.default) for option in info.options] == [
        ("text", OptionType.STRING, "a"),
        ("count", OptionType.INTEGER, "3"),
        ("share", OptionType.NUMBER, "0.5"),
        ("flag", OptionType.BOOL, "true"),
        ("list", OptionType.LIST, "a,1"),
    ]
    assert info.config["count"] == 3
    assert info.encryption == {"rootkey": "k"}


KINDS = [
    ({}, UnitKind.STREAM, True),
    ({"stream": False}, UnitKind.NORMAL, False),
    ({"condition": True}, UnitKind.CONDITION, False),
    ({"loop": True}, UnitKind.LOOP, False),
    ({"expand": True}, UnitKind.EXPAND, True),
    ({"collapse": True, "condition": True}, UnitKind.COLLAPSE, True),
    ({"collapse": True, "stream": False}, UnitKind.COLLAPSE, False),
]


@pytest.mark.parametrize(("flags", "kind", "stream"), KINDS)
def test_the_kind_follows_from_the_flags(flags: dict[str, bool], kind: UnitKind, stream: bool) -> None:
    info = _parse(_base(**flags))
    assert (info.kind, info.stream) == (kind, stream)


def test_empty_port_tables_mean_no_ports_and_odd_groups_are_ignored() -> None:
    info = _parse(_base(group_type="image stuff") + "[input]\n[output]\n")
    assert (info.inputs, info.outputs, info.group) == ((), (), "Generic")


BROKEN = [
    ("[base", "not valid TOML"),
    (_base(name=""), "base.name must be a text"),
    (_base(version=1), "base.version must be a text"),
    (_base(type="pyton"), "base.type 'pyton' is none of"),
    (_base(entry="m.C"), "base.entry must be module@Class"),
    (_base(entry=3), "base.entry must"),
    (_base(stream="perhaps"), "base.stream must be true or false"),
    (_base(max_batch_size=0), "base.max_batch_size must be a whole number of at least 1"),
    (_base(default_batch_size=True), "base.default_batch_size must be a whole number"),
    (_base(expand=True, collapse=True), "can't expand and collapse at once"),
    (_base() + "[input]\ninput2 = {name = 'a'}", "input.input1 must be a table with a name"),
    (_base() + "[input]\ninput1 = {}", "input.input1 must be a table with a name"),
    (_base() + "[output]\noutput1 = {name = 'a'}\noutput2 = {name = 'a'}", "output port 'a' is there twice"),
    ("config = 3\n" + _base(), "[config] must be a table"),
    ("input = []\n" + _base(), "[input] must be a table"),
    (_base(name="a" * 300), "longer than 255"),
]


@pytest.mark.parametrize(("text", "words"), BROKEN, ids=[words for _, words in BROKEN])
def test_a_broken_unit_is_a_problem_and_no_crash(text: str, words: str) -> None:
    info, problems = parse_unit(text.encode(), Path("u.toml"))
    assert info is None
    assert any(words in problem.message and problem.file == "u.toml" for problem in problems), problems


@given(st.binary(max_size=60), st.sampled_from(["", "[base]\n", "[base]\nname = 'x'\n[input]\n"]))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_a_unit_a_problem_or_no_unit(raw: bytes, before: str) -> None:
    try:
        info, problems = parse_unit(before.encode() + raw, Path("u.toml"))
    except NotAUnit:
        return
    assert (info is None) == bool(problems)


# Directories ------------------------------------------------------------------------------------------------------


def test_units_are_found_below_directories(tmp_path: Path) -> None:
    _write(tmp_path / "a/deep/down/u.toml", "one")
    _write(tmp_path / "a/v.toml", "two")
    _write(tmp_path / "a/.git/u.toml", "hidden")
    _write(tmp_path / "a/site-packages/u.toml", "installed")
    (tmp_path / "a/flow.toml").write_text('[graph]\nformat = "graphviz"\n')
    (tmp_path / "a/project.toml").write_text('[project]\nname = "x"\n')
    (tmp_path / "a/note.txt").write_text("[base]")
    library = UnitLibrary.load([tmp_path / "a", ""], builtin=False)
    assert (library.names(), library.problems) == (["one", "two"], [])
    found = library.find("one")
    assert found is not None and found.directory == tmp_path / "a/deep/down"


def test_the_first_unit_of_a_name_stays(tmp_path: Path) -> None:
    _write(tmp_path / "b/u.toml", "u", description="second directory")
    first = _write(tmp_path / "a/1.toml", "u", description="first")
    _write(tmp_path / "a/2.toml", "u", description="second file")
    _write(tmp_path / "a/3.toml", "u", device="cuda", description="other device")
    _write(tmp_path / "a/4.toml", "resize", description="mine")
    library = UnitLibrary.load([tmp_path / "a", tmp_path / "b"])
    found = library.find("u")
    assert found is not None and found.description == "first"
    assert library.devices("u") == ["cpu", "cuda"]
    assert [problem.file for problem in library.problems] == [str(tmp_path / "a/2.toml"), str(tmp_path / "b/u.toml")]
    assert all(str(first) in problem.message for problem in library.problems)
    mine = library.find("resize")
    assert mine is not None and mine.description == "mine"


def test_a_directory_given_twice_is_read_once(tmp_path: Path) -> None:
    _write(tmp_path / "u.toml", "u")
    (tmp_path / "link.toml").symlink_to(tmp_path / "u.toml")
    assert UnitLibrary.load([tmp_path, tmp_path], builtin=False).problems == []


def test_what_can_not_be_read_is_a_problem_and_the_rest_is_there(tmp_path: Path) -> None:
    _write(tmp_path / "good.toml", "good")
    (tmp_path / "bad.toml").write_text("[base]\nname = 'bad\n")
    (tmp_path / "gone.toml").symlink_to(tmp_path / "nowhere")
    library = UnitLibrary.load([tmp_path / "none", tmp_path], builtin=False)
    assert library.names() == ["good"]
    assert [problem.file for problem in library.problems] == [
        str(tmp_path / "none"), str(tmp_path / "bad.toml"), str(tmp_path / "gone.toml"),
    ]  # fmt: skip


def test_a_directory_without_end_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_library, "MAX_ENTRIES", 5)
    for number in range(6):
        _write(tmp_path / f"{number}.toml", f"u{number}")
    library = UnitLibrary.load([tmp_path], builtin=False)
    assert "has more than 5 entries" in library.problems[0].message


def test_the_cpu_comes_first_where_no_device_is_asked_for() -> None:
    library = UnitLibrary(builtin=False)
    for device in ("cuda", "ascend"):
        library.add(UnitInfo("u", device=device))
    assert (library.find("u") or UnitInfo("")).device == "ascend"
    library.add(UnitInfo("u"))
    assert (library.find("u") or UnitInfo("")).device == "cpu"
    assert library.find("u", "rockchip") is None
    assert library.find("v") is None


def test_names_that_look_alike_are_found() -> None:
    assert UnitLibrary().nearest("Image_decodr")[0] == "image_decoder"
    assert UnitLibrary().nearest("\0" * 10_000) == []


def test_every_built_in_unit_is_what_it_says() -> None:
    library = UnitLibrary()
    assert {"httpserver_sync_receive", "httpserver_sync_reply", "httpserver_async"} <= set(library.names())
    for info in library:
        assert info.name in library
        assert info.description, info.name
        assert info.version == "1.0.0"
        names = [port.name for port in (*info.inputs, *info.outputs)]
        assert len(set(names)) == len(names)
        for option in info.options:
            assert option.description, (info.name, option.name)
            assert not option.values or not option.default or option.default in option.values
