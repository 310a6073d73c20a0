"""The page at ``/``: files of the package's folder ``page``, read once and sent as they are. No build step, nothing from another host.

The policy that comes with every file lets the browser load scripts, styles and data from this service alone, run no inline script and
turn no string into markup; so what a title says is never more than text. Paths in the page are relative: it works under any prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from http import HTTPStatus
from importlib.resources import files
from typing import Annotated, Final

from fastapi import FastAPI, Header, Response
from starlette.exceptions import HTTPException

INDEX: Final = "index.html"
FOLDER: Final = "page"
SUFFIX_TO_MEDIA_TYPE: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        )
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # kept, but asked for by its ETag: an upgrade is seen at once
}


@dataclass(frozen=True)
class PageFile:
    """A file as it is sent."""

    content: bytes
    media_type: str
    etag: str


@cache
def page_files() -> Mapping[str, PageFile]:
    """Every file of the page by its name."""
    found = {}
    for path in (files("l2d_ray.serve") / FOLDER).iterdir():
        suffix = path.name[path.name.rfind(".") :]
        if suffix in SUFFIX_TO_MEDIA_TYPE:
            content = path.read_bytes()
            found[path.name] = PageFile(content, SUFFIX_TO_MEDIA_TYPE[suffix], f'"{blake2b(content, digest_size=8).hexdigest()}"')
    return found


def add_page(api: FastAPI) -> None:
    """Routes of the page; they need no key and stand outside the API's document."""

    @api.get("/", include_in_schema=False)
    async def index(if_none_match: Annotated[str | None, Header()] = None) -> Response:
        return _answer(INDEX, if_none_match)

    @api.get("/page/{name}", include_in_schema=False)
    async def file(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
        return _answer(name, if_none_match)


def _answer(name: str, known_etag: str | None) -> Response:
    file = page_files().get(name)
    if file is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, f"The page has no file {name!r}.")
    headers = {**HEADERS, "ETag": file.etag}
    if known_etag == file.etag:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)
