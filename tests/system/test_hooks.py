"""Hooks of the real server, killed and started anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runyard.service.delivery import signature
from tests.helpers import wait_until
from tests.receiver import receiving
from tests.system.server import Server


@pytest.fixture
def settings(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        file = tmp_path / "runyard.toml"
        file.write_text(text)
        return str(file)

    return write


def test_an_event_that_the_server_could_not_deliver_comes_after_kill_9(
    serve: Callable[..., Server], settings: Callable[[str], str]
) -> None:
    with receiving() as receiver:
        file = settings(f'[[hooks]]\nname = "h"\nurl = "{receiver.url}"\nsecret = "key"\nevents = ["job.submitted"]\n')
        server = serve("--config", file)
        receiver.answers = [200, "hang"]
        with server.client() as client:
            done = client.submit(command=["true"], name="done", hold=True)
            wait_until(lambda: len(receiver.received) == 1, 60)
            lost = client.submit(command=["true"], name="lost", hold=True)
            wait_until(lambda: len(receiver.received) == 2, 60)
            unseen = client.submit(command=["true"], name="unseen", hold=True)
            server.kill()
            receiver.received.clear()
            server.start()
            wait_until(lambda: "unseen" in [delivery.what[1] for delivery in receiver.received], 60)
            # At least once: the one that was delivered may come again, if its cursor was not written yet.
            found = [delivery for delivery in receiver.received if delivery.json["job"]["id"] != done.id]
            assert [delivery.json["job"]["id"] for delivery in found] == [lost.id, unseen.id]
            for delivery in found:
                timestamp = int(delivery.headers["X-Runyard-Timestamp"])
                assert delivery.headers["X-Runyard-Signature"] == signature("key", timestamp, delivery.body)
                assert delivery.headers["X-Runyard-Delivery"] == f"h-{delivery.json['event']['seq']}"
            for job in (done, lost, unseen):
                client.cancel(job.id)


def test_a_run_is_told_with_its_exit_and_a_receiver_that_fails_once_gets_it_again(
    serve: Callable[..., Server], settings: Callable[[str], str], tmp_path: Path
) -> None:
    with receiving() as receiver:
        command = ["/bin/sh", "-c", f"cat >> {tmp_path}/told; echo >> {tmp_path}/told"]
        server = serve(
            "--config",
            settings(
                f'[[hooks]]\nname = "web"\nurl = "{receiver.url}"\n'
                f'[[hooks]]\nname = "program"\ncommand = {command}\nevents = ["run.exited"]\n'
            ),
        )
        receiver.answers = [500]
        with server.client() as client:
            job = client.submit(script="exit 3", name="three")
            wait_until(lambda: len(receiver.received) == 3, 60, "both events, one of them twice")
        assert [found.what[0] for found in receiver.received] == ["run.started", "run.started", "run.exited"]
        last = receiver.received[-1].json
        assert last["event"]["data"]["exit_code"] == last["run"]["exit_code"] == last["job"]["exit_code"] == 3
        assert last["job"]["id"] == job.id and last["run"]["attempt"] == 1
        figures = [
            'runyard_hook_deliveries_total{hook="web",outcome="delivered"} 2.0',
            'runyard_hook_deliveries_total{hook="web",outcome="retried"} 1.0',
            'runyard_hook_deliveries_total{hook="program",outcome="delivered"} 1.0',
        ]
        wait_until(lambda: all(figure in server.get("/metrics").text for figure in figures), 60)
        assert job.id in (tmp_path / "told").read_text()
