"""Who asks, and what they may do. Pure.

Every request has a caller. While accounts are off it is the user who runs the server, as an admin; else it is the
account that the credentials of the request prove (`runyard.api.access.caller_of`).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from runyard.model.account import Role, Scope
from runyard.model.errors import Forbidden

__all__ = ["Caller", "Role", "Scope"]


class Proof(msgspec.Struct, frozen=True):
    """What a caller has come in with."""

    generation: int | None = None
    """Of the account, which ends what is neither a password nor one of its tokens."""
    token: bytes | None = None
    """Hash of a token that somebody has made."""
    expires_at: float | None = None
    """Of an access token; Unix seconds."""


class Caller(msgspec.Struct, frozen=True):
    """Who made a request. `name` becomes the owner of the jobs that it submits."""

    name: str
    role: Role = Role.ADMIN
    scopes: frozenset[Scope] = frozenset(Scope)
    os_user: str | None = None
    """The account of the operating system under which this caller's jobs run; None means the server's own."""
    witness: Callable[[str, str], None] | None = None
    """Is told of what goes into the audit trail: the type of the event, and what the caller was about to do."""
    proof: Proof | None = None
    """None while accounts are off."""

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

    def must_read(self) -> None:
        """For what belongs to nobody in particular: nodes, figures. Raises Forbidden."""
        if Scope.READ not in self.scopes:
            raise self.refused(f"the token of {self.name!r} lacks the scope read")

    def must_see(self, owner: str) -> None:
        """Raises Forbidden."""
        if not self.may_see(owner):
            raise self.refused(f"{self.name!r} may not see jobs of {owner!r}")

    def must_submit(self) -> None:
        """Raises Forbidden."""
        if not self.may_submit():
            raise self.refused(
                f"{self.name!r} may only look: submitting takes the role user and a token with the scope write"
            )

    def must_change(self, owner: str) -> None:
        """Raises Forbidden."""
        if not self.may_change(owner):
            raise self.refused(f"{self.name!r} may not change jobs of {owner!r}")
        if self.name != owner and self.witness is not None:
            self.witness("auth.admin", f"changes a job of {owner!r}")

    def must_administrate(self, what: str = "administrates") -> None:
        """`what` is for the audit trail. Raises Forbidden."""
        if not self.is_admin:
            raise self.refused(f"{self.name!r} is no admin, or its token lacks the scope admin")
        if self.witness is not None:
            self.witness("auth.admin", what)

    def refused(self, detail: str) -> Forbidden:
        """The error to raise, for a rule that is not among these. It is in the audit trail already."""
        if self.witness is not None:
            self.witness("auth.refused", detail)
        return Forbidden(detail)
