"""What Flux RESTful prints at its start: who may come in, without telling how long a secret is. Pure."""

from __future__ import annotations

from collections.abc import Mapping

_MASK = "********"
_VARIABLES = ("FLUX_REQUIRE_AUTH", "FLUX_USER_AUTH", "FLUX_USER", "FLUX_TOKEN", "FLUX_TOKEN_FILE", "FLUX_SECRET_KEY")


def is_set_up(env: Mapping[str, str]) -> bool:
    """Whether somebody has said in Flux RESTful's words who may come in, as in a container."""
    return any(env.get(name) for name in _VARIABLES)


def banner(env: Mapping[str, str], *, require_auth: bool, multi_user: bool) -> str:
    """The lines, as the document has them (spec/flux-restful.md, 3)."""
    shown = {
        "Require auth": str(require_auth),
        "Server mode": "multi-user" if multi_user else "single-user",
        "Secret key": _masked(env.get("FLUX_SECRET_KEY")),
        "Flux user": _masked(env.get("FLUX_USER")),
        "Flux token": _masked(env.get("FLUX_TOKEN") or env.get("FLUX_TOKEN_FILE")),
    }
    return "\n".join(f"🍓 {name:>12}: {value}" for name, value in shown.items())


def _masked(value: str | None) -> str:
    return _MASK if value else "unset"
