"""Cross-origin requests of browsers, for the pages of listed origins (Fetch standard, section 3.3).

A preflight is answered before anybody is asked who they are: browsers send no key with it. Answers of ours never allow
credentials, which would be cookies: keys are headers that a page sets itself. Other origins are told nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from aiohttp import web
from aiohttp.typedefs import Handler

from parallama.proxy.security import RESOURCE_POLICY

_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_AGE_S = "600"
_ANTHROPIC = ("requests", "tokens", "input-tokens", "output-tokens")
_EXPOSED = ", ".join(
    (
        *("x-request-id", "x-client-request-id", "request-id", "retry-after", "etag", "location", "www-authenticate"),
        *("x-parallama-node", "x-parallama-model", "x-parallama-context", "x-parallama-context-full"),
        *("x-parallama-simulated", "ratelimit", "ratelimit-policy"),
        *(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")),
        *(f"anthropic-ratelimit-{of}-{what}" for of in _ANTHROPIC for what in ("limit", "remaining", "reset")),
        "x-should-retry",
    )
)
"""What a page may read beside what it always may."""

_MOST = 64
_NAME = re.compile("[a-z0-9_-]{1,64}").fullmatch
"""As headers are named in practice; a `*` would be a wildcard."""


def allow(app: web.Application, origins: Collection[str]) -> None:
    """Let pages of `origins` ask `app`; without any, nothing is added to it.

    To be called behind whatever else its answers get: the headers of security are changed here.
    """
    if not origins:
        return
    allowed = frozenset(origins)

    @web.middleware
    async def answer_preflights(request: web.Request, handler: Handler) -> web.StreamResponse:
        if _is_preflight(request) and request.headers["Origin"] in allowed:
            return _preflight(request)
        return await handler(request)

    async def put_cors(request: web.Request, response: web.StreamResponse) -> None:
        origin = request.headers.get("Origin")
        if origin in allowed:
            _share(response, origin)

    app.middlewares.append(answer_preflights)
    app.on_response_prepare.append(put_cors)


def _is_preflight(request: web.Request) -> bool:
    headers = request.headers
    return request.method == "OPTIONS" and "Origin" in headers and "Access-Control-Request-Method" in headers


def _preflight(request: web.Request) -> web.Response:
    headers = {"Access-Control-Allow-Methods": _METHODS, "Access-Control-Max-Age": _AGE_S}
    if names := _asked(request):
        headers["Access-Control-Allow-Headers"] = names
    return web.Response(status=204, headers=headers)


def _asked(request: web.Request) -> str:
    """The headers that the page wants to send, of those that can be names; any of them is allowed: whatever means
    nothing here is ignored, and reaches no node."""
    lines = request.headers.getall("Access-Control-Request-Headers", [])
    names = [name.strip().lower() for line in lines for name in line.split(",")]
    return ", ".join([name for name in names if _NAME(name)][:_MOST])


def _share(response: web.StreamResponse, origin: str) -> None:
    headers = response.headers
    headers["Access-Control-Allow-Origin"] = origin
    headers["Access-Control-Expose-Headers"] = _EXPOSED
    headers.add("Vary", "Origin")
    headers.pop(RESOURCE_POLICY, None)
