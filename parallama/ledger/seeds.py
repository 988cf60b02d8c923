"""What was used before a store began to count: summed from PostgreSQL, for counts that the store does not know.

Hours, days and months come from the sums by the hour, the last minute from single rows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from math import ceil
from zoneinfo import ZoneInfo

from parallama.db import query
from parallama.db.pool import Database
from parallama.errors import Unavailable
from parallama.gateway.names import matches
from parallama.ledger.resets import Row, parse, since
from parallama.ledger.store import Store
from parallama.ledger.windows import window
from parallama.limits import EVERY, Counter, Meter, Period

Used = Mapping[Counter, Sequence[tuple[float, int]]]
"""By counter, Unix seconds and what was used in each."""

_SQL, _RESETS = query.load("seeds"), query.load("resets")
_MINUTE = timedelta(seconds=61)
_ASKEW = timedelta(hours=3)
"""The clock of this process may be so far from that of whoever counts, who leaves out what is not in its windows."""


class Seeds:
    """Sums of what was used."""

    def __init__(
        self, database: Database, zone: str, weights: Mapping[str, float], now: Callable[[], float] = time.time
    ) -> None:
        """`weights`: by pattern of a model's name, so many tokens count for one; `now` tells Unix seconds."""
        self._database, self._zone, self._weights = database, ZoneInfo(zone), weights
        self._now = now

    async def of(self, counters: Collection[Counter]) -> Used:
        """What was used of each counter in its window of now, and perhaps before. Raises Unavailable."""
        now = datetime.fromtimestamp(self._now(), UTC)
        subjects = list({counter.subject for counter in counters})
        rows = await self._database.fetch(_SQL.hours, subjects, self._begin(counters, now - _ASKEW))
        recent = await self._database.fetch(_SQL.minute, subjects, now - _MINUTE)
        resets = parse(await self._database.fetch(_RESETS.of, subjects))
        return {one: self._sum(one, since(resets, one, recent if _is_minute(one) else rows)) for one in counters}

    def _begin(self, counters: Collection[Counter], now: datetime) -> datetime:
        periods = {counter.scope.period for counter in counters} - {Period.MINUTE, Period.NOW}
        starts = [window(period, now.timestamp(), self._zone).start for period in periods]
        return datetime.fromtimestamp(min(starts, default=now.timestamp()), UTC)

    def _sum(self, counter: Counter, rows: Iterable[Row]) -> Sequence[tuple[float, int]]:
        return [
            (row["at"].timestamp(), amount)
            for row in rows
            if _concerns(counter, row) and (amount := self._amount(counter.scope.meter, row))
        ]

    def _amount(self, meter: Meter, row: Row) -> int:
        if meter is Meter.REQUESTS:
            return int(row["requests"])
        tokens: dict[Meter, int] = {
            Meter.PROMPT_TOKENS: row["prompt_tokens"],
            Meter.OUTPUT_TOKENS: row["output_tokens"],
            Meter.TOTAL_TOKENS: row["prompt_tokens"] + row["output_tokens"],
        }
        return ceil(tokens.get(meter, 0) * weight_of(self._weights, row["model"]))


class _Round:
    """Counters that are asked for together."""

    def __init__(self) -> None:
        self.wanted: dict[Counter, str] = {}
        self.failed = False


class Seeding:
    """Tells a store what it does not know. However many wait, the database is asked once at a time."""

    def __init__(self, store: Store, used: Callable[[Collection[Counter]], Awaitable[Used]]) -> None:
        self._store, self._used = store, used
        self._one = asyncio.Lock()
        self._next = _Round()

    async def fill(self, counters: Mapping[Counter, str]) -> None:
        """Until the store may know the counters, which are as in Unknown; ask it again. Raises Unavailable."""
        joined = self._next
        joined.wanted.update(counters)
        async with self._one:
            if joined is self._next:  # the first of its round asks for all of them
                await self._ask(joined)
        if joined.failed:
            raise Unavailable("what was used cannot be counted now")

    async def _ask(self, round: _Round) -> None:
        self._next = _Round()
        try:
            self._store.seed(await self._used(round.wanted), round.wanted)
        except Unavailable:
            round.failed = True


def weight_of(weights: Mapping[str, float], model: str) -> float:
    """Tokens that count for one of the model: of the first pattern that fits its name; 1 without one."""
    return next((weight for pattern, weight in weights.items() if matches((pattern,), model)), 1.0)


def _is_minute(counter: Counter) -> bool:
    return counter.scope.period is Period.MINUTE


def _concerns(counter: Counter, row: Row) -> bool:
    gateway, model, _meter, _period = counter.scope
    if counter.subject not in (row["user_id"], row["key_id"]):
        return False
    return gateway in (EVERY, row["gateway"]) and (model is None or matches((model,), row["model"]))
