"""Messages that leave the server: callbacks and Redis lists, over a crash of the server (spec/k12ai.md, 3.7, 4.1)."""

from __future__ import annotations

import json
from pathlib import Path

from redis import Redis

from runyard.service.delivery import signature
from tests.helpers import wait_until
from tests.receiver import Receiver, receiving
from tests.redis_server import redis_server
from tests.system.k12ai import OK, Door, Json, codes, serve_door

SECRET = "sesame"
STORY = [100001, 100002, 100003]


def test_nothing_is_lost_or_told_twice_when_the_server_is_killed(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with receiving() as receiver, receiving() as refusing, redis_server(tmp_path) as redis_url:
        more = (
            f'redis_url = "{redis_url}"\ncallbacks = ["shared={receiver.url}"]\n'
            f'callback_secret = "{SECRET}"\nemit_status = true\n'
        )
        server = serve_door(tmp_path / "server", more)
        with Redis.from_url(redis_url) as client:
            # Not ours: it stays as it is, and keeps no other list waiting.
            client.set("shared.status", "taken")
        try:
            door = Door(server.start())
            project = door.project()
            project.app = "shared"
            url = f"{receiver.url}?of=task"
            params = {"say": [{"type": "metrics", "body": {"loss": 1}}], "wait": str(go)}
            assert project.ask("train.start", params, callback_url=url) == OK
            project.until(100002)
            others = [door.project() for _ in range(4)]
            for other in others:
                assert other.ask("train.start") == OK
            door.http.close()
            # In the middle of the others' beginning.
            server.kill()
            # It ends while nobody is there to tell.
            go.touch()
            server.start()
            door = Door(server)
            project.door = door
            project.until(100003)
            assert project.codes() == STORY
            for other in others:
                other.door = door
                other.until(100003)
                assert other.codes() == STORY
            assert [message["status"]["value"] for message in project.of("status")] == ["starting", "running", "exit"]
            assert project.ask("train.stop") == 100205
            told(receiver, project.uuid)
            in_redis(redis_url, project.uuid)
            given_up(door, refusing)
            door.http.close()
        finally:
            server.close()


def told(receiver: Receiver, uuid: str) -> None:
    """The receivers of the task and of the application have got everything, in order, and signed."""

    wait_until(lambda: sum(codes(received.json) == 100003 for received in receiver.received) >= 2, 60, "two callbacks")
    # At least once: after the crash a message may come again, under the same name.
    found = {received.headers["X-Runyard-Delivery"]: received.json for received in receiver.received}
    assert [codes(message) for message in found.values() if message["type"] == "error"] == STORY
    for received in receiver.received:
        at = int(received.headers["X-Runyard-Timestamp"])
        assert received.headers["X-Runyard-Signature"] == signature(SECRET, at, received.body)
        assert received.json["service_uuid"] == uuid


def in_redis(url: str, uuid: str) -> None:
    with Redis.from_url(url) as client:

        def stories() -> list[int]:
            texts = client.lrange("shared.error", 0, -1)
            assert isinstance(texts, list)
            found = {message["seq"]: message for message in map(json.loads, reversed(texts))}
            assert all(message["service_uuid"] == uuid for message in found.values())
            return [codes(message) for message in found.values()]

        wait_until(lambda: stories() == STORY, 60, "the messages in Redis")
        ttl = client.ttl("shared.error")
        assert isinstance(ttl, int) and 0 < ttl <= 432_000
        assert client.llen("shared.metrics") == 1
        assert (client.get("shared.status"), client.ttl("shared.status")) == (b"taken", -1)


def given_up(door: Door, refusing: Receiver) -> None:
    """A message that is refused for good is a dead letter; so is that of a task that could not begin."""
    project = door.project()
    refusing.answers += [404]
    assert project.ask("predict.start", service_name="k12pyr", callback_url=refusing.url) == OK
    project.until(100902)

    def letters() -> list[Json]:
        found: list[Json] = door.http.get("/k12ai/private/dead").json().get("data", [])
        return found

    [letter] = wait_until(letters, 60, "a dead letter")
    assert (letter["reason"], letter["type"]) == ("HTTP status 404", "error")
    assert codes(letter["message"]) == 100902 and letter["message"]["service_uuid"] == project.uuid
