"""Usage rows for tests: made for any moment, stored as the gateway stores them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from parallama.db import query
from parallama.db.pool import Database
from parallama.db.query import Query
from parallama.exchange import IdGenerator, UsageRecord, created_at
from parallama.ledger.entries import line

COUNT = Query("count", (), "SELECT count(*) FROM usage")
IDS = Query("ids", (), "SELECT id FROM usage ORDER BY id")

_queries = query.load("usage")
_new_id = IdGenerator()
_numbers = itertools.count()
_ALICE = uuid4()


def make_row(moment: datetime | None = None, **changes: Any) -> UsageRecord:
    """A row of alice's, made now or at `moment`, apart from `changes`; those of one moment are in the order made."""
    made = _new_id()
    if moment is not None:
        made = UUID(int=int(moment.timestamp() * 1000) << 80 | 0x7 << 76 | 0b10 << 62 | next(_numbers))
    row = UsageRecord(
        id=made,
        created_at=created_at(made),
        user_id=_ALICE,
        username="alice",
        key_id=None,
        gateway="ollama",
        operation="chat",
        model_asked="llama3.2",
        model="llama3.2",
        node="node-1",
        prompt_tokens=26,
        output_tokens=298,
        estimated=False,
        ttft_ms=120.25,
        duration_ms=1500.5,
        status=200,
        outcome="ok",
        error=None,
        streamed=True,
        request_bytes=512,
        response_bytes=4096,
        context_full=None,
        client_request_id=None,
        end_user=None,
        charged_at=None,
    )
    return row._replace(**{name: second_of(value) for name, value in changes.items()})


def second_of(value: Any) -> Any:
    """A moment as rows have it; anything else as it is."""
    return value.timestamp() if isinstance(value, datetime) else value


def as_stored(row: UsageRecord) -> tuple[Any, ...]:
    """As PostgreSQL has it."""
    at = row.charged_at
    moments = {"created_at": made_at(row.id), "charged_at": None if at is None else datetime.fromtimestamp(at, UTC)}
    return tuple((row._asdict() | moments).values())


def made_at(id: UUID) -> datetime:
    """The moment that it carries."""
    return datetime.fromtimestamp(created_at(id), UTC)


async def store(database: Database, rows: Iterable[UsageRecord], zone: str = "UTC") -> None:
    """Write the rows and their sums as the gateway does; `zone`: of its hours."""
    made = list(rows)
    await database.fetch(_queries.partitions, [made_at(row.id) for row in made])
    await database.copy([line(row) for row in made], _queries.ship, zone)


async def count(database: Database) -> int:
    """How many rows there are."""
    row = await database.fetchrow(COUNT)
    assert row is not None
    return int(row[0])


async def ids(database: Database) -> list[UUID]:
    """The ids of all rows, in order."""
    return [row[0] for row in await database.fetch(IDS)]


async def eventually(what: Callable[[], Any]) -> Any:
    """Poll `what` (sync or async) until it gives something true; fails after ten times what is promised."""
    async with asyncio.timeout(10):
        while True:
            found = what()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.01)
