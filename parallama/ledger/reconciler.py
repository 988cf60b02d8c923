"""Looks every minute whether the ledger keeps its promises, and puts right what does not: sums, counts, what is held.

A sum that is off is corrected at once, since rows and sums change together. A count that is off, and what is held for
nobody, is put right when it is found so a second time: the first time it may just be changing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from parallama.db import query
from parallama.db.pool import Database
from parallama.errors import Unavailable
from parallama.ledger.drift import Drift, Missing
from parallama.ledger.leaks import Leaked, Leaks
from parallama.ledger.store import Store, Uncountable
from parallama.ledger.sums import Off, Sums
from parallama.metrics import Metrics

_SQL = query.load("ledger")
_EVERY_S = 60.0
_ROUND_S = 30.0
"""Longest time for the counts of one round."""
_MOMENT_S = 0.5

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

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """A round every minute."""
        task = asyncio.get_running_loop().create_task(self._run(), name="reconciler")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

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
            for counter, amount in off.items():
                self._store.correct(counter, amount)
        self._metrics.ledger_drift.labels("counts").set(len(off))
        if off:
            fields = {"counts": len(off), "amount": sum(map(abs, off.values()))}
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
    both = {one: (before[one], amount) for one, amount in now.items() if one in before}
    return {one: min(pair, key=abs) for one, pair in both.items() if (pair[0] > 0) == (pair[1] > 0)}
