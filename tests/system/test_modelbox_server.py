"""`runyard serve --modelbox-conf`: graphs from files, jobs that outlive the server, who may come in."""

from __future__ import annotations

import json
import os
import sqlite3
import tomllib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.system.modelbox import Door, graph, toml
from tests.system.server import Server


def test_graphs_from_files_and_jobs_that_outlive_the_server(serve: Callable[..., Server], tmp_path: Path) -> None:
    graphs, project = tmp_path / "graph", tmp_path / "app/demo/graph"
    (graphs / "below").mkdir(parents=True)
    project.mkdir(parents=True)
    (graphs / "same.toml").write_text(toml())
    (graphs / "changing.toml").write_text(toml())
    (graphs / "bad.toml").write_text(
        "[graph]\nformat = 'graphviz'\ngraphconf = 'digraph { a[flowunit=missing_unit]; a -> a }'"
    )
    (graphs / "binary").write_bytes(b"\xff\xfe")
    (graphs / "DISABLED_off.toml").write_text(toml())
    (graphs / "below/deep.toml").write_text(toml())
    os.mkfifo(graphs / "pipe.toml")
    (project / "inner.json").write_text(json.dumps(graph()))
    conf = tmp_path / "modelbox.conf"
    conf.write_text(
        f'[server]\nport = "0"\nflow_path = "{graphs}"\napplication_root = "{tmp_path}/app"\n'
        '[plugin]\nfiles = ["/usr/local/lib/modelbox-plugin.so", "/opt/other.so"]\n'
    )
    server = serve("--modelbox-conf", str(conf))
    with Door(server, server.door_port("modelbox")) as door:
        for name in ("same.toml", "changing.toml", "inner.json"):
            door.until(name, "RUNNING")
        assert "missing_unit" in door.until("bad.toml", "FAILED")["job_error_msg"]
        assert "UTF-8" in door.until("binary", "FAILED")["job_error_msg"]
        door.create("by-rest", graph())
        door.create("cancelled", graph())
        with server.client() as client:
            (job,) = client.jobs(name="cancelled")
            client.cancel(job.id)
            client.wait(job.id)
        assert door.status("cancelled") == "404"
        loaded = {"same.toml", "changing.toml", "inner.json", "bad.toml", "binary"}
        assert set(door.list()) == loaded | {"by-rest"}
    kept = graphs / "oneshot/by-rest"
    assert tomllib.loads(kept.read_text()) == graph()
    assert kept.stat().st_mode & 0o777 == 0o600
    with server.client() as client:
        pids = {name: next(client.jobs(name=name)).runs[0].pid for name in ("same.toml", "by-rest")}

    server.kill()
    (graphs / "changing.toml").write_text(toml() + "# changed\n")
    (project / "inner.json").unlink()
    (graphs / "new.toml").write_text(toml())
    server.start()
    with Door(server, server.door_port("modelbox")) as door:
        for name in ("same.toml", "changing.toml", "new.toml", "by-rest"):
            door.until(name, "RUNNING")
        assert door.status("inner.json") == "404"
        door.until("bad.toml", "FAILED")
        with server.client() as client:
            assert {name: next(client.jobs(name=name)).runs[0].pid for name in pids} == pids
            assert len(list(client.jobs(name="changing.toml"))) == 2
        assert door.delete("by-rest") == 204
        assert kept.exists()

    server.kill()
    graphs.rename(tmp_path / "away")
    server.start()
    with Door(server, server.door_port("modelbox")) as door:
        assert door.status("same.toml") == "RUNNING", "its folder can't be read, which is not to say that it is gone"
    assert server.end() == 0
    with closing(sqlite3.connect(server.data / "runyard.db")) as database:
        kept_ids = {key for (key,) in database.execute("SELECT key FROM door_records WHERE door = 'modelbox'")}
    assert "same.toml" in kept_ids and "cancelled" not in kept_ids
    conf.write_text(
        f'[server]\nport = 0\nflow_path = ""\n[acl]\nallow = ["10.0.0.0/8"]\n[log]\npath = "{tmp_path}/server.log"\n'
    )
    server.start()
    with Door(server, server.door_port("modelbox")) as door:
        answer = door.get("same.toml")
    assert (answer.status_code, answer.text) == (403, "Access Denied")
    assert "x-frame-options" in answer.headers
    assert (tmp_path / "server.log").exists()
    with server.client() as client:
        assert client.wait("same.toml", 60).state == "cancelled"


def test_units_from_allowed_folders_only(serve: Callable[..., Server], tmp_path: Path) -> None:
    units = tmp_path / "units"
    units.mkdir()
    server = serve(RUNYARD_FLOWS__UNIT_DIRS=str(units), RUNYARD_DOORS__MODELBOX__CREATE_TIMEOUT="30")
    with Door(server) as door:
        for folder in ("/usr/local/lib", f"{units}/../other", "relative", "/"):
            answer = door.put("confined", graph() | {"driver": {"dir": folder}})
            assert answer.status_code == 400, folder
            assert "unit_dirs" in answer.json()["error_msg"]
            assert door.status("confined") == "FAILED"
            assert door.delete("confined") == 204
        door.create("confined", graph() | {"driver": {"dir": [str(units), f"{units}/below/.."]}})
        assert door.delete("confined") == 204
