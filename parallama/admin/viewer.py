"""A page for reading what the API can do: `/admin/v1/docs`. It holds nothing of the API itself.

Its script asks the reader for a key or a token, keeps it in memory only, and fetches the OpenAPI document with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

from aiohttp import web

from parallama.admin.api import PREFIX
from parallama.admin.state import Handler

PATH = f"{PREFIX}/docs"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""No script, style or address but of this server (CSP level 3)."""


def viewer() -> Mapping[str, Handler]:
    """The handlers of GET by path: the page, its script and its style."""
    return {
        PATH: _file("viewer.html", "text/html"),
        f"{PATH}/viewer.js": _file("viewer.js", "text/javascript"),
        f"{PATH}/viewer.css": _file("viewer.css", "text/css"),
    }


def _file(name: str, content_type: str) -> Handler:
    body = resources.files("parallama.admin").joinpath("pages", name).read_bytes()
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}

    async def file(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)

    return file
