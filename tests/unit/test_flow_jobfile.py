"""Flows in files of jobs."""

from __future__ import annotations

from pathlib import Path

from runyard.client.jobfile import read_jobs
from runyard.flow.document import load_document
from runyard.model.check import build_spec

FILE = Path(__file__).parents[2] / "examples" / "flow" / "jobs.toml"


def test_the_example_flows_are_jobs_with_the_documents_beside_the_file() -> None:
    for job in read_jobs(FILE):
        spec = build_spec(job)
        assert spec.flow is not None and spec.flow.path is not None and Path(spec.flow.path).is_file()
        assert spec.name == f"flow-{load_document(spec.flow.path).name}"


def test_relative_paths_of_a_flow_are_meant_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "jobs.toml"
    file.write_text(
        '[[jobs]]\nflow = { path = "a/flow.toml", trace = "trace.json" }\n[[jobs]]\nflow = { graph = "x" }\n'
    )
    first, second = read_jobs(file)
    assert first["flow"] == {"path": str(tmp_path / "a" / "flow.toml"), "trace": str(tmp_path / "trace.json")}
    assert second["flow"] == {"graph": "x"}
