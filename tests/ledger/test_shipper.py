"""The shipper on a real PostgreSQL: every row arrives once, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest
from journals import admit, journal_in, rows_in, shipping
from sums import sums_agree
from usage_rows import as_stored, count, eventually, ids, make_row, store
from wire import Wire

from parallama.config import DatabaseSettings, UsageSettings
from parallama.db.pool import Database
from parallama.db.query import Query
from parallama.ledger.shipper import Shipper

NEVER_MS = 3_600_000
"""A flush that no test waits for: what is written then has another reason."""

BLOCKED = Query(
    "blocked",
    (),
    """SELECT pid FROM pg_stat_activity
    WHERE wait_event_type = 'Lock' AND query LIKE '%INSERT INTO usage%' AND datname = current_database()""",
)
PARTITIONS = """SELECT relname FROM pg_class JOIN pg_inherits ON oid = inhrelid
    WHERE inhparent = 'usage'::regclass"""


@pytest.fixture
async def wired(wire: Wire) -> AsyncIterator[Database]:
    """A database that is reached through the wire."""
    async with Database(wire.url, DatabaseSettings(connect_s=2, acquire_s=2)).running() as database:
        yield database


async def test_a_row_is_visible_soon_after_its_exchange_has_ended(database: Database, tmp_path: Path) -> None:
    async with shipping(database, tmp_path) as (journal, shipper):
        told = {"error": "node_broke", "context_full": True, "client_request_id": "mine", "end_user": "x"}
        row = make_row(key_id=uuid4(), charged_at=datetime.now(UTC), **told)
        journal.final(row)
        stored = await eventually(lambda: database.fetchrow(Query("row", (), "SELECT * FROM usage")))
        assert tuple(stored) == as_stored(row)
        await eventually(lambda: shipper.pending == 0)


async def test_a_batch_whose_commit_was_not_heard_of_is_not_doubled(
    wire: Wire, wired: Database, database: Database, tmp_path: Path
) -> None:
    rows = [make_row() for _ in range(1200)]
    async with shipping(wired, tmp_path) as (journal, shipper):
        journal.final(rows[0])
        await eventually(lambda: shipper.pending == 0)
        wire.cut_at_commit = True
        for row in rows[1:]:
            journal.final(row)
        await eventually(lambda: shipper.pending == 0)
    assert wire.cuts == 1
    assert shipper.lost == 0
    assert await ids(database) == [row.id for row in rows]
    await sums_agree(database)


async def test_a_row_that_is_written_twice_is_stored_and_summed_once(database: Database, tmp_path: Path) -> None:
    first, second = make_row(), make_row()
    async with shipping(database, tmp_path) as (journal, shipper):
        for row in (first, first, second):
            journal.final(row)
        await eventually(lambda: shipper.pending == 0)
        journal.final(first)
    assert await ids(database) == [first.id, second.id]
    assert shipper.lost == 0
    await sums_agree(database)


async def test_rows_survive_a_backend_that_dies_in_mid_batch(
    database_url: str, database: Database, tmp_path: Path
) -> None:
    rows = [make_row() for _ in range(701)]
    async with shipping(database, tmp_path) as (journal, shipper):
        journal.final(rows[0])
        await eventually(lambda: shipper.pending == 0)
        blocker = await asyncpg.connect(database_url)
        try:
            async with blocker.transaction():
                await blocker.execute("LOCK TABLE usage IN SHARE MODE")
                for row in rows[1:]:
                    journal.final(row)
                # not asked in the blocker's transaction, which would see one snapshot of the activity for ever
                (pid,) = await eventually(lambda: database.fetchrow(BLOCKED))
                await blocker.execute("SELECT pg_terminate_backend($1)", pid)
                assert shipper.pending == 700
        finally:
            await blocker.close()
        await eventually(lambda: shipper.pending == 0)
    assert await ids(database) == [row.id for row in rows]
    assert shipper.lost == 0


async def test_rows_wait_while_the_database_is_gone_and_the_log_says_so_once(
    wire: Wire, wired: Database, database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "parallama.usage")
    rows = [make_row() for _ in range(600)]
    async with shipping(wired, tmp_path) as (journal, shipper):
        journal.final(rows[0])
        await eventually(lambda: shipper.pending == 0)
        wire.cut()
        for row in rows[1:]:
            journal.final(row)
        await eventually(lambda: "parallama.usage" in {record.name for record in caplog.records})
        assert shipper.pending == 599
        wire.down = False
        await eventually(lambda: shipper.pending == 0)
    said = [record.levelname for record in caplog.records if record.name == "parallama.usage"]
    assert said == ["WARNING", "INFO"]
    assert await ids(database) == [row.id for row in rows]
    assert shipper.lost == 0


async def test_segments_that_are_shipped_are_deleted(database: Database, tmp_path: Path) -> None:
    async with shipping(database, tmp_path, journal_mb=1) as (journal, shipper):
        while len(list(journal.segments)) < 3:
            journal.final(make_row())
        await eventually(lambda: shipper.pending == 0)
        await eventually(lambda: len(list(journal.segments)) == 1)
        assert journal.taken < 1 << 18
    assert await count(database) == journal.finals
    assert list(tmp_path.iterdir()) == []


async def test_rows_that_the_database_refuses_do_not_hold_up_the_others(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [make_row() for _ in range(1100)]
    poison = [make_row(prompt_tokens=-1), make_row(status=1 << 20), make_row(id=UUID(int=(1 << 128) - 1))]
    mixed = [*rows[:3], poison[0], *rows[3:600], *poison[1:], *rows[600:]]
    async with shipping(database, tmp_path) as (journal, shipper):
        for row in mixed:
            journal.final(row)
        await eventually(lambda: shipper.pending == 0)
        assert shipper.lost == 3
    assert await ids(database) == [row.id for row in rows]
    assert [record.name for record in caplog.records] == ["parallama.error"] * 3
    for row, message, why in zip(poison, caplog.messages, ("CheckViolation", "OutOfRange", "ValueError"), strict=True):
        assert str(row.id) in message
        assert why in message
    await sums_agree(database)


async def test_text_that_postgresql_cannot_hold_is_mended(database: Database, tmp_path: Path) -> None:
    async with shipping(database, tmp_path) as (journal, shipper):
        journal.final(make_row(model_asked="a\0b\ud800c\n", model="né", end_user="\0"))
    row = await database.fetchrow(Query("names", (), "SELECT model_asked, model, end_user FROM usage"))
    assert row is not None
    assert tuple(row) == ("a\ufffdb?c\n", "né", "\ufffd")
    assert shipper.lost == 0


async def test_a_value_of_a_wrong_kind_does_not_keep_others_waiting(database: Database, tmp_path: Path) -> None:
    async with shipping(database, tmp_path) as (journal, shipper):
        for tokens in (1, "many", ["no", "number"], 2):
            journal.final(make_row()._replace(prompt_tokens=tokens))
        await eventually(lambda: shipper.pending == 0)
    assert (await count(database), shipper.lost) == (2, 2)


async def test_what_is_no_row_does_not_keep_others_waiting(database: Database, tmp_path: Path) -> None:
    rows = [make_row(), make_row()]
    async with shipping(database, tmp_path) as (journal, shipper):
        for row in (rows[0], make_row()._replace(created_at="no moment"), make_row()._replace(status="no"), rows[1]):
            journal.final(row)
        await eventually(lambda: shipper.pending == 0)
    assert shipper.lost == 2
    assert await ids(database) == [row.id for row in rows]


async def test_the_stop_ships_what_is_pending_and_leaves_no_journal(database: Database, tmp_path: Path) -> None:
    async with shipping(database, tmp_path, flush_ms=NEVER_MS) as (journal, shipper):
        for _ in range(1300):
            journal.final(make_row())
    assert (shipper.pending, shipper.lost, list(tmp_path.iterdir())) == (0, 0, [])
    assert await count(database) == 1300


async def test_what_cannot_be_shipped_before_the_stop_waits_in_the_journal(
    wire: Wire, wired: Database, database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [make_row() for _ in range(3)]
    async with shipping(wired, tmp_path) as (journal, shipper):
        wire.cut()
        for row in rows:
            journal.final(row)
    assert (shipper.pending, shipper.lost) == (3, 0)
    assert rows_in(journal.home) == rows
    assert "usage rows stay in the journal" in caplog.messages
    async with shipping(database, tmp_path):
        await eventually(lambda: not journal.home.exists())
    assert await ids(database) == [row.id for row in rows]


async def test_a_stop_without_a_database_and_without_rows_leaves_no_journal(
    wire: Wire, wired: Database, tmp_path: Path
) -> None:
    wire.cut()
    async with shipping(wired, tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


async def test_a_stop_does_not_hang_on_rows_that_the_disk_does_not_take(database: Database, tmp_path: Path) -> None:
    async with journal_in(tmp_path) as journal:
        async with Shipper(database, journal, UsageSettings(flush_ms=10), "UTC", stop_s=3600).running() as shipper:
            await eventually(lambda: database.fetchrow(Query("ready", (), PARTITIONS)))
            journal.segments.close()  # a disk that takes nothing any more
            tmp_path.rename(tmp_path.with_name("gone"))
            tmp_path.touch()
            journal.final(make_row())
        assert shipper.pending == 1


async def test_a_cancelled_stop_ends_and_loses_nothing(database_url: str, database: Database, tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def serve() -> None:
        async with shipping(database, tmp_path, stop_s=3600) as (journal, shipper):
            journals.append(journal)
            journal.final(make_row())
            await eventually(lambda: shipper.pending == 0)
            begun.set()
            await asyncio.Event().wait()

    journals: list[object] = []
    task = asyncio.get_running_loop().create_task(serve())
    await begun.wait()
    (journal,) = journals
    blocker = await asyncpg.connect(database_url)
    try:
        async with blocker.transaction(), asyncio.timeout(60):
            await blocker.execute("LOCK TABLE usage IN SHARE MODE")
            journal.final(make_row())  # type: ignore[attr-defined]
            await eventually(lambda: database.fetchrow(BLOCKED))
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    finally:
        await blocker.close()
    assert await count(database) == 1
    async with shipping(database, tmp_path):
        await eventually(lambda: len(list(tmp_path.iterdir())) == 1)
    assert await count(database) == 2


async def partitions(database: Database) -> set[str]:
    return {row[0] for row in await database.fetch(Query("partitions", (), PARTITIONS))}


async def test_the_days_around_today_have_their_partitions_from_the_start(database: Database, tmp_path: Path) -> None:
    before = datetime.now(UTC)
    async with shipping(database, tmp_path):
        made = await eventually(lambda: partitions(database))
    days = (before + timedelta(days=ahead) for ahead in range(-1, 7))
    assert {f"usage_{day:%Y%m%d}" for day in days} <= made


async def test_a_row_of_another_day_gets_its_partition(database: Database, tmp_path: Path) -> None:
    async with shipping(database, tmp_path, storage_days=0) as (journal, shipper):
        journal.final(make_row(datetime(2020, 2, 29, 23, 59, 59, 999000, UTC)))
        journal.final(make_row(datetime(2020, 3, 1, tzinfo=UTC)))
    assert {"usage_20200229", "usage_20200301"} <= await partitions(database)
    assert (await count(database), shipper.lost) == (2, 0)


async def test_processes_that_make_the_same_partition_do_not_collide(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def drain(directory: Path) -> None:
        async with shipping(database, directory, storage_days=0) as (journal, shipper):
            for _ in range(300):
                journal.final(make_row(datetime(2020, 2, 29, tzinfo=UTC)))
            await eventually(lambda: shipper.pending == 0)

    await asyncio.gather(*(drain(tmp_path / str(number)) for number in range(5)))
    assert await count(database) == 1500
    assert caplog.messages == []
    await sums_agree(database)


async def test_days_that_are_too_old_are_dropped_and_their_sums_kept(database: Database, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    old, kept, new = (make_row(now - timedelta(days=days)) for days in (9, 8, 0))
    await store(database, [old, kept, new])
    async with shipping(database, tmp_path, storage_days=8):

        async def dropped() -> bool:
            return await ids(database) == [kept.id, new.id]

        await eventually(dropped)
    (row,) = await database.fetch(Query("sum", (), "SELECT sum(requests), sum(output_tokens) FROM usage_hours"))
    assert tuple(row) == (3, 3 * 298)
    assert f"usage_{now - timedelta(days=9):%Y%m%d}" not in await partitions(database)


async def test_without_a_limit_no_day_is_dropped(database: Database, tmp_path: Path) -> None:
    await store(database, [make_row(datetime(2020, 2, 29, tzinfo=UTC))])
    async with shipping(database, tmp_path, storage_days=0) as (journal, shipper):
        journal.final(make_row())
        await eventually(lambda: shipper.pending == 0)
    assert await count(database) == 2


async def test_a_reader_that_holds_an_old_day_keeps_no_row_waiting(
    database_url: str, database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await store(database, [make_row(datetime(2020, 2, 29, tzinfo=UTC))])
    reader = await asyncpg.connect(database_url)
    try:
        async with reader.transaction():
            await reader.fetch("SELECT * FROM usage")
            async with shipping(database, tmp_path) as (journal, shipper):
                journal.final(make_row())
                await eventually(lambda: shipper.pending == 0)
    finally:
        await reader.close()
    assert await count(database) == 2
    assert caplog.messages == ["old usage rows are not dropped yet: LockNotAvailableError"]


async def test_a_journal_that_is_removed_loses_nothing_and_is_made_again(database: Database, tmp_path: Path) -> None:
    directory, rows = tmp_path / "journal", [make_row() for _ in range(3)]
    async with shipping(database, directory) as (journal, shipper):
        shutil.rmtree(directory)
        journal.final(rows[0])
        await eventually(lambda: shipper.pending == 0)
        await eventually(lambda: journal.segments.in_place)
        journal.final(rows[1])
        await eventually(lambda: shipper.pending == 0)
        directory.rename(tmp_path / "elsewhere")
        await eventually(lambda: journal.segments.in_place)
        admit(journal, rows[2])
        journal.dispatch(rows[2].id)
        assert [row.id for row in rows_in(journal.home)] == [rows[2].id]
        journal.final(rows[2])
        await eventually(lambda: shipper.pending == 0)
    assert await ids(database) == [row.id for row in rows]
    assert list(directory.iterdir()) == []
    await sums_agree(database)


async def test_nothing_begins_while_a_removed_journal_cannot_be_made_again(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    async with journal_in(directory) as journal:
        shutil.rmtree(directory)
        directory.touch()
        await eventually(lambda: journal.full)
        directory.unlink()
        await eventually(lambda: not journal.full)
        assert journal.home.is_dir()
        directory.rename(elsewhere := tmp_path / "elsewhere")
        directory.touch()
        await eventually(lambda: journal.full)
        directory.unlink()
        elsewhere.rename(directory)
        await eventually(lambda: not journal.full)
