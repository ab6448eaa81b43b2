"""Who asks, and what they may do. Pure.

Every request has a caller. While accounts are off it is the user who runs the server, as an admin; else it is the
account that the credentials of the request prove (`runyard.api.access.caller_of`).
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from runyard.model.errors import Forbidden


class Role(StrEnum):
    """What an account may do at most; each role includes the ones before it."""

    VIEWER = "viewer"
    """Sees all jobs, changes nothing."""
    USER = "user"
    """Submits jobs, sees and changes its own."""
    ADMIN = "admin"
    """Sees and changes everything, stops the service, looks after accounts."""


class Scope(StrEnum):
    """What a token may be used for; a session or a password has all of them."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


class Caller(msgspec.Struct, frozen=True):
    """Who made a request. `name` becomes the owner of the jobs that it submits."""

    name: str
    role: Role = Role.ADMIN
    scopes: frozenset[Scope] = frozenset(Scope)
    os_user: str | None = None
    """The account of the operating system under which this caller's jobs run; None means the server's own."""

    @property
    def is_admin(self) -> bool:
        return self.role is Role.ADMIN and Scope.ADMIN in self.scopes

    def may_see(self, owner: str) -> bool:
        """Whether jobs of `owner` are shown: one's own; to viewers and admins all."""
        return Scope.READ in self.scopes and (self.role is not Role.USER or self.name == owner)

    def may_submit(self) -> bool:
        return Scope.WRITE in self.scopes and self.role is not Role.VIEWER

    def may_change(self, owner: str) -> bool:
        """Whether jobs of `owner` may be cancelled, restarted, amended, deleted."""
        return self.may_submit() and (self.role is Role.ADMIN or self.name == owner)

    # The same rules as demands. A job that may not be seen is refused, not hidden: ids tell nothing.

    def must_see(self, owner: str) -> None:
        """Raises Forbidden."""
        if not self.may_see(owner):
            raise Forbidden(f"{self.name!r} may not see jobs of {owner!r}")

    def must_submit(self) -> None:
        """Raises Forbidden."""
        if not self.may_submit():
            raise Forbidden(
                f"{self.name!r} may only look: submitting takes the role user and a token with the scope write"
            )

    def must_change(self, owner: str) -> None:
        """Raises Forbidden."""
        if not self.may_change(owner):
            raise Forbidden(f"{self.name!r} may not change jobs of {owner!r}")

    def must_administrate(self) -> None:
        """Raises Forbidden."""
        if not self.is_admin:
            raise Forbidden(f"{self.name!r} is no admin, or its token lacks the scope admin")
