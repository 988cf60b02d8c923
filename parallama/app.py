"""Every object made, every route mounted. Read this first.

Nothing here does I/O: what has something to start offers `running()`, which the application enters in order when it
starts and leaves in reverse when it stops.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from secrets import token_urlsafe
from typing import TYPE_CHECKING

from aiohttp import web

from parallama.admin import state
from parallama.admin.api import Operation
from parallama.admin.control import control_app, figures, gateway_metrics
from parallama.admin.discovery import discovery
from parallama.admin.gateway_operations import gateway_operations
from parallama.admin.gateways import Following, GatewayRecords
from parallama.admin.http import add_operations, guarded
from parallama.admin.ledger import promises
from parallama.admin.openapi import openapi
from parallama.admin.resets import reset_operations
from parallama.admin.state_views import state_views
from parallama.admin.table import operations
from parallama.admin.usage import usage_operations
from parallama.admin.viewer import viewer
from parallama.admin.views import View
from parallama.bookkeeping import Ledger, build_ledger
from parallama.config import AuthSettings, Settings
from parallama.db.notify import Listener
from parallama.db.pool import Database
from parallama.errors import ConfigError
from parallama.exchange import IdGenerator
from parallama.gateway.families import Families, Family
from parallama.gateway.plugins import Plugins
from parallama.identity.actor import SERVER
from parallama.identity.callers import Callers
from parallama.identity.logins import Logins
from parallama.identity.passwords import Passwords
from parallama.identity.roles import seed_gateway_permissions
from parallama.identity.sessions import Sessions
from parallama.identity.tokens import AccessTokens
from parallama.ledger.memory import MemoryStore
from parallama.ledger.reconciler import Reconciler
from parallama.ledger.shipper import Shipper
from parallama.logs import hide
from parallama.metrics import Metrics
from parallama.networks import networks
from parallama.nodes.pool import Pool
from parallama.proxy import cors
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

if TYPE_CHECKING:
    from parallama.ledger.redis_store import RedisStore

READINESS = web.AppKey("readiness", state.Readiness)
POOL = web.AppKey("pool", Pool)
SHIPPER = web.AppKey("shipper", Shipper)
BOOKS = web.AppKey("books", Books)
STORE: web.AppKey[MemoryStore | RedisStore] = web.AppKey("store")
RECONCILER = web.AppKey("reconciler", Reconciler)
CONTROL = web.AppKey("control", web.Application)
"""Of the root application: what the control socket answers."""

_log = logging.getLogger("parallama.gateway")


def build_app(settings: Settings, database_url: str, state_directory: Path) -> web.Application:
    """The gateway on a database whose schema is current. Without `auth.jwt_secret` its access tokens end with it.
    Raises ConfigError for options that no gateway takes."""
    ids = IdGenerator()
    metrics = Metrics()
    traffic = Traffic()
    database = Database(database_url, settings.database)
    plugins = Plugins.load()
    families = _families(plugins, settings)
    following = Following(GatewayRecords(database), families)

    def on_change(kind: str, changed: str) -> None:
        callers.on_change(kind, changed)
        ledger.forgetting.on_change(kind, changed)
        following.on_change(kind)

    def on_reset() -> None:
        callers.on_reset()
        ledger.forgetting.on_reset()
        following.on_reset()

    listener = Listener(database_url, on_change, on_reset)
    pool = Pool(settings.nodes, metrics)
    at = state_directory / "journal" / ids().hex
    ledger = build_ledger(settings, at, database, listener, pool, metrics, traffic)
    tokens = _access_tokens(settings.auth)
    callers = Callers(database, settings.auth, listener, tokens, on_lapse=ledger.forgetting.on_lapse)
    stalls = Stalls(settings.relay.stall_s, settings.relay.backlog_mb * 1024 * 1024)
    heartbeats = Heartbeats(settings.relay.heartbeat_after_s, settings.relay.heartbeat_s)
    relay = Relay(pool, ledger.books, ledger.admission, stalls, heartbeats, settings, metrics)

    app = web.Application(middlewares=[answer_edges(ids, networks(settings.server.trusted_proxies))])
    app[READINESS] = readiness = state.Readiness(listener, ledger.journal, ledger.store)
    app.on_response_prepare.append(put_headers(stalls, lambda: readiness.draining))
    cors.allow(app, settings.server.cors_origins)
    app[POOL], app[METRICS], app[SHIPPER], app[BOOKS] = pool, metrics, ledger.shipper, ledger.books
    app[STORE], app[RECONCILER] = ledger.store, ledger.reconciler
    identity = (_seeded(database, families), listener.running, following.running, callers.running)
    proxy = (pool.running, stalls.running, heartbeats.running)
    for part in (database.running, *identity, *ledger.running, *proxy, ledger.reconciler.running):
        app.cleanup_ctx.append(_entered(part))

    for family in families:
        _mount(app, family, relay, ledger.books, callers)
    told = figures(metrics, traffic, ledger.books.settle)
    more = [*gateway_operations(database, families, told), *_ledger_operations(settings, database, ledger)]
    every = _add_api(app, settings, database, tokens, callers, more, listener)
    status = state.status(families, pool, traffic, ledger.books.settle)
    scrape = state.metrics(
        metrics, ledger.journal, ledger.shipper, database, listener, ledger.store, ledger.books.settle
    )
    views = state_views(state.root(families), state.readyz(readiness), status, scrape)
    views += [discovery(families, plugins, settings.discovery.cache_s)] if settings.discovery.enabled else []
    _add_state(app, views, every, families, callers)
    of_gateways = gateway_metrics(families, metrics, traffic, ledger.books.settle)
    app[CONTROL] = control_app({"/status": status, "/gateways/metrics": of_gateways, "/ledger": _promises(ledger)})
    return app


def _families(plugins: Plugins, settings: Settings) -> Families:
    """Of all plugins that can be used. Raises ConfigError."""
    families = plugins.families(settings.gateways)
    for problem in plugins.problems:
        _log.error("plugin not used", extra={"fields": {"problem": problem}})
    return families


def _ledger_operations(settings: Settings, database: Database, ledger: Ledger) -> Sequence[Operation]:
    usage = usage_operations(database, settings.timezone, settings.limits.weights)
    return [*usage, *reset_operations(database, ledger.caught_up)]


def _promises(ledger: Ledger) -> state.Handler:
    return promises(ledger.reconciler, ledger.journal, ledger.shipper, ledger.store)


def _access_tokens(auth: AuthSettings) -> AccessTokens:
    given = (auth.jwt_secret, auth.jwt_previous_secret)
    secret, previous = (None if one is None else one.get_secret_value() for one in given)
    secret = secret or token_urlsafe(48)
    hide(secret)
    return AccessTokens(secret, previous, auth.access_token_s)


def _seeded(database: Database, families: Families) -> Callable[[], AbstractAsyncContextManager[object]]:
    """Before anybody is served, the permission of each gateway is known."""

    @asynccontextmanager
    async def seeded() -> AsyncIterator[None]:
        receivers = {family.name: {role for one in family.classes for role in one.roles} for family in families}
        await seed_gateway_permissions(database, {name: sorted(roles) for name, roles in receivers.items()})
        yield

    return seeded


def _add_api(
    app: web.Application,
    settings: Settings,
    database: Database,
    tokens: AccessTokens,
    callers: Callers,
    more: Sequence[Operation],
    listener: Listener,
) -> Sequence[Operation]:
    """Logins, `/me` and the admin API, with what keeps them."""
    auth, passwords = settings.auth, Passwords()
    logins = Logins(database, auth, passwords, tokens)
    for part in (passwords.running, Sessions(database, SERVER, auth).running):
        app.cleanup_ctx.append(_entered(part))
    every = operations(database, auth, settings.relay.forward_headers, passwords, logins, more)
    add_operations(app, every, callers, listener.caught_up)
    return every


def _add_state(
    app: web.Application, views: Sequence[View], every: Sequence[Operation], families: Families, callers: Callers
) -> None:
    """What the server says of itself, and the document of all that it answers."""
    known = [*views, *viewer()]
    for view in (*known, openapi(every, known, families)):
        app.router.add_get(view.path, guarded(view.handler, view.guard, callers))


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
