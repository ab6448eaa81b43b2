"""All accounts and tokens as they stood at one moment, held in memory. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from runyard.auth.credentials import secret_hash
from runyard.model.account import Token, User


class Directory:
    """Answers who an account or a token is without asking the store."""

    def __init__(self, version: int = -1, users: Iterable[User] = (), tokens: Iterable[Token] = ()) -> None:
        self.version = version
        self.users = {user.name: user for user in users}
        # By hash: how long the look-up takes says nothing about the secret.
        self._tokens = {token.hash: token for token in tokens}

    def token(self, text: str, now: float) -> Token | None:
        """The token with that secret, unless it has expired or its account is gone."""
        return self.by_hash(secret_hash(text), now)

    def by_hash(self, hash: bytes, now: float) -> Token | None:
        """The same, by what is kept of the secret."""
        token = self._tokens.get(hash)
        if token is None or token.user not in self.users:
            return None
        return token if token.expires_at is None or now < token.expires_at else None

    @property
    def usable(self) -> bool:
        """Is there an account by which somebody could come in?"""
        holders = {token.user for token in self._tokens.values()}
        return any(not user.disabled and (user.password or user.name in holders) for user in self.users.values())
