"""The migration to sums by the hour: what was used before it is in the reports after it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
from sums import sums_agree
from usage_rows import as_stored, make_row

from parallama.config import DatabaseSettings
from parallama.db.migrate import migrations
from parallama.db.pool import Database
from parallama.exchange import UsageRecord

_COLUMNS = UsageRecord._fields[: UsageRecord._fields.index("charged_at")]
"""Of the table before it knew more."""


async def test_rows_that_are_there_are_summed(empty_database_url: str) -> None:
    noon = datetime(2026, 7, 15, 12, 30, tzinfo=UTC)
    rows = [make_row(noon + timedelta(minutes=7 * number)) for number in range(50)]
    rows += [make_row(noon, model=None, node=None, ttft_ms=None, prompt_tokens=None, outcome="refused")]
    rows += [make_row(noon, model=None, model_asked=None, estimated=True, outcome="cancelled")]
    connection = await asyncpg.connect(empty_database_url)
    try:
        for migration in migrations():
            if "CREATE TABLE usage_hours" in migration.sql:
                await connection.execute("SELECT usage_partitions($1, $2)", noon, noon + timedelta(days=1))
                records = [as_stored(row)[: len(_COLUMNS)] for row in rows]
                await connection.copy_records_to_table("usage", records=records, columns=_COLUMNS)
            await connection.execute(migration.sql)
    finally:
        await connection.close()
    async with Database(empty_database_url, DatabaseSettings()).running() as database:
        await sums_agree(database)
