"""A sub-application for each path of each gateway, so that even a 404 below it speaks its dialect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from aiohttp.web_urldispatcher import PrefixedSubAppResource

from parallama.gateway.families import Mounted
from parallama.metrics import Metrics
from parallama.proxy.relay import Relay

MOUNTED = web.AppKey("mounted", Mounted)
"""Of the application of a mount: whose dialect is spoken there."""

METRICS = web.AppKey("metrics", Metrics)
"""Of the root application."""


class _Mount(PrefixedSubAppResource):
    """The application below a path; where a header is required, for requests with it: others go to whoever has a mount
    above.

    Routes without variables are found here, their middlewares already around them: through the application's router
    they cost twice as much. It has the rest, and whatever is not there.
    """

    def __init__(
        self, prefix: str, app: web.Application, header: str, plain: Mapping[tuple[str, str], Handler]
    ) -> None:
        """`plain`: by method and whole path."""
        super().__init__(prefix, app)
        self._header = header
        self._plain = {key: web.ResourceRoute(key[0], handler, self) for key, handler in plain.items()}

    async def resolve(self, request: web.Request) -> Any:
        if self._header and self._header not in request.headers:
            return None, set()
        route = self._plain.get((request.method, request.rel_url.path_safe))
        return await super().resolve(request) if route is None else (web.UrlMappingMatchInfo({}, route), set())


def mount(app: web.Application, mounted: Mounted, relay: Relay, middlewares: Sequence[Middleware]) -> None:
    """Add the mounts of a gateway to `app`, each with its own application; `middlewares` are in order, the outermost
    first. The longest mount that fits a path has it."""
    header = mounted.serving.gateway.required_header
    for path in mounted.serving.gateway.paths:
        below = web.Application(middlewares=middlewares)
        below[MOUNTED] = mounted
        plain: dict[tuple[str, str], Handler] = {}
        for method, route in mounted.serving.routes:
            handler: Handler = partial(relay.handle, mounted=mounted, key=(method, route), mount=path)
            below.router.add_route(method, route, handler)
            if "{" not in route and not route.endswith("/"):  # a variable of a route before it may be empty
                plain[method, path + route] = _around(handler, middlewares)
        # aiohttp has no public way to add a resource
        app._add_subapp(partial(_Mount, path, below, header, plain), below)


def _around(handler: Handler, middlewares: Sequence[Middleware]) -> Handler:
    """`handler` within them, as aiohttp puts them around it."""
    for middleware in reversed(middlewares):
        handler = partial(middleware, handler=handler)
    return handler
