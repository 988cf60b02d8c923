"""The promises of the ledger as numbers, as far as they can be told from the database and the journals.

What only a running server knows it is asked for elsewhere. Nothing is changed here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from parallama.db import query
from parallama.db.pool import Database
from parallama.ledger import left
from parallama.ledger.entries import Reader
from parallama.ledger.seeds import Seeds
from parallama.ledger.windows import CALENDAR, window
from parallama.limits import Limit

_SQL = query.load("ledger")
_MANY = 10_000
"""Ids that are looked for at a time."""


class Noted(NamedTuple):
    """What a journal says."""

    journal: str
    alive: bool
    """Whether its process runs: then what has not ended yet is not missing."""
    ids: Collection[UUID]
    """Of exchanges that must have a row."""
    damaged: int
    """Files that cannot be read to their end."""


class Overspent(NamedTuple):
    """A limit beyond which more was used."""

    limit: Limit
    used: int

    @property
    def beyond(self) -> int:
        """By how much."""
        return self.used - self.limit.amount


async def overspent(
    found: Iterable[tuple[Limit, datetime | None]], seeds: Seeds, zone: str, now: float
) -> Sequence[Overspent]:
    """Of the limits that promise it, those that were passed in their window of `now` (Unix seconds). Beside each stands
    when it was made or changed: in that window it promises nothing. Raises Unavailable."""
    starts = {period: window(period, now, ZoneInfo(zone)).start for period in CALENDAR}
    judged = [limit for limit, since in found if _promises(limit, since, starts.get(limit.scope.period))]
    passed: list[Overspent] = []
    for subject in {limit.subject for limit in judged}:
        own = {limit.counter: limit for limit in judged if limit.subject == subject}
        for counter, amounts in (await seeds.of(own)).items():
            used = sum(amount for second, amount in amounts if second >= starts[counter.scope.period])
            if used > own[counter].amount:
                passed.append(Overspent(own[counter], used))
    return passed


def _promises(limit: Limit, since: datetime | None, start: int | None) -> bool:
    if start is None or limit.open or not limit.strict:
        return False
    return since is None or since.timestamp() < start


def noted(directory: Path) -> Sequence[Noted]:
    """What the journals of a state directory say, of live processes too."""
    return [_noted(home) for home in left.homes(directory)]


async def missing(database: Database, journals: Iterable[Noted]) -> dict[str, int]:
    """Rows that the journals tell of and that are not in the database, by journal. Raises Unavailable."""
    found = {one.journal: await _missing(database, list(one.ids)) for one in journals}
    return {journal: count for journal, count in found.items() if count}


async def _missing(database: Database, ids: Sequence[UUID]) -> int:
    count = 0
    for begin in range(0, len(ids), _MANY):
        count += len(await database.fetch(_SQL.missing, ids[begin : begin + _MANY]))
    return count


def _noted(home: Path) -> Noted:
    alive, reader = left.is_alive(home), Reader()
    ids: set[UUID] = set()
    damaged: list[Path] = []
    for path in left.segments(home):
        with suppress(FileNotFoundError):  # all of it has been stored meanwhile
            ids.update(row.id for row, _ in left.read(path, reader, damaged.append))
    if not alive:
        ids.update(row.id for row in reader.aborted())
    return Noted(home.name, alive, ids, 0 if alive else len(damaged))
