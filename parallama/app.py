"""Every object made, every route mounted. Read this first.

Nothing here does I/O: what has something to start offers `running()`, which the application enters in order when it
starts and leaves in reverse when it stops.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

from aiohttp import web

from parallama.admin import state
from parallama.admin.control import control_app, gateway_metrics
from parallama.admin.discovery import discovery
from parallama.admin.gateways import Following, GatewayRecords
from parallama.config import Settings
from parallama.db.notify import Listener
from parallama.db.pool import Database
from parallama.errors import ConfigError
from parallama.exchange import IdGenerator
from parallama.gateway.families import Family
from parallama.gateway.plugins import Plugins
from parallama.identity.callers import Callers
from parallama.ledger.recorder import Recorder
from parallama.metrics import Metrics
from parallama.nodes.pool import Pool
from parallama.proxy.books import Books
from parallama.proxy.heartbeats import Heartbeats
from parallama.proxy.middlewares import (
    account,
    answer_edges,
    answer_errors,
    authenticate,
    put_headers,
)
from parallama.proxy.mounts import METRICS, mount
from parallama.proxy.relay import Relay
from parallama.proxy.stalls import Stalls
from parallama.traffic import Traffic

READINESS = web.AppKey("readiness", state.Readiness)
POOL = web.AppKey("pool", Pool)
RECORDER = web.AppKey("recorder", Recorder)
BOOKS = web.AppKey("books", Books)
CONTROL = web.AppKey("control", web.Application)
"""Of the root application: what the control socket answers."""

_log = logging.getLogger("parallama.gateway")


def build_app(settings: Settings, database_url: str) -> web.Application:
    """The gateway on a database whose schema is current. Raises ConfigError for options that no gateway takes."""
    metrics = Metrics()
    traffic = Traffic()
    database = Database(database_url, settings.database)
    plugins = Plugins.load()
    families = plugins.families(settings.gateways)
    for problem in plugins.problems:
        _log.error("plugin not used", extra={"fields": {"problem": problem}})
    following = Following(GatewayRecords(database), families)

    def on_change(kind: str, changed: str) -> None:
        callers.on_change(kind, changed)
        following.on_change(kind)

    def on_reset() -> None:
        callers.on_reset()
        following.on_reset()

    listener = Listener(database_url, on_change, on_reset)
    callers = Callers(database, settings.auth, listener)
    recorder = Recorder(database, settings.usage)
    pool = Pool(settings.nodes, metrics)
    books = Books(recorder, metrics, traffic, pool.catalog.name_of)
    stalls = Stalls(settings.relay.stall_s, settings.relay.backlog_mb * 1024 * 1024)
    heartbeats = Heartbeats(settings.relay.heartbeat_after_s, settings.relay.heartbeat_s)
    relay = Relay(pool, stalls, heartbeats, settings, metrics)

    app = web.Application(middlewares=[answer_edges(IdGenerator())])
    app[READINESS] = readiness = state.Readiness(listener)
    app.on_response_prepare.append(put_headers(stalls, lambda: readiness.draining))
    app[POOL], app[RECORDER], app[BOOKS], app[METRICS] = pool, recorder, books, metrics
    for part in (database, listener, following, callers, recorder, books, pool, stalls, heartbeats):
        app.cleanup_ctx.append(_entered(part.running))

    for family in families:
        _mount(app, family, relay, books, callers)

    settle, asks = books.settle, state.guarded
    status = state.status(families, pool, traffic, settle)
    app[CONTROL] = control_app(
        {"/status": status, "/gateways/metrics": gateway_metrics(families, metrics, traffic, settle)}
    )
    if settings.discovery.enabled:
        app.router.add_get("/discovery", asks(discovery(families, plugins, settings.discovery.cache_s), None, callers))
    scrape = state.metrics(metrics, recorder, database, listener, settle)
    app.add_routes(
        [
            web.get("/", state.root(families)),
            web.get("/ollama", state.liveness),
            web.get("/ollama/", state.liveness),
            web.get("/healthz", state.healthz),
            web.get("/readyz", state.readyz(readiness)),
            web.get("/status", asks(status, "view_metrics", callers)),
            web.get("/metrics", asks(scrape, "view_metrics", callers)),
        ]
    )
    return app


def _mount(app: web.Application, family: Family, relay: Relay, books: Books, callers: Callers) -> None:
    for mounted in family.mounted:
        around = [
            account(family.name, books, lambda: app[READINESS].over),
            answer_errors(mounted),
            authenticate(mounted, callers, books),
        ]
        try:
            mount(app, mounted, relay, around)
        except ValueError as error:  # of a path that looks like one, but not to aiohttp
            raise ConfigError(f"gateways.{family.name}: its routes cannot be mounted: {error}") from error


def _entered(
    running: Callable[[], AbstractAsyncContextManager[object]],
) -> Callable[[web.Application], AsyncIterator[None]]:
    async def context(_app: web.Application) -> AsyncIterator[None]:
        async with running():
            yield

    return context
