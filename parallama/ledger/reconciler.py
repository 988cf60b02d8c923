"""Looks every minute whether the ledger keeps its promises, and puts right what does not: sums, counts, what is held.

A sum that is off is corrected at once, since rows and sums change together. A count that is off, and what is held for
nobody, is put right when it is found so a second time: the first time it may just be changing. Counts that were reset
are compared at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from typing import NamedTuple
from uuid import UUID

from parallama.background import beside
from parallama.db import query
from parallama.db.pool import Database
from parallama.errors import Unavailable
from parallama.ledger.drift import Drift, Gap, Missing
from parallama.ledger.leaks import Leaked, Leaks
from parallama.ledger.store import Store, Uncountable
from parallama.ledger.sums import Off, Sums
from parallama.metrics import Metrics

_SQL = query.load("ledger")
_EVERY_S = 60.0
_ROUND_S = 30.0
"""Longest time for the counts of one round."""
_MOMENT_S = 0.5
_LOOKS = 5
"""At counts that were reset: what ends during one look hides as much of what is off."""
_FEW = 200
"""Users and keys that are looked at in one of them."""
_AGAIN_S = 1.0

_log = logging.getLogger("parallama.usage")
_errors = logging.getLogger("parallama.error")


class Found(NamedTuple):
    """What is wrong in this process."""

    leaked: int
    counts: Missing | None
    """None: the database or Redis does not answer."""


class Reconciler:
    """Of one process. Works inside `running()`."""

    def __init__(
        self,
        database: Database,
        store: Store,
        sums: Sums,
        drift: Drift,
        leaks: Leaks,
        metrics: Metrics,
        every_s: float = _EVERY_S,
    ) -> None:
        self.moment_s = _MOMENT_S
        """Between the two looks of `look`."""
        self._database, self._store, self._metrics, self._every_s = database, store, metrics, every_s
        self._sums, self._drift, self._leaks = sums, drift, leaks
        self._missing: Missing = {}
        self._leaked = Leaked()
        self._reset: set[UUID] = set()
        self._wake = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """A round every minute, and what is reset."""
        async with beside(self._run(), "reconciler"), beside(self._recount_always(), "reset counts"):
            yield

    def reset(self, subjects: Iterable[UUID]) -> None:
        """Counts of these users and keys begin anew: soon compare those that go on, since requests are under way."""
        self._reset.update(subjects)
        self._wake.set()

    async def round(self) -> None:
        """Look once. Raises Unavailable and Uncountable, with what comes after it undone."""
        await self._release()
        self._tell_sums(await self._sums.repair())
        await self._correct()

    async def look(self) -> Found:
        """What is wrong at two moments, one after the other; nothing is changed."""
        missing = await self._look(self._missing)
        leaked = await self._held()
        await asyncio.sleep(self.moment_s)
        again = await self._look(missing or {})
        still = (await self._held()).still(leaked)
        return Found(still.total, None if missing is None or again is None else _still(missing, again))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.round()
            except (Unavailable, Uncountable):
                continue  # whoever is away says so; there is another round
            except Exception:  # noqa: BLE001 - whatever it is, the next round may go better
                _errors.exception("the ledger was not compared")

    async def _recount_always(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            subjects, self._reset = self._reset, set()
            try:
                for begin in range(0, len(subjects), _FEW):
                    await self._recount(sorted(subjects)[begin : begin + _FEW])
            except (Unavailable, Uncountable):
                self.reset(subjects)
                await asyncio.sleep(_AGAIN_S)
            except Exception:  # noqa: BLE001 - whatever it is, the rounds go on
                _errors.exception("counts that were reset were not compared")

    async def _recount(self, subjects: Collection[UUID]) -> None:
        for _ in range(_LOOKS):
            async with self._database.connection(limit_s=_ROUND_S) as one, one.transaction():
                await one.fetchval(_SQL.turn.sql)
                off = await self._drift.look_at(subjects)
                self._put_right(off)
            if not off:
                return

    def _put_right(self, off: Missing) -> None:
        for counter, gap in off.items():
            self._store.correct(counter, gap.amount, gap.least)

    async def _release(self) -> None:
        found = await self._leaks.look()
        leaked, self._leaked = found.still(self._leaked), found
        self._metrics.ledger_leaked.set(leaked.total)
        for id in leaked.reservations:
            self._store.cancel(id)
        if leaked.total:
            fields = {"reservations": len(leaked.reservations), "leases": leaked.leases}
            _errors.error("something was held for nobody", extra={"fields": fields})

    def _tell_sums(self, off: Off) -> None:
        self._metrics.ledger_drift.labels("sums").set(off.sums)
        if off.sums:
            fields = {"sums": off.sums, "requests": off.requests, "tokens": off.tokens}
            _log.warning("sums were not those of their rows, and are corrected", extra={"fields": fields})

    async def _correct(self) -> None:
        async with self._database.connection(limit_s=_ROUND_S) as one, one.transaction():
            if not await one.fetchval(_SQL.first.sql):  # another process that may have the same counts
                return
            found = await self._drift.look(self._missing)
            off, self._missing = _still(self._missing, found), found
            self._put_right(off)
        self._metrics.ledger_drift.labels("counts").set(len(off))
        if off:
            fields = {"counts": len(off), "amount": sum(abs(gap.amount) for gap in off.values())}
            _log.warning("counts were not what their rows say, and are corrected", extra={"fields": fields})

    async def _look(self, again: Missing) -> Missing | None:
        try:
            return await self._drift.look(again)
        except (Unavailable, Uncountable):
            return None

    async def _held(self) -> Leaked:
        try:
            return await self._leaks.look()
        except Uncountable:
            return Leaked()


def _still(before: Missing, now: Missing) -> Missing:
    """What both miss, in the same direction: the less of the two."""
    both = {one: (before[one].amount, gap.amount, gap.least) for one, gap in now.items() if one in before}
    return {
        one: Gap(min(then, amount, key=abs), least)
        for one, (then, amount, least) in both.items()
        if (then > 0) == (amount > 0)
    }
