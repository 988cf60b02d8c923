"""The five promises of the ledger as numbers: from the database, the journals and, if one runs here, the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from parallama.admin.control import NotRunning, asked
from parallama.cli.context import Context
from parallama.db.pool import Database
from parallama.errors import Unavailable
from parallama.identity.in_force import limits_in_force
from parallama.identity.terms import told
from parallama.ledger import left
from parallama.ledger.seeds import Seeds
from parallama.ledger.sums import Off, Sums
from parallama.ledger.verify import Noted, missing, noted, overspent
from parallama.ledger.windows import window
from parallama.limits import Period

if TYPE_CHECKING:
    from parallama.ledger.redis_store import RedisStore

_WAIT_S = 5.0
"""For rows that are still being shipped, and for what just changes."""
_AGAIN_S = 0.2
_DOWN = {"lost": 0, "damaged": 0, "leaked": 0, "counts": 0, "amount": 0, "overrun": 0}
"""What is told where no server runs: what it had in memory is gone with it."""

Served = Mapping[str, Any]
"""What the server tells: `parallama.admin.ledger.promises`."""


@dataclass(frozen=True, slots=True)
class Promise:
    """One of the five, and how far it is from being kept."""

    id: str
    name: str
    number: int
    """0: it is kept."""
    why: tuple[str, ...] = ()
    """What the number is made of, a line each."""


async def promises(ctx: Context, database: Database, wait_s: float = _WAIT_S) -> list[Promise]:
    """All five, as soon as they are kept, or as they are after so many seconds; at once where nothing runs that could
    still ship rows. Raises Unavailable."""
    off = await Sums(database, ctx.settings.timezone, ctx.settings.usage.storage_days).check()
    journals = await asyncio.to_thread(noted, ctx.state / "journal")
    until = time.monotonic() + wait_s
    while True:
        found = await _look(ctx, database, off, journals)
        if not any(one.number for one in found) or time.monotonic() >= until or not any(one.alive for one in journals):
            return found
        await asyncio.sleep(_AGAIN_S)


async def _look(ctx: Context, database: Database, off: Off, journals: Sequence[Noted]) -> list[Promise]:
    served = await asyncio.to_thread(_served, ctx)
    return [
        await _overspent(ctx, database, (served or _DOWN)["overrun"]),
        await _lost(database, journals, served or _DOWN),
        _promise("I3", "double", {"requests are in the sums more often than they have rows": off.double}),
        await _leaked(ctx, served),
        _drift(off, served or _DOWN),
    ]


def _promise(id: str, name: str, found: Mapping[str, int]) -> Promise:
    """`found`: so many of what."""
    return Promise(id, name, sum(found.values()), tuple(f"{number} {what}" for what, number in found.items() if number))


def _served(ctx: Context) -> Served | None:
    """None: no server runs here. Raises Unavailable when it does not answer, or has nobody who does."""
    try:
        served: Served = asked(ctx.state, "/ledger")
    except NotRunning:
        return None
    if served["counts"] is None:
        raise Unavailable("the server cannot compare its counts now: its database or Redis does not answer")
    return served


async def _overspent(ctx: Context, database: Database, overrun: int) -> Promise:
    """Less what nodes went beyond their bounds, which is told apart: it is booked in full."""
    zone, now = ctx.settings.timezone, time.time()
    since = window(Period.MONTH, now, ZoneInfo(zone)).start
    known = await limits_in_force(database, datetime.fromtimestamp(since, UTC))
    seeds = Seeds(database, zone, ctx.settings.limits.weights)
    passed = await overspent([(one.limit, one.since) for one in known], seeds, zone, now)
    whose = {one.limit.subject: one.whose for one in known}
    lines = [
        f"{one.beyond} beyond {told(one.limit.scope)} of {whose[one.limit.subject]}: {one.used} of {one.limit.amount}"
        for one in passed
    ]
    number = max(0, sum(one.beyond for one in passed) - overrun)
    return Promise("I1", "overspent", number, tuple(lines) if number else ())


async def _lost(database: Database, journals: Sequence[Noted], served: Served) -> Promise:
    gone = {one.journal for one in journals if not one.alive}
    unshipped = {
        f"rows of the journal {name} are not in the database{_why(name in gone)}": count
        for name, count in (await missing(database, journals)).items()
    }
    damaged = served["damaged"] + sum(one.damaged for one in journals)
    return _promise(
        "I2",
        "lost",
        {
            **unshipped,
            "rows were given up, by the database or for want of room": served["lost"],
            "files of journals are damaged: what stood in them is not known": damaged,
        },
    )


def _why(gone: bool) -> str:
    return ": its process is no more, and none has taken it over yet" if gone else ""


async def _leaked(ctx: Context, served: Served | None) -> Promise:
    if served is not None:
        return _promise("I4", "leaked", {"reservations and leases are held for nobody": served["leaked"]})
    found = await _left(ctx)
    lines = {f"requests of {name}, which is no more, hold limits": count for name, count in found.items()}
    return _promise("I4", "leaked", lines)


async def _left(ctx: Context) -> Mapping[str, int]:
    """Requests that hold limits in Redis, by process, of those that are no more and have no journal here."""
    async with redis_store(ctx) as store:
        found = {} if store is None else await store.left()
    here = {home.name for home in left.homes(ctx.state / "journal")}
    return {name: count for name, count in found.items() if count and name not in here}


@asynccontextmanager
async def redis_store(ctx: Context) -> AsyncIterator[RedisStore | None]:
    """The counts in Redis; None: they are in the server's memory. Raises Unavailable when Redis does not answer."""
    url = ctx.settings.redis.url
    if url is None:
        yield None
        return
    from parallama.ledger.redis_store import RedisStore
    from parallama.ledger.store import Uncountable

    store = RedisStore(url.get_secret_value(), ZoneInfo(ctx.settings.timezone))
    try:
        async with store.running():
            yield store
    except Uncountable as error:
        raise Unavailable("Redis does not answer") from error


def _drift(off: Off, served: Served) -> Promise:
    how_far = f" (by {off.requests} requests and {off.tokens} tokens)" if off.sums else ""
    by = f" (by {served['amount']})" if served["counts"] else ""
    return _promise(
        "I5",
        "drift",
        {f"sums are not those of their rows{how_far}": off.sums, f"counts of limits are off{by}": served["counts"]},
    )
