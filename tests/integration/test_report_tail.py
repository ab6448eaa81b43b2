"""What is read of a run's files: lines that grow, long ones, wrong ones, lost ones; and reading on."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from runyard.message.line import MAX_LINE
from runyard.model.ids import RunKey
from runyard.model.job import JobSpec, Output, Report, ReportRule
from runyard.model.message import NewMessage
from runyard.service import linefile
from runyard.service.linefile import LineFile, Place
from runyard.service.tail import Tail, TailState
from runyard.store.output import OutputFiles, Stream

RUN = RunKey(1 << 40, 0, 1)
LOSS = Report(rules=[ReportRule(pattern=r"loss[= ](?P<loss>[0-9.]+)", category="val")])


class Rig:
    """The files of one run, and its tail."""

    def __init__(self, folder: Path, **spec: Any) -> None:
        self.output = OutputFiles(folder)
        self.output.prepare(RUN)
        self.spec = JobSpec(command=["x"], **spec)
        self.tail = Tail(RUN, self.spec, self.output, 0.0)

    def write(self, stream: str, data: bytes | str) -> None:
        path = self.output.report(RUN) if stream == "rep" else self.output.path(RUN, Stream(stream))
        with path.open("ab") as file:
            file.write(data.encode() if isinstance(data, str) else data)

    def read(self, ended: bool = False) -> list[NewMessage]:
        found: list[NewMessage] = []
        more = True
        while more:
            messages, more = self.tail.read(1000.0, ended)
            found += messages
        return found

    def again(self) -> None:
        """As after a crash of the server: what was stored is all that is known."""
        state = json.loads(self.tail.remember())
        assert isinstance(state, list)
        import msgspec

        self.tail = Tail(RUN, self.spec, self.output, 0.0, msgspec.convert(state, TailState))


def _line(**values: float) -> str:
    return json.dumps({"type": "metrics", "body": values}) + "\n"


def _values(messages: list[NewMessage]) -> list[Any]:
    return [message.body.get("values") for message in messages]


def test_reports_marked_lines_and_rules(tmp_path: Path) -> None:
    rig = Rig(tmp_path, report=LOSS)
    rig.write("rep", _line(a=1))
    rig.write("out", "@runyard " + _line(b=2) + "words\n@k12ai " + _line(c=3) + " @runyard " + _line(no=1))
    rig.write("err", "epoch 1 loss=0.5\r epoch 2 loss=0.25\r\nloss none\n@runyard " + _line(no=1))
    found = rig.read()
    assert _values(found) == [{"a": 1}, {"b": 2}, {"c": 3}, {"loss": 0.5}, {"loss": 0.25}]
    assert [message.source for message in found] == ["report", "stdout", "stdout", "rule", "rule"]
    assert found[3].body["category"] == "val"
    assert rig.read() == rig.read(ended=True) == []


def test_marked_lines_can_be_left_alone(tmp_path: Path) -> None:
    rig = Rig(tmp_path, report=Report(lines=False))
    rig.write("out", "@runyard " + _line(b=2))
    rig.write("rep", _line(a=1))
    assert _values(rig.read(ended=True)) == [{"a": 1}]


def test_a_line_counts_when_it_is_whole(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    text = "@runyard " + _line(b=2)
    for char in text[:-1]:
        rig.write("out", char)
        assert rig.read() == []
    rig.write("out", "\n@runyard " + text[9:-1])
    assert _values(rig.read()) == [{"b": 2}]
    # The program has ended: no newline will come.
    assert _values(rig.read(ended=True)) == [{"b": 2}]


def test_wrong_lines_are_counted_and_said_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    wrong = ["{", "[1]", '{"type": 7}', '{"type":"metrics","body":{"a":"b"}}', '{"type":"BAD WORD","body":{}}', "\xff"]
    rig.write("out", "".join(f"@runyard {text}\n" for text in wrong) + "@runyard " + _line(good=1))
    first, good = rig.read()
    assert (first.kind, first.body["code"]) == ("info", "bad_report")
    assert _values([good]) == [{"good": 1}]
    rig.write("out", "@k12ai nonsense\n")
    rig.again()
    (count,) = rig.read(ended=True)
    assert (count.body["code"], count.body["count"]) == ("bad_reports", len(wrong) + 1)
    assert rig.read(ended=True) == []


def test_long_lines(tmp_path: Path) -> None:
    rig = Rig(tmp_path, report=LOSS)
    rig.write("out", "x" * 3_000_000 + " loss=1 \nloss=2\n" + "loss=3" + "y" * 3_000_000)
    assert _values(rig.read()) == [{"loss": 2.0}, {"loss": 3.0}]
    rig.write("out", " loss=4 \n@runyard " + _line(after=1))
    assert _values(rig.read()) == [{"after": 1}]
    large = {"type": "log", "body": {"log": "x" * 950_000}}
    rig.write("rep", json.dumps(large) + "\n")
    assert [message.body for message in rig.read()] == [large["body"]]


def test_reports_that_are_too_large(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.write("rep", json.dumps({"type": "log", "body": {"log": "x" * 1_000_001}}) + "\n")
    rig.write("rep", "{" + "x" * (MAX_LINE + 10) + "\n" + _line(a=1))
    first, second, third = rig.read(ended=True)
    assert first.body["code"] == 100011
    assert second.body["code"] == "bad_report"
    assert _values([third]) == [{"a": 1}]


def test_what_is_given_up_is_lost_with_a_notice(tmp_path: Path) -> None:
    rig = Rig(tmp_path, output=Output(max_size=4096))
    rig.write("out", "@runyard " + _line(first=1))
    assert _values(rig.read()) == [{"first": 1}]
    rig.write("out", ("@runyard " + _line(second=2)) * 10_000)
    rig.output.trim(RUN, Stream.OUT, 4096)
    notice, *rest = rig.read()
    assert (notice.kind, notice.body["code"]) == ("info", "lost")
    assert 50 < len(rest) < 500 and {str(values) for values in _values(rest)} == {"{'second': 2}"}
    rig.write("out", "@runyard " + _line(third=3))
    assert _values(rig.read(ended=True)) == [{"third": 3}]


def test_a_program_that_empties_its_own_output_is_read_on(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.write("out", "@runyard " + _line(first=1) + "x" * 100)
    assert len(rig.read()) == 1
    rig.output.path(RUN, Stream.OUT).write_text("@runyard " + _line(b=2))
    assert _values(rig.read()) == [{"b": 2}]


def test_the_end_comes_after_what_was_printed(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.write("rep", json.dumps({"type": "status", "body": {"status": "finished"}}) + "\n")
    rig.write("out", ("@runyard " + _line(a=1)) * 5000)
    found = rig.read(ended=True)
    assert len(found) == 5001
    assert found[-1].kind == "status"


@pytest.mark.parametrize("merge", [False, True])
def test_the_error_of_a_program_that_said_nothing(tmp_path: Path, merge: bool) -> None:
    trace = "Traceback (most recent call last):\n  File \"a.py\", line 3, in f\n    x\nKeyError: 'lr'\n"
    rig = Rig(tmp_path, output=Output(merge=merge))
    rig.write("out" if merge else "err", "a word\n" + trace)
    rig.tail.crashed = True
    (error,) = rig.read(ended=True)
    assert (error.kind, error.body["status"], error.source) == ("error", "crash", "server")
    assert error.body["detail"]["traceback"] == [{"filename": "a.py", "linenum": 3, "funcname": "f", "source": "x"}]
    rig.again()
    assert rig.read(ended=True) == []


def test_an_error_is_not_said_twice(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.write("rep", json.dumps({"type": "error", "body": {"status": "crash"}}) + "\n")
    rig.write("err", 'Traceback (most recent call last):\n  File "a.py", line 3, in f\nKeyError: 1\n')
    rig.tail.crashed = True
    assert [message.source for message in rig.read(ended=True)] == ["report"]


@pytest.mark.parametrize("seed", range(5))
def test_however_it_is_cut_every_report_comes_once(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(linefile, "CHUNK", chance.choice([64, 100, 1000]))
    rig = Rig(tmp_path)
    text = b""
    for number in range(200):
        text += f"@runyard {_line(n=number)}".encode() if chance.random() < 0.5 else b"noise" * chance.randint(0, 60)
        text += b"" if text.endswith(b"\n") else b"\n"
    expected = text.count(b"@runyard")
    found: list[NewMessage] = []
    place = 0
    while place < len(text):
        size = chance.randint(1, 400)
        rig.write("out", text[place : place + size])
        place += size
        found += rig.read()
        if chance.random() < 0.3:
            rig.again()
    found += rig.read(ended=True)
    numbers = [values["n"] for values in _values(found)]
    assert len(numbers) == expected and numbers == sorted(set(numbers))


def test_what_others_write_behind_the_end_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"1\n2")
    file = LineFile(path, Place(), whole=True, trimmed=False)
    assert file.read(True).lines == [b"1", b""]
    with path.open("ab") as writer:
        writer.write(b"\n3\n")
    assert (file.read(True).lines, file.read(True).lines) == ([b"2"], [])


def test_what_is_no_file_is_empty(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        assert LineFile(path, Place(), whole=True, trimmed=False).read(True).lines == []
