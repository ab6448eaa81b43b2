"""Words for talking to the Flux door over plain HTTP, as its clients do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from runyard.auth.accounts import Accounts
from runyard.store.accounts import AccountStore
from tests.system.native import ended
from tests.system.server import Server

Json = dict[str, Any]


def submit(http: httpx2.Client, command: str, **query: Any) -> int:
    """As the released client does: everything in the query."""
    answer = http.post("/v1/jobs/submit", params={"command": command, **query})
    assert answer.status_code == 200 and answer.json()["Message"] == "Job submit.", answer.text
    number = answer.json()["id"]
    assert isinstance(number, int)
    return number


def show(http: httpx2.Client, job: int | str) -> Json:
    answer = http.get(f"/v1/jobs/{job}")
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


def done(http: httpx2.Client, job: int | str) -> Json:
    """The record once the job has ended."""
    ended(http, str(job))
    return show(http, job)


def text_of(http: httpx2.Client, job: int | str) -> str:
    return "".join(http.get(f"/v1/jobs/{job}/output").json()["Output"])


def events(lines: Iterator[str]) -> Iterator[tuple[str, Json]]:
    """Id and data of each server-sent event."""
    id = ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "id":
            id = value
        elif name == "data":
            yield id, json.loads(value)


@contextmanager
def accounts_of(server: Server) -> Iterator[Accounts]:
    """The accounts of a running server, as `runyard user` has them."""
    store = AccountStore.open(server.data, server.data)
    try:
        yield Accounts(store, "tests")
    finally:
        store.close()
