"""What every page has in common: the templates, the headers, and the few files that a browser fetches with it."""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import Response
from litestar.datastructures import Cookie

from headend.pages.words import Words

__all__ = ["ASSETS", "HEADERS", "STATIC", "asset_url", "own_style_headers", "page", "redirect", "render"]

_HERE = Path(__file__).parent
STATIC = "/pages/static"
_KINDS = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}

# Read once: what is not in this table is not served, whatever the path says.
ASSETS: Mapping[str, tuple[str, bytes]] = {
    path.name: (_KINDS[path.suffix], path.read_bytes()) for path in sorted((_HERE / "static").iterdir())
}
_MARKS = {name: hashlib.sha256(content).hexdigest()[:12] for name, (_, content) in ASSETS.items()}

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'{style}; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY.format(style=""),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
# Of a page that carries its style inside, to be kept as a file.
_STYLE = ASSETS["pages.css"][1].decode()
_OWN_STYLE = f" 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
_OWN_STYLE_POLICY = _POLICY.format(style=_OWN_STYLE)


def asset_url(name: str) -> str:
    """With a mark of its content, so that it may be kept for ever."""
    return f"{STATIC}/{name}?v={_MARKS[name]}"


_TEMPLATES = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals.update(asset_url=asset_url, style=_STYLE)


def render(name: str, words: Words, **figures: object) -> str:
    """Every text and figure is escaped."""
    return _TEMPLATES.get_template(name).render(t=words, lang=words.language, **figures)


def page(
    name: str, words: Words, *, status: int = 200, cookies: list[Cookie] | None = None, **figures: object
) -> Response[str]:
    return Response(
        render(name, words, **figures),
        status_code=status,
        media_type="text/html; charset=utf-8",
        headers={**HEADERS, "Content-Language": words.tag, "Vary": "Accept-Language, Cookie"},
        cookies=cookies or [],
    )


def own_style_headers(words: Words) -> dict[str, str]:
    """Of a page that carries its style inside, to be kept as a file."""
    return {**HEADERS, "Content-Security-Policy": _OWN_STYLE_POLICY, "Content-Language": words.tag}


def redirect(place: str, *, cookies: list[Cookie] | None = None) -> Response[bytes]:
    """After a POST, so that a reload sends nothing again. place: a path of ours. Raises ValueError for another one's."""
    parts = urlsplit(place)
    if parts.scheme or parts.netloc or not place.startswith("/") or place.startswith(("//", "/\\")):
        raise ValueError(f"{place!r} is not a path of ours")
    headers = {**HEADERS, "Location": place}
    return Response(b"", status_code=303, media_type="text/plain", headers=headers, cookies=cookies or [])
