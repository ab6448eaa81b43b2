"""A server with accounts, and a client for each of the callers that tests tell apart."""

from __future__ import annotations

import time
from pathlib import Path

import httpx2

from runyard.auth.accounts import Accounts
from runyard.model.account import Role, Scope
from runyard.store.accounts import AccountStore
from tests.system.server import Server

#: Of `ann` and `root`.
PASSWORD = "sesame-open"
FULL = frozenset(Scope)
READ, WRITE = frozenset({Scope.READ}), frozenset({Scope.READ, Scope.WRITE})
#: Name of each caller: its account, the account's role, and the scopes of its token.
CALLERS = {
    "ann": ("ann", Role.USER, WRITE),
    "ann-reads": ("ann", Role.USER, READ),
    "bob": ("bob", Role.USER, WRITE),
    "viewer": ("viewer", Role.VIEWER, FULL),
    "root": ("root", Role.ADMIN, FULL),
    "root-writes": ("root", Role.ADMIN, WRITE),
}


class Crowd:
    """Makes the accounts before the server starts; `tokens` has the secret of each caller."""

    def __init__(self, data: Path) -> None:
        self._store = AccountStore.open(data, data)
        self.accounts = Accounts(self._store, "tester")
        self.tokens: dict[str, str] = {}
        now = time.time()
        for name, (account, role, scopes) in CALLERS.items():
            if name == account:
                password = PASSWORD if name in ("ann", "root") else None
                self.accounts.add_user(account, now, role, password)
            self.tokens[name] = self.accounts.create_token(account, now, scopes, None).secret

    def close(self) -> None:
        self._store.close()

    def clients(self, server: Server) -> dict[str, httpx2.Client]:
        """By the name of the caller, and one that brings nothing: `nobody`."""
        made = {name: bearer(server, token) for name, token in self.tokens.items()}
        return {"nobody": server.http(), **made}


def bearer(server: Server, token: str) -> httpx2.Client:
    return httpx2.Client(base_url=server.url, timeout=60, headers={"Authorization": f"Bearer {token}"})


def basic(server: Server, name: str, password: str) -> httpx2.Client:
    return httpx2.Client(base_url=server.url, timeout=60, auth=(name, password))
