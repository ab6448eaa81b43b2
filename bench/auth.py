"""What it costs to prove who asks: reading one job, with accounts on and off, in turns."""

from __future__ import annotations

import base64
import json
import time
import urllib.parse
import urllib.request
from statistics import median

from bench.figure import Figure
from bench.load import load
from bench.server import BenchServer, fresh
from runyard.auth.accounts import Accounts
from runyard.model.account import Scope
from runyard.store.accounts import AccountStore

CLIENTS = 16
NAME, PASSWORD = "ann", "sesame-open"


def measure(count: int = 6000, rounds: int = 5) -> list[Figure]:
    folder = fresh("data")
    store = AccountStore.open(folder, folder)
    accounts = Accounts(store, "bench")
    accounts.add_user(NAME, time.time(), password=PASSWORD)
    token = accounts.create_token(NAME, time.time(), frozenset({Scope.READ, Scope.WRITE}), None).secret
    store.close()
    rates: dict[str, list[float]] = {}
    with BenchServer() as free, BenchServer(folder, {"RUNYARD_AUTH__ENABLED": "true"}) as guarded:
        basic = base64.b64encode(f"{NAME}:{PASSWORD}".encode()).decode()
        headers = {
            "a token": f"Authorization: Bearer {token}",
            "an access token": f"Authorization: Bearer {_access_token(guarded.port)}",
            "name and password": f"Authorization: Basic {basic}",
        }
        own = _submit(guarded.port, headers["a token"])
        everybodys = _submit(free.port, "Accept: */*")
        for number in range(rounds + 1):
            for what, header in {"nothing": "", **headers}.items():
                port, job = (guarded.port, own) if header else (free.port, everybodys)
                path = f"/api/v1/jobs/{job}"
                found = load(port, "GET", path, header=header, clients=CLIENTS, count=count, status=200)
                if number:
                    rates.setdefault(what, []).append(found.rate)
    bare = median(rates["nothing"])
    return [
        Figure(name=f"auth: jobs read with {what}", unit="/s", measured=median(rates[what]), reference=bare, least=0.75)
        for what in headers
    ]


def _submit(port: int, header: str) -> str:
    name, _, value = header.partition(": ")
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/v1/jobs", b'{"command": ["true"], "hold": true}', {name: value}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(json.load(answer)["id"])


def _access_token(port: int) -> str:
    form = urllib.parse.urlencode({"username": NAME, "password": PASSWORD}).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/login/access-token", form, timeout=30) as answer:
        return str(json.load(answer)["access_token"])


if __name__ == "__main__":
    from bench.figure import table

    print(table(measure()))
