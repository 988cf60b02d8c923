"""A request counts in the hour in which its limits were charged, by the clock of whoever counts."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from asking import MODEL
from journals import admitted, dispatched, left_behind, reached, segment, shipping
from running import early_in_an_hour, eventually, running_gateway
from sums import hour_of, sums_agree
from usage_rows import make_row, store

from parallama.app import STORE
from parallama.db.pool import Database
from parallama.db.query import Query
from parallama.identity.limits import Limits
from parallama.identity.terms import Subject
from parallama.ledger import entries
from parallama.ledger.memory import MemoryStore
from parallama.ledger.seeds import Seeds
from parallama.limits import Limit
from parallama.testing import FakeOllama

NOON = datetime(2026, 7, 15, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOURS = Query("hours", (), "SELECT hour FROM usage_hours ORDER BY hour")
CHARGED = Query("charged", (), "SELECT charged_at FROM usage ORDER BY id")


class AnHourAhead(MemoryStore):
    """Counts by a clock of its own."""

    def __init__(self, zone: ZoneInfo) -> None:
        super().__init__(zone, lambda: time.time() + 3600)


async def hours(database: Database) -> list[datetime]:
    return [row[0] for row in await database.fetch(HOURS)]


async def test_the_sums_have_it_in_the_hour_in_which_it_was_charged(database: Database) -> None:
    late = make_row(NOON - SECOND, charged_at=NOON + SECOND)
    ahead = make_row(NOON + SECOND, charged_at=NOON - timedelta(hours=2))
    await store(database, [late, ahead, make_row(NOON - timedelta(hours=5), charged_at=None)])
    assert await hours(database) == [NOON - timedelta(hours=hours) for hours in (5, 2, 0)]
    await sums_agree(database)


async def test_the_row_that_a_killed_process_never_wrote_has_it_too(database: Database, tmp_path: Path) -> None:
    asked, waiting = make_row(NOON - SECOND), make_row(NOON - SECOND)
    said = [entries.admit(admitted(row)) for row in (asked, waiting)]
    said += [dispatched(asked.id, "node-1", MODEL, NOON + SECOND), entries.progress([reached(asked, 41)])]
    home = left_behind(tmp_path, segment(*said))
    async with shipping(database, tmp_path):
        await eventually(lambda: not home.exists())
    assert [row[0] for row in await database.fetch(CHARGED)] == [NOON + SECOND, None]
    assert await hours(database) == [NOON - timedelta(hours=1), NOON]
    await sums_agree(database)


async def test_what_is_seeded_is_what_was_counted(
    database_url: str, node: FakeOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    await early_in_an_hour()
    monkeypatch.setattr("parallama.bookkeeping.MemoryStore", AnHourAhead)
    body: dict[str, Any] = {"model": MODEL, "prompt": "one two three", "stream": False}
    async with running_gateway(database_url, node.url) as gateway:
        made = [
            await Limits(gateway.database).create(Subject(user="alice"), "total_tokens", period, amount=10**6)
            for period in ("minute", "hour", "day")
        ]
        async with gateway.http.post(f"{gateway.url}/api/generate", json=body, headers=gateway.auth) as answer:
            assert answer.status == 200
        row = await gateway.row()
        assert row["charged_at"] - row["created_at"] >= timedelta(hours=1)
        assert await hours(gateway.database) == [hour_of(row["charged_at"], "UTC")]

        limits = [Limit(subject=row["user_id"], scope=one.scope, amount=one.amount) for one in made]
        fresh = AnHourAhead(ZoneInfo("UTC"))
        fresh.seed(await Seeds(gateway.database, "UTC", {}).of([limit.counter for limit in limits]))
        used = [one.used for one in await fresh.standings(limits)]
        assert used == [one.used for one in await gateway.app[STORE].standings(limits)]
        assert used == [row["prompt_tokens"] + row["output_tokens"]] * 3


async def test_who_is_under_no_limit_was_charged_never(database_url: str, node: FakeOllama) -> None:
    async with running_gateway(database_url, node.url) as gateway:
        async with gateway.http.get(f"{gateway.url}/api/tags", headers=gateway.auth) as answer:
            assert answer.status == 200
        assert (await gateway.row())["charged_at"] is None
