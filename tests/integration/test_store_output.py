"""Output files on disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runyard.model.ids import JobIds, RunKey
from runyard.store import output
from runyard.store.output import OutputFiles, Stream
from tests.integration.store_rig import T0

RUN = RunKey(JobIds(generator=5).next(T0), 0, 1)


@pytest.fixture
def outputs(tmp_path: Path) -> OutputFiles:
    return OutputFiles(tmp_path / "output")


def write(outputs: OutputFiles, data: bytes, run: RunKey = RUN, stream: Stream = Stream.OUT) -> Path:
    outputs.prepare(run)
    path = outputs.path(run, stream)
    path.write_bytes(data)
    return path


def test_prepared_paths_are_absolute_and_in_a_folder_that_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outputs = OutputFiles(Path("relative"))
    paths = outputs.prepare(RUN)
    for path, stream in zip(paths, Stream, strict=True):
        assert os.path.isabs(path)
        assert os.path.isdir(os.path.dirname(path))
        assert Path(path) == tmp_path / outputs.path(RUN, stream)
        assert os.path.basename(path) == f"{RUN.job}.0.1.{stream}"


def test_a_missing_file_is_empty(outputs: OutputFiles) -> None:
    assert outputs.size(RUN, Stream.ERR) == 0
    assert outputs.read(RUN, Stream.ERR) == b""
    assert outputs.tail(RUN, Stream.ERR, 10) == 0
    outputs.remove([RUN])
    assert list(outputs.walk()) == []


def test_reading_by_offset(outputs: OutputFiles) -> None:
    write(outputs, b"0123456789")
    assert outputs.size(RUN, Stream.OUT) == 10
    assert outputs.read(RUN, Stream.OUT, 3, 4) == b"3456"
    assert outputs.read(RUN, Stream.OUT, 8, 100) == b"89"
    assert outputs.read(RUN, Stream.OUT, 11, 5) == b""
    assert outputs.read(RUN, Stream.ERR) == b""
    with pytest.raises(ValueError, match="must not be negative"):
        outputs.read(RUN, Stream.OUT, -1)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.lists(st.sampled_from([b"\n", b"a", b"bc", b"\n\n", b"long line " * 3])).map(b"".join),
    lines=st.integers(0, 8),
    chunk=st.integers(1, 40),
)
def test_the_tail_begins_where_its_lines_begin(outputs: OutputFiles, data: bytes, lines: int, chunk: int) -> None:
    write(outputs, data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "CHUNK", chunk)
        offset = outputs.tail(RUN, Stream.OUT, lines)
    kept = data.split(b"\n")
    parts = [part + b"\n" for part in kept[:-1]] + ([kept[-1]] if kept[-1] else [])
    assert data[offset:] == b"".join(parts[len(parts) - lines :] if lines < len(parts) else parts)


def test_the_tail_of_a_huge_file_looks_at_its_end_only(outputs: OutputFiles) -> None:
    path = write(outputs, b"first\n")
    huge = 1 << 40
    os.truncate(path, huge)  # sparse: a line without end
    assert outputs.tail(RUN, Stream.OUT, 1) == huge - output.TAIL_LIMIT
    with path.open("r+b") as file:
        file.seek(huge - 6)
        file.write(b"\nlast\n")
    assert outputs.tail(RUN, Stream.OUT, 1) == huge - 5
    assert outputs.read(RUN, Stream.OUT, huge - 5) == b"last\n"


def test_no_folder_holds_more_than_about_a_minute(outputs: OutputFiles) -> None:
    ids = JobIds()
    runs = [RunKey(ids.next(T0 + second), 0, 1) for second in range(0, 600)]
    folders = [outputs.path(run, Stream.OUT).parent for run in runs]
    assert max(folders.count(folder) for folder in set(folders)) <= 66
    assert len({folder.parent for folder in folders}) <= 2


def test_the_walk_gives_the_oldest_jobs_first_and_nothing_foreign(outputs: OutputFiles) -> None:
    ids = JobIds()
    runs = [RunKey(ids.next(T0 + 40 * n), n % 2, n % 3 + 1) for n in range(50)]
    runs += [RunKey(ids.next(T0 + 86_400 * n), 0, 1) for n in (4, 9, 90, 900)]
    for run in reversed(runs):
        write(outputs, b"x" * run.attempt, run)
    folder = outputs.path(runs[0], Stream.OUT).parent
    for name in ("notes.txt", "1.2.out", "a.b.c.out", "1.2.3.4.err", ".out"):
        (folder / name).write_bytes(b"")
    (outputs.root / "readme").write_bytes(b"")
    (outputs.root / "ff").mkdir()
    found = [file for files in outputs.walk() for file in files]
    assert [file.run for file in found] == runs
    assert [file.size for file in found] == [run.attempt for run in runs]
    assert all(Path(file.path) == outputs.path(file.run, Stream.OUT) for file in found)


def test_removing_takes_both_files_and_empty_folders(tmp_path: Path) -> None:
    root = tmp_path / "output"
    writer = OutputFiles(root)
    other = RunKey(RUN.job, 0, 12)
    for run in (RUN, other):
        for stream in Stream:
            write(writer, b"x", run, stream)
    outputs = OutputFiles(root)
    outputs.remove([RUN])
    assert [file.run for files in outputs.walk() for file in files] == [other, other]
    outputs.remove([other])
    assert list(root.iterdir()) == []


def test_a_folder_that_a_run_is_about_to_use_stays(outputs: OutputFiles) -> None:
    write(outputs, b"x")
    following = RunKey(RUN.job, 0, 2)
    paths = outputs.prepare(following)
    outputs.remove([RUN])
    Path(paths[0]).write_bytes(b"still possible")
    assert outputs.size(following, Stream.OUT) == 14
