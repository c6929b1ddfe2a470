"""The page at `/` and its files, from the package; nothing else is ever read for them."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import Response

from .errors import ApiError

router = APIRouter(include_in_schema=False)
_KINDS = {
    ".svg": "image/svg+xml",
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
_FILES = {file.name: file for file in files(__package__).joinpath("page").iterdir() if file.name.endswith(tuple(_KINDS))}
# The page loads nothing from elsewhere, and this holds the browser to it.
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'"


@router.get("/")
async def page() -> Response:
    """Return the page."""
    return await page_file("index.html")


@router.get("/page/{name}")
async def page_file(name: str) -> Response:
    """Return one of its files."""
    if name not in _FILES:
        raise ApiError(404, f"the page has no file {name!r}")
    kind = _KINDS[name[name.rindex(".") :]]
    headers = {"Content-Security-Policy": f"{_POLICY}; frame-ancestors 'none'; form-action 'none'", "X-Content-Type-Options": "nosniff"}
    return Response(_FILES[name].read_bytes(), media_type=kind, headers=headers)
