"""The sums by the hour, compared with the rows that they are of; what they lack is put down as a correction.

A sum that is off is never edited: reports add its corrections to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from parallama.db import query
from parallama.db.pool import Database, Row

if TYPE_CHECKING:
    from parallama.db.pool import Connection

_SQL = query.load("ledger")
_RECENT = _AHEAD = timedelta(hours=4)
"""Around now: the clock that counts may be three hours from the one here."""
_DAY = timedelta(days=1)
_LIMIT_S, _CHECK_S = 60.0, 300.0


class Off(NamedTuple):
    """How far sums are from their rows."""

    sums: int = 0
    """That are off, each by hour, user, key, gateway, model and node."""
    requests: int = 0
    """By so many together, too few or too many."""
    tokens: int = 0
    double: int = 0
    """Requests in the sums beyond those that have a row."""


class Sums:
    """Of one database."""

    def __init__(self, database: Database, zone: str, storage_days: int) -> None:
        """`zone`: of the hours, an IANA name; rows older than `storage_days` are dropped, 0: none are."""
        self._database, self._zone, self._storage_days = database, zone, storage_days

    async def repair(self) -> Off:
        """Correct the sums of the last hours; how far they were off. Raises Unavailable."""
        now = datetime.now(UTC)
        async with self._database.connection(limit_s=_LIMIT_S) as one, one.transaction():
            await one.execute(_SQL.alone.sql)
            since = await self._whole(one)
            if since is None:
                return Off()
            rows = await self._differences(one, max(since, now - _RECENT), now + _AHEAD)
            await one.executemany(_SQL.correct.sql, [tuple(row) for row in rows])
        return _off(rows)

    async def check(self) -> Off:
        """How far sums are off, of all hours whose rows are kept. Before yesterday the totals of users by the hour are
        compared first, and only where these differ their keys, models and nodes. Raises Unavailable."""
        async with self._database.connection(limit_s=_CHECK_S) as one:
            whole = await self._whole(one)
            if whole is None:
                return Off()
            end = datetime.now(UTC) + _AHEAD
            recent = max(whole, end - _AHEAD - _DAY)
            rows = list(await self._differences(one, recent, end))
            for (day,) in await one.fetch(_SQL.days.sql, self._zone, whole, recent, timeout=_CHECK_S):
                rows += await self._differences(one, max(day, whole), min(day + _DAY, recent))
        return _off(rows)

    async def _whole(self, one: Connection) -> datetime | None:
        found: datetime | None = await one.fetchval(_SQL.whole.sql, self._storage_days)
        return found

    async def _differences(self, one: Connection, since: datetime, until: datetime) -> Sequence[Row]:
        return await one.fetch(_SQL.differences.sql, self._zone, since, until, timeout=_CHECK_S)


def _off(rows: Sequence[Row]) -> Off:
    return Off(
        sums=len(rows),
        requests=sum(abs(row["requests"]) for row in rows),
        tokens=sum(abs(row["prompt_tokens"]) + abs(row["output_tokens"]) for row in rows),
        double=sum(max(0, -row["requests"]) for row in rows),
    )
