"""Which environment variables of the server stay with the server."""

from __future__ import annotations

#: With these a job could act as the server, or as its administrator. Settings are `RUNYARD_SECTION__KEY`.
_NAMES = frozenset({"FLUX_TOKEN", "FLUX_TOKEN_FILE", "FLUX_SECRET_KEY", "FLUX_USER", "RUNYARD_TOKEN", "RUNYARD_HOOKS"})


def is_secret(name: str) -> bool:
    """Is the variable a secret or a setting of the server, which no job inherits, whoever asks for it?"""
    return name in _NAMES or (name.startswith("RUNYARD_") and "__" in name)
