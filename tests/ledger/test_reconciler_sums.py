"""Sums that are not those of their rows are found, and corrected by rows of their own; nothing is edited."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from usage_rows import make_row, store

from parallama.db.pool import Database
from parallama.db.query import Query
from parallama.ledger.sums import Off, Sums

SUMS = Query("sums", (), "SELECT * FROM usage_hours ORDER BY hour, username, model, correction")
RIGHT = Off()


def sums(database: Database, zone: str = "UTC", storage_days: int = 30) -> Sums:
    return Sums(database, zone, storage_days)


async def say(database: Database, sql: str, *args: Any) -> None:
    async with database.connection() as one:
        await one.execute(sql, *args)


async def lines(database: Database) -> list[dict[str, Any]]:
    return [dict(row) for row in await database.fetch(SUMS)]


async def test_what_the_gateway_writes_agrees(database: Database) -> None:
    rows = [make_row(), make_row(outcome="failed", node=None), make_row(charged_at=datetime.now(UTC))]
    await store(database, rows)
    assert await sums(database).check() == await sums(database).repair() == RIGHT


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
async def test_a_row_counts_in_the_hour_in_which_it_was_charged(database: Database, zone: str) -> None:
    now = datetime.now(UTC)
    await store(database, [make_row(charged_at=now + timedelta(hours=hours)) for hours in (-1, 0, 1)], zone)
    assert await sums(database, zone).check() == RIGHT
    assert len(await lines(database)) == 3


async def test_a_doubled_sum_is_corrected_by_a_row_of_its_own(database: Database) -> None:
    await store(database, [make_row() for _ in range(3)])
    await say(database, "UPDATE usage_hours SET requests = 2 * requests, output_tokens = 2 * output_tokens")
    before = await lines(database)
    off = Off(sums=1, requests=3, tokens=894, double=3)
    assert await sums(database).check() == await sums(database).repair() == off
    wrong, correction = await lines(database)
    assert [wrong] == before
    assert (correction["correction"], correction["requests"], correction["output_tokens"]) == (1, -3, -894)
    assert await sums(database).check() == await sums(database).repair() == RIGHT


async def test_a_sum_that_is_gone_is_made_again(database: Database) -> None:
    await store(database, [make_row(), make_row(username="bob")])
    whole = await lines(database)
    await say(database, "DELETE FROM usage_hours WHERE username = 'bob'")
    assert await sums(database).repair() == Off(sums=1, requests=1, tokens=324)
    again = await lines(database)
    assert [{**line, "correction": 0} for line in again] == whole
    assert await sums(database).check() == RIGHT


async def test_what_is_off_again_is_corrected_again(database: Database) -> None:
    await store(database, [make_row()])
    for requests in (5, 7):
        await say(database, "UPDATE usage_hours SET requests = $1 WHERE correction = 0", requests)
        await sums(database).repair()
    assert [line["requests"] for line in await lines(database)] == [7, -4, -2]
    assert await sums(database).check() == RIGHT


async def test_two_who_repair_at_the_same_time_correct_once(database: Database) -> None:
    await store(database, [make_row()])
    await say(database, "UPDATE usage_hours SET asked = 9")
    found = await asyncio.gather(*(sums(database).repair() for _ in range(4)))
    assert sum(off.sums for off in found) == 1
    assert await sums(database).check() == RIGHT


async def test_every_column_is_compared(database: Database) -> None:
    await store(database, [make_row()])
    (line,) = await lines(database)
    for column in list(line)[7:-1]:
        await say(database, f"UPDATE usage_hours SET {column} = {column} + 2 WHERE correction = 0")
        assert (await sums(database).repair()).sums == 1, column
    assert await sums(database).check() == RIGHT


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
async def test_all_days_are_checked_and_the_last_hours_repaired(database: Database, zone: str) -> None:
    now = datetime.now(UTC)
    moments = [now - timedelta(days=days, hours=hours) for days in range(4) for hours in range(0, 20, 7)]
    await store(database, [make_row(moment) for moment in moments for _ in range(2)], zone)
    await say(database, "SELECT usage_partitions($1, $1)", now - timedelta(days=6))
    assert await sums(database, zone).check() == RIGHT
    await say(database, "UPDATE usage_hours SET output_tokens = output_tokens + 1")
    assert (await sums(database, zone).check()) == Off(sums=len(moments), tokens=len(moments))
    assert (await sums(database, zone).repair()).sums == 1


async def test_hours_whose_rows_are_no_longer_kept_are_not_compared(database: Database) -> None:
    now = datetime.now(UTC)
    await store(database, [make_row(now - timedelta(days=days)) for days in (0, 1, 5, 9)])
    await say(database, "SELECT usage_partitions($1, $1)", now - timedelta(days=6))
    await say(database, "DELETE FROM usage WHERE created_at < $1", now - timedelta(days=4))
    await say(database, f"DROP TABLE usage_{now - timedelta(days=9):%Y%m%d}")
    assert (await sums(database).check()).sums == 1
    assert await sums(database, storage_days=4).check() == RIGHT
    assert await sums(database).repair() == RIGHT
