"""The variables by which Flux RESTful is told who may use it (spec/flux-restful.md, section 3). Pure.

They are read by `runyard serve` and go no further: what jobs inherit is a list of other variables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from runyard.model.errors import ConfigError

#: What its documents and its container image have published.
_PUBLISHED = frozenset({"12345", "123456", "notsecrethoo"})


class FluxAccess(msgspec.Struct, frozen=True):
    """Who comes in as the document's one user, and the secret that its clients sign requests for tokens with."""

    user: str = ""
    password: str = ""
    """Empty: there is no such account."""
    secret: str = ""
    """Empty: nobody can ask for a token by a signed request."""

    @property
    def weak(self) -> list[str]:
        """Names of the variables whose values everybody can guess."""
        values = {"FLUX_TOKEN": self.password, "FLUX_SECRET_KEY": self.secret}
        return [name for name, value in values.items() if value and (len(value) < 8 or value in _PUBLISHED)]


def flux_access(env: Mapping[str, str], read_file: Callable[[str], str]) -> FluxAccess:
    """What the variables say. `read_file` gives the text of a file, or raises OSError.

    Raises ConfigError if FLUX_TOKEN_FILE names a file that can't be read.
    """
    password = env.get("FLUX_TOKEN", "")
    file = env.get("FLUX_TOKEN_FILE", "")
    if file and not password:
        try:
            password = read_file(file).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"FLUX_TOKEN_FILE: {file} can't be read: {error}") from None
    return FluxAccess(
        user=env.get("FLUX_USER", "") or "fluxuser",
        password=password,
        secret=env.get("FLUX_SECRET_KEY", ""),
    )
