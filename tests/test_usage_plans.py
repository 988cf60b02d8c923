"""What PostgreSQL does for reports and for retention where there are 100,000 rows."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from e2e.databases import fresh_database
from kept_gateway import in_one_loop
from plans import relations
from running import PATIENT

from parallama.db import query
from parallama.db.pool import Database
from parallama.ledger import reports
from parallama.ledger.reports import Group, Reports, Span, Which

sys.path.insert(0, str(Path(__file__).parent.parent))

from bench import usage_fill, usage_rows

pytestmark = in_one_loop

UNTIL = datetime(2026, 7, 15, tzinfo=UTC)
DAYS = 5
SPAN = (UNTIL - timedelta(days=DAYS), UNTIL)
HOUR = UNTIL - timedelta(hours=1)
SOMEBODY = usage_fill.user_id(7)
NAME = usage_fill.username(7)
GROUPS = ("user", "key", "gateway", "model", "node", "day", "hour")
PARTS = "SELECT relname, relfilenode FROM pg_class WHERE relname ~ '^usage_2026071[0-9]$' ORDER BY relname"
CHANGED = """SELECT sum(n_tup_ins + n_tup_upd + n_tup_del)::int FROM pg_stat_xact_user_tables
    WHERE relname ~ '^usage(_[0-9]+)?$'"""

READ = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_all_tables WHERE relname = 'usage_hours'"

SQL = query.load("usage")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def url(postgres: str) -> AsyncIterator[str]:
    """Of a database with 100,000 rows of five days."""
    async with fresh_database(postgres) as url:
        async with Database(url, PATIENT).running() as database:
            await usage_fill.fill(database, 100_000, DAYS, UNTIL)
            await usage_rows.add_people(database)
        yield url


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def filled(url: str) -> AsyncIterator[Any]:
    """A connection to it."""
    one = await asyncpg.connect(url)
    yield one
    await one.close()


def every_report() -> Iterator[tuple[str, tuple[object, ...]]]:
    """The SQL of every report, with what it is asked for."""
    whose: tuple[tuple[object, ...], ...] = ((None, None), (SOMEBODY, None), (None, NAME))
    for who in whose:
        yield SQL.totals.sql, (*who, None, UNTIL - timedelta(days=1), HOUR, UNTIL)
        for by in (*((one,) for one in GROUPS), GROUPS, ()):
            for span in (SPAN, (None, None)):
                yield SQL.report.sql, (list(by), list(SPAN), *who, None, None, None, None, *span, *[None] * 6, 100)
    filters: Iterable[tuple[object, ...]] = [
        ("ollama", None, None, None),
        (None, ["qwen3:8"], None, None),
        (None, None, usage_fill.key_id(3), None),
        (None, None, None, "node-1"),
    ]
    for which in filters:
        yield SQL.report.sql, (["day"], list(SPAN), None, None, *which, *SPAN, *[None] * 6, 100)
    yield query.load("seeds").hours.sql, ([SOMEBODY, usage_fill.key_id(15)], SPAN[0])


async def test_every_report_reads_sums_and_no_row(filled: Any) -> None:
    for mode in ("force_custom_plan", "force_generic_plan"):
        await filled.execute(f"SET plan_cache_mode = {mode}")
        for sql, asked in every_report():
            plan = json.loads(await filled.fetchval(f"EXPLAIN (FORMAT JSON) {sql}", *asked))
            assert relations(plan) == {"usage_hours"}, (mode, asked, sql)


@pytest.mark.parametrize(
    ("by", "part"), [(("hour", "user", "key", "gateway", "model", "node"), 1000), (("day", "user", "key"), 100)]
)
async def test_the_parts_of_a_report_do_not_add_everything_up_again(
    filled: Any, url: str, by: tuple[Group, ...], part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "_PART", part)
    sums, before = await filled.fetchval("SELECT count(*)::int FROM usage_hours"), await filled.fetchval(READ)
    async with Database(url, PATIENT).running() as database:
        lines = [line async for line in Reports(database, "UTC").lines(by, Which(), Span())]
    assert sum(line.requests for line in lines) == 100_000
    # what a connection has read is known once it is closed
    read = await filled.fetchval(READ) - before
    assert read < sums * len(lines) / part / 2


async def test_the_bench_asks_for_every_report(url: str) -> None:
    async with Database(url, PATIENT).running() as database:
        asked = usage_rows.Asked(database)
        found = {what: await work() for what, work in asked.works(UNTIL).items()}
        assert (await asked.whole())[0] > 1_000_000
    for group in GROUPS:
        assert sum(line.requests for line in found[f"usage report by {group}"].items) == 100_000
    assert found["/admin/v1/usage, of all"].gateways == found["usage show"].gateways == {}
    assert len(found["a part of an export"]) > 0


async def test_a_day_goes_as_a_whole_and_no_row_of_it_is_touched(filled: Any) -> None:
    before = dict(await filled.fetch(PARTS))
    sums = await filled.fetchval("SELECT sum(requests)::int FROM usage_hours")
    assert list(before) == [f"usage_202607{day}" for day in range(10, 15)]
    async with filled.transaction():
        assert await filled.fetchval(SQL.forget.sql, UNTIL - timedelta(days=DAYS - 1)) == 1
        assert await filled.fetchval(CHANGED) == 0
    assert await filled.fetchval("SELECT to_regclass('usage_20260710')") is None
    del before["usage_20260710"]
    assert dict(await filled.fetch(PARTS)) == before
    assert await filled.fetchval("SELECT sum(requests)::int FROM usage_hours") == sums == 100_000
