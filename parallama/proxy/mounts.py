"""A sub-application for each path of each gateway, so that even a 404 below it speaks its dialect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from parallama.gateway.api import Gateway, Route
from parallama.metrics import Metrics
from parallama.proxy.relay import Relay

GATEWAY = web.AppKey("gateway", Gateway)
"""Of the application of a mount: whose dialect is spoken there."""

METRICS = web.AppKey("metrics", Metrics)
"""Of the root application."""


def mount(gateway: Gateway, relay: Relay, middlewares: Sequence[Middleware]) -> Iterator[tuple[str, web.Application]]:
    """The mounts of `gateway`, each with its application; `middlewares` are in order, the outermost first."""
    routes = gateway.routes()
    for path in gateway.paths:
        app = web.Application(middlewares=middlewares)
        app[GATEWAY] = gateway
        for route in routes:
            handler: Handler = _handler(relay, gateway, route, path)
            app.router.add_route(route.method, route.path, handler)
        yield path, app


def _handler(relay: Relay, gateway: Gateway, route: Route, path: str) -> Handler:
    return partial(relay.handle, gateway=gateway, route=route, mount=path)
