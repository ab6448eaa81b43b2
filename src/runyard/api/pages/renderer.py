"""Templates and files of the pages, and the headers with which they leave."""

from __future__ import annotations

import hashlib
import string
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from litestar import Response

if TYPE_CHECKING:
    import jinja2

_FOLDER = Path(__file__).parent
#: The files that browsers may have, and what they are.
FILES = {
    "site.css": "text/css; charset=utf-8",
    "site.js": "text/javascript; charset=utf-8",
    "charts.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
#: Nothing inline, nothing from elsewhere, in nobody's frame. A form's `Origin` is only told under `same-origin`.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "Vary": "Accept, Cookie",
    "X-Content-Type-Options": "nosniff",
}


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def page(template: str, status: int = 200, **values: Any) -> Response[bytes]:
    """A page, with everything in it escaped."""
    body = _environment().get_template(template).render(values).encode("utf-8", "replace")
    return Response(body, status_code=status, media_type="text/html", headers=dict(HEADERS))


def redirect(to: str) -> Response[bytes]:
    """303: see there, with GET. `to` is a path of this server."""
    # A header has no letters beyond Latin ones.
    location = quote(to, safe=string.punctuation)
    return Response(b"", status_code=303, media_type="text/html", headers={**HEADERS, "Location": location})


@cache
def file(name: str) -> tuple[bytes, str]:
    """The content of one of `FILES`, and its ETag."""
    content = (_FOLDER / "static" / name).read_bytes()
    return content, f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
