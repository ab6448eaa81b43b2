"""Access tokens: signed JWTs (RFC 7519) that stand for an account for some hours.

They are signed with a key that never leaves the server. The secret that is shared with the clients of Flux RESTful only
opens the way to ask for one (spec/flux-restful.md, 2.6).
"""

from __future__ import annotations

import secrets
import warnings
from collections import OrderedDict
from typing import Any

import msgspec

from runyard.model.account import Scope, User
from runyard.model.errors import Unauthenticated

_ISSUER = "runyard"
_ALGORITHM = "HS256"
_MOST_READ = 1000
#: Seconds by which the clock of a client may be off.
_LEEWAY = 60.0
#: Seconds after which a signed request for a token is stale, if it says when it was made.
_STALE = 300.0


class AccessToken(msgspec.Struct, frozen=True):
    """As OAuth 2 answers (RFC 6749, 5.1)."""

    access_token: str
    expires_in: int
    """Seconds."""
    token_type: str = "Bearer"


class Claims(msgspec.Struct, frozen=True):
    """What an access token says."""

    name: str
    generation: int
    scopes: frozenset[Scope]
    expires_at: float


class Signer:
    """Issues and reads access tokens."""

    def __init__(self, key: bytes, lifetime: float) -> None:
        """`key`: at least 32 secret bytes; `lifetime` in seconds."""
        self._key = key
        self._lifetime = lifetime
        self._read: OrderedDict[str, Claims] = OrderedDict()

    def issue(self, user: User, now: float, scopes: frozenset[Scope] = frozenset(Scope)) -> AccessToken:
        import jwt

        claims = {
            "iss": _ISSUER,
            "aud": _ISSUER,
            "sub": user.name,
            "gen": user.generation,
            "scope": " ".join(sorted(scopes)),
            "iat": int(now),
            "exp": int(now + self._lifetime),
            "jti": secrets.token_hex(8),
        }
        return AccessToken(jwt.encode(claims, self._key, _ALGORITHM), int(self._lifetime))

    def read(self, text: str, now: float) -> Claims:
        """Raises Unauthenticated if the token is not one of ours, or no longer good."""
        claims = self._read.get(text)
        if claims is None:
            claims = self._decode(text)
            self._read[text] = claims
            if len(self._read) > _MOST_READ:
                self._read.popitem(last=False)
        if now >= claims.expires_at:
            raise Unauthenticated("the access token has expired: ask for a new one")
        return claims

    def _decode(self, text: str) -> Claims:
        import jwt

        try:
            found: dict[str, Any] = jwt.decode(
                text,
                self._key,
                algorithms=[_ALGORITHM],
                audience=_ISSUER,
                issuer=_ISSUER,
                # The times are compared with the clock of the server's choice, by the caller.
                options={"require": ["exp", "iat", "sub", "jti"], "verify_exp": False, "verify_iat": False},
            )
            scopes = frozenset(Scope(word) for word in str(found["scope"]).split())
            return Claims(str(found["sub"]), int(found["gen"]), scopes, float(found["exp"]))
        except (jwt.PyJWTError, LookupError, ValueError, TypeError, RecursionError):
            raise Unauthenticated("the access token is not valid here") from None


def read_request(text: str, secret: str, now: float) -> tuple[str, str]:
    """Name and password in a request for a token, as a client of Flux RESTful signs it with the shared secret: the
    claims `user`, `pass`, and `scope`, which is `"token"` (spec/flux-restful.md, 1.4).

    Raises Unauthenticated, with a text that does not say which part is wrong.
    """
    import jwt

    try:
        with warnings.catch_warnings():
            # The secret is as long as its owner has made it: `FluxAccess.weak` has told the server's log.
            warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)
            found: dict[str, Any] = jwt.decode(
                text,
                secret,
                algorithms=[_ALGORITHM],
                options={"verify_exp": False, "verify_iat": False, "verify_aud": False},
            )
        name, password, scope = found.get("user"), found.get("pass"), found.get("scope")
        made, until = float(found.get("iat", now)), float(found.get("exp", now + 1))
        # JSON may have halves of surrogate pairs, which nothing behind this can take.
        f"{name}{password}".encode()
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
        raise Unauthenticated("the request for a token is not valid") from None
    fresh = now - _STALE <= made <= now + _LEEWAY and now < until + _LEEWAY
    if not (fresh and scope == "token" and isinstance(name, str) and isinstance(password, str) and name and password):
        raise Unauthenticated("the request for a token is not valid")
    return name, password
