"""Passwords: argon2 hashes, and a short memory for those that were right."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING

from runyard.auth.credentials import PREFIX
from runyard.model.account import User
from runyard.model.errors import InvalidInput, TooMany

if TYPE_CHECKING:
    from pwdlib import PasswordHash

MIN_LENGTH, MAX_LENGTH = 8, 1024
#: Seconds for which a password that was right need not be computed again.
REMEMBERED = 300.0
_MOST_REMEMBERED = 1000
#: Computations at once: each takes 64 MiB of memory.
_AT_ONCE = 2
#: Logins that may wait for their turn.
_QUEUE = 64


@lru_cache(maxsize=1)
def _hasher() -> PasswordHash:
    # Loaded when the first password comes: most requests bring tokens.
    from pwdlib import PasswordHash
    from pwdlib.hashers.argon2 import Argon2Hasher

    return PasswordHash((Argon2Hasher(),))


@lru_cache(maxsize=1)
def _nobody() -> str:
    return _hasher().hash(secrets.token_urlsafe(16))


def check_password(password: str) -> str:
    """The password itself. Raises InvalidInput if it can't be one."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise InvalidInput(f"a password has {MIN_LENGTH} to {MAX_LENGTH} characters, and this one {len(password)}")
    if password.startswith(PREFIX):
        raise InvalidInput(f"a password can't begin with {PREFIX}, by which tokens are known")
    try:
        password.encode()
    except UnicodeEncodeError:
        raise InvalidInput("a password is a text in UTF-8") from None
    return password


def hash_password(password: str) -> str:
    """The argon2 hash of a password. Takes some 50 ms."""
    return _hasher().hash(password)


def is_password(password: str, hash: str | None) -> bool:
    """Whether it is the password with that hash. Without a hash it takes the same time, and is wrong."""
    found = len(password) <= MAX_LENGTH and _hasher().verify(password, hash or _nobody())
    return found and hash is not None


class Passwords:
    """Checks passwords off the event loop, a few at a time, and remembers for a while which were right.

    What it remembers is a keyed hash, good for this process only, together with the account's own hash: a new password
    ends it.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self._checking: dict[tuple[bytes, str | None], asyncio.Future[bool]] = {}

    def remembered(self, name: str, password: str, user: User | None, now: float) -> bool:
        """Was this the account's password a moment ago, and is it still?"""
        found = self._right.get(self._digest(name, password))
        return found is not None and user is not None and user.password == found[0] and now < found[1]

    async def check(self, name: str, password: str, user: User | None, now: float) -> bool:
        """Whether this is the account's password; `user` None takes as long. Raises TooMany if too many wait for it."""
        digest = self._digest(name, password)
        hash = user.password if user is not None else None
        running = self._checking.get((digest, hash))
        if running is None:
            if len(self._checking) >= _QUEUE:
                raise TooMany("too many logins at once: try again in a moment", retry_after=1)
            # A task of its own: whoever else waits for it must not be left alone if the first one goes away.
            running = self._checking[digest, hash] = asyncio.ensure_future(self._compute(password, hash))
            running.add_done_callback(lambda _: self._checking.pop((digest, hash), None))
        right = await asyncio.shield(running)
        if right and hash is not None:
            self._right[digest] = (hash, now + REMEMBERED)
            self._right.move_to_end(digest)
            if len(self._right) > _MOST_REMEMBERED:
                self._right.popitem(last=False)
        return right

    async def _compute(self, password: str, hash: str | None) -> bool:
        async with self._turn:
            return await asyncio.to_thread(is_password, password, hash)

    def _digest(self, name: str, password: str) -> bytes:
        return hmac.digest(self._key, f"{name}\0{password}".encode("utf-8", "surrogatepass"), "sha256")
