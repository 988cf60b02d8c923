"""A sub-application for each path of each gateway, so that even a 404 below it speaks its dialect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from parallama.gateway.api import Gateway, Route
from parallama.proxy.body import hold_continue
from parallama.proxy.relay import Relay


def mount(gateway: Gateway, relay: Relay, middlewares: Sequence[Middleware]) -> Iterator[tuple[str, web.Application]]:
    """The mounts of `gateway`, each with its application; `middlewares` are in order, the outermost first."""
    routes = gateway.routes()
    for path in gateway.paths:
        app = web.Application(middlewares=middlewares)
        for route in routes:
            handler: Handler = _handler(relay, gateway, route, path)
            app.router.add_route(route.method, route.path, handler, expect_handler=hold_continue)
        yield path, app


def _handler(relay: Relay, gateway: Gateway, route: Route, path: str) -> Handler:
    return partial(relay.handle, gateway=gateway, route=route, mount=path)
