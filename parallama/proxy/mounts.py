"""A sub-application for each path of each gateway, so that even a 404 below it speaks its dialect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    """The application below a path, for requests with a certain header; others go to whoever has a mount above."""

    def __init__(self, prefix: str, app: web.Application, header: str) -> None:
        super().__init__(prefix, app)
        self._header = header

    async def resolve(self, request: web.Request) -> Any:
        return await super().resolve(request) if self._header in request.headers else (None, set())


def mount(app: web.Application, mounted: Mounted, relay: Relay, middlewares: Sequence[Middleware]) -> None:
    """Add the mounts of a gateway to `app`, each with its own application; `middlewares` are in order, the outermost
    first. The longest mount that fits a path has it."""
    for path, below in _applications(mounted, relay, middlewares):
        if header := mounted.serving.gateway.required_header:
            app._add_subapp(partial(_Mount, path, below, header), below)  # aiohttp has no public way to add a resource
        else:
            app.add_subapp(path, below)


def _applications(
    mounted: Mounted, relay: Relay, middlewares: Sequence[Middleware]
) -> Iterator[tuple[str, web.Application]]:
    for path in mounted.serving.gateway.paths:
        below = web.Application(middlewares=middlewares)
        below[MOUNTED] = mounted
        for method, route in mounted.serving.routes:
            handler: Handler = partial(relay.handle, mounted=mounted, key=(method, route), mount=path)
            below.router.add_route(method, route, handler)
        yield path, below
