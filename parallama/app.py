"""Every object made, every route mounted. Read this first.

Nothing here does I/O: what has something to start offers `running()`, which the application enters in order when it
starts and leaves in reverse when it stops.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from secrets import token_urlsafe
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

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
from parallama.config import AuthSettings, Settings
from parallama.db.notify import Listener
from parallama.db.pool import Database
from parallama.errors import ConfigError, Unavailable
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
from parallama.ledger.drift import Drift
from parallama.ledger.forgetting import Forgetting
from parallama.ledger.journal import Journal
from parallama.ledger.leaks import Leaks
from parallama.ledger.memory import MemoryStore
from parallama.ledger.reconciler import Reconciler
from parallama.ledger.seeds import Seeding, Seeds, Used
from parallama.ledger.shipper import Shipper
from parallama.ledger.sums import Sums
from parallama.limits import Counter
from parallama.logs import hide
from parallama.metrics import Metrics
from parallama.networks import networks
from parallama.nodes.pool import Pool
from parallama.proxy import cors
from parallama.proxy.admission import Admission, settle_left
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

_OTHERS_S = 5.0
"""Longest wait for the rows of other processes, however seldom they are to be written."""

_log = logging.getLogger("parallama.gateway")


def build_app(settings: Settings, database_url: str, state_directory: Path) -> web.Application:
    """The gateway on a database whose schema is current. Without `auth.jwt_secret` its access tokens end with it.
    Raises ConfigError for options that no gateway takes."""
    ids = IdGenerator()
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
        forgetting.on_change(kind, changed)
        following.on_change(kind)

    def on_reset() -> None:
        callers.on_reset()
        forgetting.on_reset()
        following.on_reset()

    listener = Listener(database_url, on_change, on_reset)
    tokens = _access_tokens(settings.auth)
    callers = Callers(database, settings.auth, listener, tokens)
    instance = ids().hex
    journal = Journal(state_directory / "journal", instance, settings.usage)
    store = _store(settings, instance)
    forgetting = Forgetting(store, database)
    shipper = Shipper(database, journal, settings.usage, settings.timezone, settle=partial(settle_left, store))
    pool = Pool(settings.nodes, metrics)
    others_s = 0.0 if isinstance(store, MemoryStore) else min(2 * settings.usage.flush_ms / 1000, _OTHERS_S)
    seeds = Seeds(database, settings.timezone, settings.limits.weights)
    used = _used(seeds, shipper, listener, others_s)
    admission = Admission(store, Seeding(store, used), pool.catalog, settings.limits, metrics)
    books = Books(journal, metrics, traffic, pool.catalog.name_of, admission.settle, strict=settings.usage.strict)
    reconciler = _reconciler(settings, database, store, _leaks(store, books, pool), partial(used, ()), seeds, metrics)
    stalls = Stalls(settings.relay.stall_s, settings.relay.backlog_mb * 1024 * 1024)
    heartbeats = Heartbeats(settings.relay.heartbeat_after_s, settings.relay.heartbeat_s)
    relay = Relay(pool, books, admission, stalls, heartbeats, settings, metrics)

    app = web.Application(middlewares=[answer_edges(ids, networks(settings.server.trusted_proxies))])
    app[READINESS] = readiness = state.Readiness(listener, journal)
    app.on_response_prepare.append(put_headers(stalls, lambda: readiness.draining))
    cors.allow(app, settings.server.cors_origins)
    app[POOL], app[SHIPPER], app[BOOKS], app[METRICS] = pool, shipper, books, metrics
    app[STORE], app[RECONCILER] = store, reconciler
    seeded = _seeded(database, families)
    for part in (database.running, seeded, listener.running, following.running, callers.running, forgetting.running):
        app.cleanup_ctx.append(_entered(part))
    if not isinstance(store, MemoryStore):
        app.cleanup_ctx.append(_entered(store.running))
    for part in (journal.running, shipper.running, books.running, pool.running, stalls.running, heartbeats.running):
        app.cleanup_ctx.append(_entered(part))
    app.cleanup_ctx.append(_entered(reconciler.running))

    for family in families:
        _mount(app, family, relay, books, callers)
    settle = books.settle
    gateways = gateway_operations(database, families, figures(metrics, traffic, settle))
    usage = usage_operations(database, settings.timezone, settings.limits.weights)
    resets = reset_operations(database, partial(used, ()))
    every = _add_api(app, settings, database, tokens, callers, [*gateways, *usage, *resets], listener)
    status = state.status(families, pool, traffic, settle)
    scrape = state.metrics(metrics, journal, shipper, database, listener, store, settle)
    views = state_views(state.root(families), state.readyz(readiness), status, scrape)
    views += [discovery(families, plugins, settings.discovery.cache_s)] if settings.discovery.enabled else []
    _add_state(app, views, every, families, callers)
    told = gateway_metrics(families, metrics, traffic, settle)
    kept = promises(reconciler, journal, shipper, store)
    app[CONTROL] = control_app({"/status": status, "/gateways/metrics": told, "/ledger": kept})
    return app


def _used(
    seeds: Seeds, shipper: Shipper, listener: Listener, others_s: float
) -> Callable[[Collection[Counter]], Awaitable[Used]]:
    """What asks the seeds for what was used, by all processes."""

    async def used(counters: Collection[Counter]) -> Used:
        if listener.lost_since is not None:
            raise Unavailable("the database does not answer")
        # what other processes have settled may not be in the database before they ship again
        await asyncio.sleep(others_s)
        await shipper.caught_up()
        return await seeds.of(counters)

    return used


def _leaks(store: MemoryStore | RedisStore, books: Books, pool: Pool) -> Leaks:
    return Leaks(store, lambda: books.under_way, lambda: sum(node.in_flight for node in pool.nodes))


def _reconciler(
    settings: Settings,
    database: Database,
    store: MemoryStore | RedisStore,
    leaks: Leaks,
    caught_up: Callable[[], Awaitable[object]],
    seeds: Seeds,
    metrics: Metrics,
) -> Reconciler:
    sums = Sums(database, settings.timezone, settings.usage.storage_days)
    drift = Drift(store, caught_up, seeds, settings.timezone, settings.limits.weights)
    return Reconciler(database, store, sums, drift, leaks, metrics)


def _store(settings: Settings, instance: str) -> MemoryStore | RedisStore:
    """Where it is counted what callers use: in Redis, if there is one, together with all who share it. What a process
    has reserved there has the name of its journal."""
    zone, url = ZoneInfo(settings.timezone), settings.redis.url
    if url is None:
        return MemoryStore(zone)
    from parallama.ledger.redis_store import RedisStore  # takes a while, for nothing where there is none

    return RedisStore(url.get_secret_value(), zone, instance=instance)


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
