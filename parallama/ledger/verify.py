"""The promises of the ledger as numbers, as far as they can be told from the database and the journals.

What only a running server knows it is asked for elsewhere. Nothing is changed here.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from parallama.db import query
from parallama.db.pool import Database
from parallama.ledger.entries import Reader
from parallama.ledger.frames import unframed
from parallama.ledger.journal import LOCK
from parallama.ledger.seeds import Seeds
from parallama.ledger.segments import SUFFIX
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
    homes = sorted(directory.iterdir()) if directory.is_dir() else []
    return [_noted(home) for home in homes if home.is_dir() and not home.name.startswith(".")]


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
    alive, reader = is_alive(home), Reader()
    ids: set[UUID] = set()
    damaged = 0
    for path in sorted(home.glob(f"*{SUFFIX}")):
        with suppress(FileNotFoundError):  # all of it has been stored meanwhile
            damaged += not _read(path.read_bytes(), reader, ids)
    if not alive:
        ids.update(row.id for row in reader.aborted())
    return Noted(home.name, alive, ids, 0 if alive else damaged)


def _read(data: bytes, reader: Reader, ids: set[UUID]) -> bool:
    """Add the ids of its rows; whether it is whole."""
    end, whole = 0, True
    for entry, end in unframed(data):  # noqa: B007 (the last one's is needed)
        try:
            row = reader.read(entry)
        except ValueError:
            whole = False
            continue
        if row is not None:
            ids.add(row.id)
    return whole and end == len(data)


def is_alive(home: Path) -> bool:
    """Whether the process of this journal runs, or another one is taking it over."""
    try:
        lock = os.open(home / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
