"""Accounts and tokens: who may log in, and with what."""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

from runyard.model.errors import InvalidInput

MAX_LABEL = 100
# Without a colon, which ends the name in HTTP Basic (RFC 7617), and nothing that a table or a log line could confuse.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")


class Role(StrEnum):
    """What an account may do at most; each role includes the ones before it."""

    VIEWER = "viewer"
    """Sees all jobs, changes nothing."""
    USER = "user"
    """Submits jobs, sees and changes its own."""
    ADMIN = "admin"
    """Sees and changes everything, stops the service, looks after accounts."""


class Scope(StrEnum):
    """What a token may be used for; a password has all of them."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


class User(msgspec.Struct, frozen=True, kw_only=True):
    """An account."""

    name: str
    role: Role = Role.USER
    password: str | None = None
    """Its argon2 hash; None means that only tokens open the account."""
    disabled: bool = False
    os_user: str | None = None
    """The operating system's account for its jobs where `[auth] run_as` is set; None means the one of the same name."""
    generation: int = 0
    """Goes up with what must end every access token issued so far: a new password, disabling."""
    created_at: float = 0.0


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A secret of an account for programs. The secret itself is not kept."""

    id: str
    user: str
    label: str = ""
    hash: bytes
    """SHA-256 of the secret."""
    scopes: frozenset[Scope]
    created_at: float
    expires_at: float | None
    """Unix seconds; None means never."""


def check_account_name(name: str) -> str:
    """The name itself. Raises InvalidInput."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} can't be the name of an account: 1 to 64 letters, digits, `_`, `.`, `@`, `-`, "
            "and a letter, digit or `_` first"
        )
    return name
