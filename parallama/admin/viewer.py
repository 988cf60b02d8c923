"""A page for reading what the API can do: `/admin/v1/docs`. It holds nothing of the API itself.

Its script asks the reader for a key or a token, keeps it in memory only, and fetches the OpenAPI document with it.
"""

from __future__ import annotations

from importlib import resources

from aiohttp import web

from parallama.admin.api import PREFIX
from parallama.admin.guards import PUBLIC
from parallama.admin.state import Handler
from parallama.admin.views import View, page

PATH = f"{PREFIX}/docs"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""No script, style or address but of this server (CSP level 3)."""


def viewer() -> list[View]:
    """The page, its script and its style."""
    return [
        _view("get_docs", PATH, "viewer.html", "text/html"),
        _view("get_docs_script", f"{PATH}/viewer.js", "viewer.js", "text/javascript"),
        _view("get_docs_style", f"{PATH}/viewer.css", "viewer.css", "text/css"),
    ]


def _view(name: str, path: str, file: str, content_type: str) -> View:
    handler, summary = _file(file, content_type), "What shows this document in a browser."
    return View(name=name, path=path, tag="docs", summary=summary, guard=PUBLIC, handler=handler,
                answers=page(content_type))  # fmt: skip


def _file(name: str, content_type: str) -> Handler:
    body = resources.files("parallama.admin").joinpath("pages", name).read_bytes()
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}

    async def file(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)

    return file
