"""The parts of the ledger, made and joined: what is written down of requests, and what their limits count.

Everybody else gets from here what they need of it. Nothing here does I/O.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from parallama.config import Settings
from parallama.db.notify import Listener
from parallama.db.pool import Database
from parallama.errors import Unavailable
from parallama.ledger.drift import Drift
from parallama.ledger.forgetting import Forgetting
from parallama.ledger.journal import Journal
from parallama.ledger.leaks import Leaks
from parallama.ledger.memory import MemoryStore
from parallama.ledger.reconciler import Reconciler
from parallama.ledger.seeds import Seeding, Seeds, Used
from parallama.ledger.shipper import Shipper
from parallama.ledger.store import Uncountable
from parallama.ledger.sums import Sums
from parallama.limits import Counter
from parallama.metrics import Metrics
from parallama.nodes.pool import Pool
from parallama.proxy.admission import Admission, settle_left
from parallama.proxy.books import Books
from parallama.traffic import Traffic

if TYPE_CHECKING:
    from parallama.ledger.redis_store import RedisStore

Running = Callable[[], AbstractAsyncContextManager[object]]

_OTHERS_S = 5.0
"""Longest wait for the rows of other processes, however seldom they are to be written."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Of one process."""

    store: MemoryStore | RedisStore
    journal: Journal
    shipper: Shipper
    books: Books
    admission: Admission
    forgetting: Forgetting
    reconciler: Reconciler
    """To be entered last: it looks at all the rest."""
    caught_up: Callable[[], Awaitable[bool]]
    """Until what has ended by now is in the database; False: another process may still have some of it. Raises
    Unavailable."""

    @property
    def running(self) -> Sequence[Running]:
        """What is to be entered in this order, but for the reconciler."""
        store = [] if isinstance(self.store, MemoryStore) else [self.store.running]
        return [self.forgetting.running, *store, self.journal.running, self.shipper.running, self.books.running]


def build_ledger(
    settings: Settings,
    at: Path,
    database: Database,
    listener: Listener,
    pool: Pool,
    metrics: Metrics,
    traffic: Traffic,
) -> Ledger:
    """`at`: the directory of the journal of this process, beside those of others; its name was never used before."""
    # what is reserved in Redis outlives this process
    journal = Journal(at.parent, at.name, settings.usage, at_once=settings.redis.url is not None)
    store = _store(settings, at.name)
    shipper = _shipper(settings, database, journal, store)
    seeds = Seeds(database, settings.timezone, settings.limits.weights)
    used = _used(
        seeds, shipper, listener, 0.0 if isinstance(store, MemoryStore) else 2 * settings.usage.flush_ms / 1000
    )
    admission = Admission(store, Seeding(store, used), pool.catalog, settings.limits, metrics)
    books = Books(journal, metrics, traffic, pool.catalog.name_of, admission.settle, strict=settings.usage.strict)
    caught_up = _caught_up(store, shipper, listener)
    sums = Sums(database, settings.timezone, settings.usage.storage_days)
    drift = Drift(store, caught_up, seeds, settings.timezone, settings.limits.weights)
    leaks = Leaks(store, lambda: books.under_way, lambda: sum(node.in_flight for node in pool.nodes))
    reconciler = Reconciler(database, store, sums, drift, leaks, metrics)
    forgetting = Forgetting(store, database, reconciler.reset)
    return Ledger(store, journal, shipper, books, admission, forgetting, reconciler, caught_up)


def _store(settings: Settings, instance: str) -> MemoryStore | RedisStore:
    """Where it is counted what callers use: in Redis, if there is one, together with all who share it. What a process
    has reserved there has the name of its journal."""
    zone, url = ZoneInfo(settings.timezone), settings.redis.url
    if url is None:
        return MemoryStore(zone)
    from parallama.ledger.redis_store import RedisStore  # takes a while, for nothing where there is none

    return RedisStore(url.get_secret_value(), zone, instance=instance)


def _shipper(settings: Settings, database: Database, journal: Journal, store: MemoryStore | RedisStore) -> Shipper:
    """One that the store knows of, if others share that: they are told what is on its way."""
    ship = partial(Shipper, database, journal, settings.usage, settings.timezone, settle=partial(settle_left, store))
    if isinstance(store, MemoryStore):
        return ship()
    shipper = ship(settled=store.paid, adopted=store.adopted)
    store.follow(lambda: shipper.waiting_since)
    return shipper


def _used(
    seeds: Seeds, shipper: Shipper, listener: Listener, others_s: float
) -> Callable[[Collection[Counter]], Awaitable[Used]]:
    """What asks the seeds for what was used, by all processes."""

    async def used(counters: Collection[Counter]) -> Used:
        _not_while_lost(listener)
        # what other processes have settled may not be in the database before they ship again
        await asyncio.sleep(min(others_s, _OTHERS_S))
        await shipper.caught_up()
        return await seeds.of(counters)

    return used


def _caught_up(store: MemoryStore | RedisStore, shipper: Shipper, listener: Listener) -> Callable[[], Awaitable[bool]]:
    async def caught_up() -> bool:
        _not_while_lost(listener)
        others, began = await _others_shipped(store), time.monotonic()
        await shipper.caught_up()
        since = shipper.waiting_since
        return others and (since is None or since >= began)

    return caught_up


async def _others_shipped(store: MemoryStore | RedisStore) -> bool:
    try:
        return isinstance(store, MemoryStore) or await store.shipped()
    except Uncountable:
        return False


def _not_while_lost(listener: Listener) -> None:
    if listener.lost_since is not None:
        raise Unavailable("the database does not answer")
