"""What can be done to accounts and tokens, with the rules. Each change is seen by a running server at once."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any

import msgspec

from runyard.auth.credentials import new_secret
from runyard.auth.password import check_password, hash_password, is_password
from runyard.model.account import MAX_LABEL, Role, Scope, Token, User, check_account_name
from runyard.model.check import refuse
from runyard.model.errors import Conflict, InvalidInput, NotFound
from runyard.store.accounts import AccountChange, AccountStore

#: By which the tokens of browsers are told from those that people have made.
SESSION_LABEL = "browser session"
#: Browsers that an account may be logged in with: one more logs the oldest out.
MAX_SESSIONS = 50


class NewToken(msgspec.Struct, frozen=True):
    """A token that was just made. Nobody can read `secret` ever again."""

    token: Token
    secret: str


class Accounts:
    """The accounts of one store, for whoever looks after them. `by` is named in the events."""

    def __init__(self, store: AccountStore, by: str) -> None:
        self._store = store
        self._by = by

    def users(self) -> list[User]:
        return self._store.load()[1]

    def tokens(self, user: str | None = None) -> list[Token]:
        """All tokens, or those of one account. Raises NotFound if there is no such account."""
        _, users, tokens = self._store.load()
        if user is not None and all(known.name != user for known in users):
            raise _no_user(user)
        return [token for token in tokens if user in (None, token.user)]

    def add_user(
        self, name: str, now: float, role: Role = Role.USER, password: str | None = None, os_user: str | None = None
    ) -> User:
        """Without a password only tokens open the account. Raises Conflict if it is there already, InvalidInput."""
        user = User(
            name=check_account_name(name),
            role=role,
            password=None if password is None else hash_password(check_password(password)),
            os_user=os_user,
            generation=_first_generation(),
            created_at=now,
        )
        with self._store.change() as change:
            if change.user(name) is not None:
                raise Conflict(f"there is an account {name!r} already; `runyard user passwd` gives it a new password")
            change.save_user(user)
            self._record(change, now, "user.added", account=name, role=role)
        return user

    def set_password(self, name: str, password: str, now: float) -> User:
        """Ends every login of the account; the tokens that people have made stay. Raises NotFound, InvalidInput."""
        hash = hash_password(check_password(password))
        return self._change_user(name, now, "password", password=hash, generation=None)

    def set_role(self, name: str, role: Role, now: float) -> User:
        """Raises NotFound."""
        return self._change_user(name, now, f"role {role}", role=role)

    def set_disabled(self, name: str, disabled: bool, now: float) -> User:
        """A disabled account can't come in by any means; its jobs go on. Raises NotFound."""
        what = "disabled" if disabled else "enabled"
        return self._change_user(name, now, what, disabled=disabled, generation=None)

    def _change_user(self, name: str, now: float, what: str, **values: Any) -> User:
        with self._store.change() as change:
            user = change.user(name)
            if user is None:
                raise _no_user(name)
            if "generation" in values:
                values["generation"] = user.generation + 1
                change.remove_tokens(name, SESSION_LABEL)
            user = msgspec.structs.replace(user, **values)
            change.save_user(user)
            self._record(change, now, "user.changed", account=name, change=what)
        return user

    def remove_user(self, name: str, now: float) -> None:
        """The account and its tokens. Its jobs stay, and go on. Raises NotFound."""
        with self._store.change() as change:
            if change.user(name) is None:
                raise _no_user(name)
            change.remove_user(name)
            self._record(change, now, "user.removed", account=name)

    def create_token(
        self, user: str, now: float, scopes: frozenset[Scope], lifetime: float | None, label: str = ""
    ) -> NewToken:
        """`lifetime` in seconds, None for ever. Raises NotFound, InvalidInput."""
        if not scopes:
            raise InvalidInput(f"a token without a scope opens nothing: give some of {', '.join(Scope)}")
        if lifetime is not None and lifetime <= 0:
            raise refuse("expires", lifetime, "must be more than nothing")
        if len(label) > MAX_LABEL or not label.isprintable():
            raise refuse("label", label, f"must be printable, with at most {MAX_LABEL} characters")
        secret = new_secret()
        token = Token(
            id=secret.id,
            user=user,
            label=label,
            hash=secret.hash,
            scopes=scopes,
            created_at=now,
            expires_at=None if lifetime is None else now + lifetime,
        )
        with self._store.change() as change:
            if change.user(user) is None:
                raise _no_user(user)
            change.add_token(token)
            if label == SESSION_LABEL:
                change.trim_tokens(user, label, MAX_SESSIONS, now)
            self._record(change, now, "token.created", account=user, token=token.id, scopes=sorted(scopes))
        return NewToken(token, secret.text)

    def revoke_token(self, id: str, now: float) -> Token:
        """By its id. Raises NotFound."""
        with self._store.change() as change:
            token = change.token(id)
            if token is None:
                raise NotFound(f"there is no token {id!r}: `runyard token list` shows their ids")
            change.remove_token(id)
            self._record(change, now, "token.revoked", account=token.user, token=id)
        return token

    def ensure_admin(self, name: str, password: str, now: float) -> None:
        """Makes sure that there is such an admin with this very password. Nothing changes if that is so already.

        Raises InvalidInput.
        """
        user = next((user for user in self.users() if user.name == name), None)
        right = user is not None and is_password(password, user.password)
        if user is not None and right and user.role is Role.ADMIN and not user.disabled:
            return
        # Taken as it is, however short: whoever set it in the server's own environment has decided.
        hash = hash_password(password)
        with self._store.change() as change:
            old = change.user(check_account_name(name)) or User(
                name=name, generation=_first_generation(), created_at=now
            )
            new = msgspec.structs.replace(
                old, role=Role.ADMIN, password=hash, disabled=False, generation=old.generation + 1
            )
            change.remove_tokens(name, SESSION_LABEL)
            change.save_user(new)
            self._record(change, now, "user.added" if user is None else "user.changed", account=name, role=Role.ADMIN)

    def _record(self, made: AccountChange, now: float, type: str, **data: Any) -> None:
        made.record(now, type, {**data, "by": self._by, "at": datetime.fromtimestamp(now, UTC).isoformat()})


def _first_generation() -> int:
    """Any number: the access tokens of an account that was removed must not open another one of the same name."""
    return secrets.randbits(62)


def _no_user(name: str) -> NotFound:
    return NotFound(f"there is no account {name!r}: `runyard user list` shows them, `runyard user add` makes one")
