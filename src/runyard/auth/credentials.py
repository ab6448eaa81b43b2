"""What a request brings to prove who asks: the `Authorization` header, read. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from typing import NamedTuple

from runyard.model.errors import Unauthenticated

#: Begins every token that we make, so that people and secret scanners know one when they see it.
PREFIX = "ryd_"
#: Characters of a name or a secret that are looked at; longer ones are wrong.
MOST = 4096


class Basic(NamedTuple):
    """HTTP Basic (RFC 7617): a name, and a password or a token."""

    name: str
    secret: str


class Bearer(NamedTuple):
    """A bearer token (RFC 6750)."""

    token: str


def read_header(value: bytes | None) -> Basic | Bearer:
    """The credentials in an `Authorization` header. Raises Unauthenticated if there are none that can be read."""
    if not value or not value.strip():
        raise Unauthenticated("credentials are needed: a bearer token, or name and password by HTTP Basic")
    scheme, _, rest = value.strip().partition(b" ")
    kind, text = scheme.lower(), rest.strip()
    if kind == b"bearer" and text and len(text) <= MOST:
        return Bearer(text.decode("latin-1"))
    if kind == b"basic" and len(text) <= MOST:
        try:
            name, colon, secret = base64.b64decode(text, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            colon = ""
        if colon:
            return Basic(name, secret)
    raise Unauthenticated("the Authorization header can't be read: it must be `Bearer TOKEN`, or Basic as in RFC 7617")


class NewSecret(NamedTuple):
    """A token's secret, to be shown once, and what is kept of it."""

    id: str
    text: str
    hash: bytes


def new_secret() -> NewSecret:
    """A fresh token: 256 random bits behind a prefix and a public id."""
    name = secrets.token_hex(5)
    text = f"{PREFIX}{name}_{secrets.token_urlsafe(32)}"
    return NewSecret(name, text, secret_hash(text))


def secret_hash(text: str) -> bytes:
    """A random secret needs no slow hash: there is nothing to guess."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
