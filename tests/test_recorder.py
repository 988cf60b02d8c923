"""The recorder on a real PostgreSQL: every row arrives once, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
from usage_rows import count, eventually, ids, make_row
from wire import Wire

from parallama.config import DatabaseSettings, UsageSettings
from parallama.db.pool import Database
from parallama.db.query import Query
from parallama.ledger.recorder import Recorder

NEVER_MS = 3_600_000
"""A flush that no test waits for: what is written then has another reason."""

BLOCKED = Query(
    "blocked",
    (),
    """SELECT pid FROM pg_stat_activity
    WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO usage%' AND datname = current_database()""",
)
PARTITIONS = """SELECT relname FROM pg_class JOIN pg_inherits ON oid = inhrelid
    WHERE inhparent = 'usage'::regclass"""


@pytest.fixture
def database_url(unused_database_url: str) -> str:
    """Every partition is made by the test."""
    return unused_database_url


@pytest.fixture
async def wire(database_url: str) -> AsyncIterator[Wire]:
    async with Wire(database_url).running() as wire:
        yield wire


@pytest.fixture
async def wired(wire: Wire) -> AsyncIterator[Database]:
    """A database that is reached through the wire."""
    async with Database(wire.url, DatabaseSettings(connect_s=2, acquire_s=2)).running() as database:
        yield database


async def test_a_row_is_visible_soon_after_it_was_recorded(database: Database) -> None:
    async with Recorder(database, UsageSettings()).running() as recorder:
        row = make_row(key_id=uuid4(), error="node_broke", context_full=True, client_request_id="mine")
        recorder.record(row)
        stored = await eventually(lambda: database.fetchrow(Query("row", (), "SELECT * FROM usage")))
        assert tuple(stored) == row
        await eventually(lambda: recorder.pending == 0)


async def test_a_full_batch_does_not_wait_for_the_interval(database: Database) -> None:
    async with Recorder(database, UsageSettings(flush_ms=NEVER_MS)).running() as recorder:
        for _ in range(500):
            recorder.record(make_row())
        await eventually(lambda: recorder.pending == 0)
        assert await count(database) == 500


async def test_a_batch_whose_commit_was_not_heard_of_is_not_doubled(
    wire: Wire, wired: Database, database: Database
) -> None:
    rows = [make_row() for _ in range(1200)]
    async with Recorder(wired, UsageSettings(flush_ms=10)).running() as recorder:
        recorder.record(rows[0])
        await eventually(lambda: recorder.pending == 0)
        wire.cut_at_commit = True
        for row in rows[1:]:
            recorder.record(row)
        await eventually(lambda: recorder.pending == 0)
    assert wire.cuts == 1
    assert recorder.lost == 0
    assert await ids(database) == [row.id for row in rows]


async def test_a_row_that_is_recorded_twice_is_stored_once(database: Database) -> None:
    first, second = make_row(), make_row()
    async with Recorder(database, UsageSettings()).running() as recorder:
        for row in (first, first, second):
            recorder.record(row)
        await eventually(lambda: recorder.pending == 0)
        recorder.record(first)
    assert await ids(database) == [first.id, second.id]
    assert recorder.lost == 0


async def test_rows_survive_a_backend_that_dies_in_mid_batch(database_url: str, database: Database) -> None:
    rows = [make_row() for _ in range(701)]
    async with Recorder(database, UsageSettings(flush_ms=10)).running() as recorder:
        recorder.record(rows[0])
        await eventually(lambda: recorder.pending == 0)
        blocker = await asyncpg.connect(database_url)
        try:
            async with blocker.transaction():
                await blocker.execute("LOCK TABLE usage IN SHARE MODE")
                for row in rows[1:]:
                    recorder.record(row)
                # not asked in the blocker's transaction, which would see one snapshot of the activity for ever
                (pid,) = await eventually(lambda: database.fetchrow(BLOCKED))
                await blocker.execute("SELECT pg_terminate_backend($1)", pid)
                assert recorder.pending == 700
        finally:
            await blocker.close()
        await eventually(lambda: recorder.pending == 0)
    assert await ids(database) == [row.id for row in rows]
    assert recorder.lost == 0


async def test_rows_wait_while_the_database_is_gone_and_the_log_says_so_once(
    wire: Wire, wired: Database, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "parallama.usage")
    rows = [make_row() for _ in range(600)]
    async with Recorder(wired, UsageSettings(flush_ms=10)).running() as recorder:
        recorder.record(rows[0])
        await eventually(lambda: recorder.pending == 0)
        wire.cut()
        for row in rows[1:]:
            recorder.record(row)
        await eventually(lambda: "parallama.usage" in {record.name for record in caplog.records})
        assert recorder.pending == 599
        wire.down = False
        await eventually(lambda: recorder.pending == 0)
    said = [record.levelname for record in caplog.records if record.name == "parallama.usage"]
    assert said == ["WARNING", "INFO"]
    assert await ids(database) == [row.id for row in rows]
    assert recorder.lost == 0


async def test_rows_that_the_database_refuses_do_not_hold_up_the_others(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [make_row() for _ in range(1100)]
    poison = [
        make_row(prompt_tokens=-1),
        make_row(output_tokens=1 << 70),
        make_row(id=UUID(int=(1 << 128) - 1)),
    ]
    mixed = [*rows[:3], poison[0], *rows[3:600], *poison[1:], *rows[600:]]
    async with Recorder(database, UsageSettings(flush_ms=10)).running() as recorder:
        for row in mixed:
            recorder.record(row)
        await eventually(lambda: recorder.pending == 0)
        assert recorder.lost == 3
    assert await ids(database) == [row.id for row in rows]
    assert [record.name for record in caplog.records] == ["parallama.error"] * 3
    for row, message, why in zip(poison, caplog.messages, ("CheckViolation", "Overflow", "ValueError"), strict=True):
        assert str(row.id) in message
        assert why in message


async def test_text_that_postgresql_cannot_hold_is_mended(database: Database) -> None:
    async with Recorder(database, UsageSettings()).running() as recorder:
        recorder.record(make_row(model_asked="a\0b\ud800c\n", model="né"))
    row = await database.fetchrow(Query("names", (), "SELECT model_asked, model FROM usage"))
    assert row is not None
    assert tuple(row) == ("a\ufffdb?c\n", "né")
    assert recorder.lost == 0


async def test_the_stop_writes_what_is_pending(database: Database) -> None:
    async with Recorder(database, UsageSettings(flush_ms=NEVER_MS)).running() as recorder:
        for _ in range(1300):
            recorder.record(make_row())
    assert (recorder.pending, recorder.lost) == (0, 0)
    assert await count(database) == 1300


async def test_what_cannot_be_written_before_the_stop_is_counted_and_logged(
    wire: Wire, wired: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with Recorder(wired, UsageSettings(flush_ms=10), stop_s=0.2).running() as recorder:
        wire.cut()
        for _ in range(3):
            recorder.record(make_row())
    assert (recorder.pending, recorder.lost) == (0, 3)
    recorder.record(make_row())
    assert (recorder.pending, recorder.lost) == (0, 4)
    lost = [record for record in caplog.records if record.name == "parallama.error"]
    assert [record.getMessage()[0] for record in lost] == ["3", "1"]


async def test_a_cancelled_stop_ends_and_loses_no_count(database_url: str, database: Database) -> None:
    recorder = Recorder(database, UsageSettings(flush_ms=10), stop_s=3600)

    async def serve() -> None:
        async with recorder.running():
            await asyncio.Event().wait()

    recorder.record(make_row())
    task = asyncio.get_running_loop().create_task(serve())
    await eventually(lambda: recorder.pending == 0)
    blocker = await asyncpg.connect(database_url)
    try:
        async with blocker.transaction(), asyncio.timeout(60):
            await blocker.execute("LOCK TABLE usage IN SHARE MODE")
            recorder.record(make_row())
            await eventually(lambda: database.fetchrow(BLOCKED))
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    finally:
        await blocker.close()
    assert (recorder.pending, recorder.lost) == (0, 1)
    assert await count(database) == 1


async def test_it_is_full_at_the_configured_number_of_pending_rows(database: Database) -> None:
    recorder = Recorder(database, UsageSettings(max_pending=3))
    for expected in (False, False, True, True):
        recorder.record(make_row())
        assert (recorder.room == 0) is expected
    assert recorder.pending == 4
    async with recorder.running():
        await eventually(lambda: recorder.pending == 0)
        assert recorder.room
    assert await count(database) == 4


async def partitions(database: Database) -> set[str]:
    return {row[0] for row in await database.fetch(Query("partitions", (), PARTITIONS))}


async def test_the_days_around_today_have_their_partitions_from_the_start(database: Database) -> None:
    before = datetime.now(UTC)
    async with Recorder(database, UsageSettings(flush_ms=10)).running():
        made = await eventually(lambda: partitions(database))
    days = (before + timedelta(days=ahead) for ahead in range(-1, 7))
    assert {f"usage_{day:%Y%m%d}" for day in days} <= made


async def test_a_row_of_another_day_gets_its_partition(database: Database) -> None:
    async with Recorder(database, UsageSettings()).running() as recorder:
        recorder.record(make_row(datetime(2020, 2, 29, 23, 59, 59, 999000, UTC)))
        recorder.record(make_row(datetime(2020, 3, 1, tzinfo=UTC)))
    assert {"usage_20200229", "usage_20200301"} <= await partitions(database)
    assert (await count(database), recorder.lost) == (2, 0)


async def test_processes_that_make_the_same_partition_do_not_collide(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    recorders = [Recorder(database, UsageSettings(flush_ms=10)) for _ in range(5)]
    async with asyncio.TaskGroup() as tasks:
        for recorder in recorders:
            recorder.record(make_row(datetime(2020, 2, 29, tzinfo=UTC)))
            tasks.create_task(drain(recorder))
    assert await count(database) == 5
    assert caplog.messages == []


async def drain(recorder: Recorder) -> None:
    async with recorder.running():
        await eventually(lambda: recorder.pending == 0)


async def test_a_row_that_nobody_can_write_does_not_keep_others_waiting(database: Database) -> None:
    async with Recorder(database, UsageSettings(flush_ms=10)).running() as recorder:
        for model in ("one", ["no", "name"], "two"):
            recorder.record(make_row(datetime.now(UTC))._replace(model_asked=model))
        await eventually(lambda: recorder.pending == 0)
    assert (await count(database), recorder.lost) == (2, 1)
