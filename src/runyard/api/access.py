"""Who made a request, for handlers. `runyard.auth.caller` has the rules."""

from __future__ import annotations

from runyard.api.context import AnyRequest, context_of
from runyard.auth.caller import Caller

#: Where the credentials' check leaves the caller in the ASGI scope.
CALLER = "runyard.caller"


def caller_of(request: AnyRequest) -> Caller:
    """The caller of this request; while accounts are off, the user who runs the server, as an admin.

    Raises Unauthenticated if accounts are on and the request proves nobody.
    """
    caller: Caller | None = request.scope.get(CALLER)  # type: ignore[assignment]
    return caller if caller is not None else Caller(context_of(request).owner)
