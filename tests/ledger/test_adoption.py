"""Whoever comes next takes over the journals of processes that were killed: every row once, whatever was left."""

from __future__ import annotations

import logging
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from journals import admit, admitted, dispatched, journal_in, left_behind, reached, segment, shipping
from sums import sums_agree
from usage_rows import as_stored, count, eventually, ids, make_row
from wire import Wire

from parallama.config import DatabaseSettings
from parallama.db.pool import Database
from parallama.db.query import Query
from parallama.ledger import entries, left

ROWS = Query("rows", (), "SELECT * FROM usage ORDER BY id")


def ended(count: int) -> tuple[list[Any], list[bytes]]:
    """So many rows, and what a journal says of each: ADMIT, DISPATCH, FINAL."""
    rows = [make_row() for _ in range(count)]
    said = []
    for row in rows:
        said += [entries.admit(admitted(row)), dispatched(row.id, "node-1", row.model), entries.final(row)]
    return rows, said


async def adopt(database: Database, directory: Path, *homes: Path) -> tuple[int, int]:
    """Have a process come and take over these journals; the rows lost and the segments damaged."""
    async with shipping(database, directory) as (_, shipper):
        await eventually(lambda: not any(home.exists() for home in homes))
    return shipper.lost, shipper.damaged


async def stored(database: Database) -> list[dict[str, Any]]:
    return [dict(row) for row in await database.fetch(ROWS)]


async def test_the_rows_of_a_killed_process_are_stored_as_they_were(database: Database, tmp_path: Path) -> None:
    rows, said = ended(500)
    home = left_behind(tmp_path, segment(*said[:700]), segment(*said[700:]))
    assert await adopt(database, tmp_path, home) == (0, 0)
    assert [tuple(row.values()) for row in await stored(database)] == [*map(as_stored, rows)]
    await sums_agree(database)
    assert list(tmp_path.iterdir()) == []


async def test_an_exchange_that_never_ended_is_an_aborted_row(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "parallama.usage")
    waiting, asked, limited, answering = (make_row() for _ in range(4))
    said = [entries.admit(admitted(row)) for row in (waiting, asked, limited, answering)]
    said += [dispatched(row.id, "node-1", "llama3.2") for row in (asked, answering)]
    said += [dispatched(limited.id, "node-1", "llama3.2", None, 33)]
    said += [entries.progress([reached(asked), reached(limited), reached(answering, 41, 26)])]
    home = left_behind(tmp_path, segment(*said))
    assert await adopt(database, tmp_path, home) == (0, 0)
    found = await stored(database)
    assert {(row["status"], row["outcome"], row["error"]) for row in found} == {(500, "failed", "aborted")}
    assert [row["id"] for row in found] == [waiting.id, asked.id, limited.id, answering.id]
    assert [(row["node"], row["prompt_tokens"], row["output_tokens"], row["estimated"]) for row in found] == [
        (None, None, None, False),
        ("node-1", None, None, False),
        ("node-1", 33, None, True),
        ("node-1", 26, 41, True),
    ]
    (said_so,) = caplog.records
    assert said_so.__dict__["fields"] == {"journal": home.name, "rows": 4, "aborted": 4}
    await sums_agree(database)


@pytest.mark.parametrize("damage", ["torn", "zeros", "flipped"])
async def test_a_damaged_segment_is_read_up_to_the_damage_and_the_others_whole(
    database: Database, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows, said = ended(30)
    first, second = bytearray(segment(*said[:60])), segment(*said[60:])
    if damage == "torn":
        del first[-1:]
    elif damage == "zeros":
        first[-100:] = bytes(4096)
    else:
        first[-20] ^= 1
    home = left_behind(tmp_path, bytes(first), second)
    assert await adopt(database, tmp_path, home) == (0, 1)
    found = await stored(database)
    assert [row["id"] for row in found] == [row.id for row in rows]
    assert [row["error"] for row in found] == [None] * 19 + ["aborted"] + [None] * 10
    (message,) = [record.getMessage() for record in caplog.records if record.name == "parallama.error"]
    assert message == "a journal is damaged: 0-left/00000001.log"


async def test_an_entry_that_nobody_understands_costs_only_itself(database: Database, tmp_path: Path) -> None:
    rows, said = ended(3)
    odd = [b"X{}", b"F[]", b"D{}"]
    home = left_behind(tmp_path, segment(*odd, *said, *odd))
    assert await adopt(database, tmp_path, home) == (0, 1)
    assert await ids(database) == [row.id for row in rows]


async def test_a_segment_that_is_nothing_but_garbage_costs_only_itself(database: Database, tmp_path: Path) -> None:
    rows, said = ended(3)
    home = left_behind(tmp_path, b"garbage" * 100, segment(*said), b"")
    assert await adopt(database, tmp_path, home) == (0, 1)
    assert await ids(database) == [row.id for row in rows]


async def test_the_journal_of_a_process_that_lives_is_not_touched(database: Database, tmp_path: Path) -> None:
    async with journal_in(tmp_path) as living:
        rows = [make_row() for _ in range(3)]
        for row in rows:
            living.final(row)
        behind = left_behind(tmp_path, segment(), name="z-left")  # looked at later
        await adopt(database, tmp_path, behind)
        assert await count(database) == 0
        assert living.home.exists()
    await adopt(database, tmp_path, living.home)
    assert await ids(database) == [row.id for row in rows]


async def test_a_process_begins_unseen_by_those_that_take_over(database: Database, tmp_path: Path) -> None:
    (tmp_path / ".beginning").mkdir()
    (tmp_path / "a file").touch()
    await adopt(database, tmp_path, left_behind(tmp_path, segment()))
    assert {path.name for path in tmp_path.iterdir()} == {".beginning", "a file"}


async def test_a_journal_that_is_taken_over_again_adds_nothing(database: Database, tmp_path: Path) -> None:
    rows, said = ended(300)
    open_row = make_row()
    said += [entries.admit(admitted(open_row)), dispatched(open_row.id, "node-1", None)]
    for _ in range(2):
        await adopt(database, tmp_path, left_behind(tmp_path, segment(*said)))
        assert await ids(database) == [row.id for row in (*rows, open_row)]
        await sums_agree(database)


async def test_what_an_interrupted_removal_has_left_changes_nothing(database: Database, tmp_path: Path) -> None:
    rows, said = ended(100)
    segments = segment(*said[:50]), segment(*said[50:100]), segment(*said[100:])
    await adopt(database, tmp_path, left_behind(tmp_path, *segments))
    before = await stored(database)
    for left_over in (segments[1:], segments[:1], segments[2:], ()):
        await adopt(database, tmp_path, left_behind(tmp_path, *left_over))
        assert await stored(database) == before
    await sums_agree(database)
    assert len(before) == len(rows)


async def test_a_journal_without_its_lock_is_taken_over_too(database: Database, tmp_path: Path) -> None:
    rows, said = ended(3)
    home = left_behind(tmp_path, segment(*said))
    (home / left.LOCK).unlink()
    await adopt(database, tmp_path, home)
    assert await ids(database) == [row.id for row in rows]


async def test_several_that_come_at_once_take_over_each_journal_once(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows: list[Any] = []
    homes = []
    for number in range(8):
        new, said = ended(50)
        rows += new
        homes.append(left_behind(tmp_path, segment(*said), name=f"0-left-{number}"))
    async with shipping(database, tmp_path) as (_, one), shipping(database, tmp_path) as (_, two):
        await eventually(lambda: not any(home.exists() for home in homes))
    assert await ids(database) == [row.id for row in rows]
    assert (one.lost, two.lost, one.damaged, two.damaged) == (0, 0, 0, 0)
    assert {record.getMessage() for record in caplog.records} == {
        "the journal of a process that is no more is taken over"
    }
    assert list(tmp_path.iterdir()) == []


async def test_a_takeover_that_the_database_interrupts_is_done_again(
    wire: Wire, database: Database, tmp_path: Path
) -> None:
    rows, said = ended(1000)
    home = left_behind(tmp_path, segment(*said))
    async with Database(wire.url, DatabaseSettings(connect_s=2, acquire_s=2)).running() as wired:
        wire.cut_at_commit = True
        assert await adopt(wired, tmp_path, home) == (0, 0)
    assert wire.cuts == 1
    assert await ids(database) == [row.id for row in rows]
    await sums_agree(database)


async def test_rows_that_the_database_refuses_do_not_keep_a_journal(database: Database, tmp_path: Path) -> None:
    rows, said = ended(10)
    bad = make_row(prompt_tokens=-1)
    home = left_behind(tmp_path, segment(*said[:15], entries.final(bad), *said[15:]))
    assert await adopt(database, tmp_path, home) == (1, 0)
    assert await ids(database) == [row.id for row in rows]


async def test_a_journal_that_cannot_be_read_keeps_no_other_waiting(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows, said = ended(3)
    broken = left_behind(tmp_path, segment(), name="0-broken")
    (broken / "00000002.log").mkdir()
    home = left_behind(tmp_path, segment(*said), name="1-sound")
    await adopt(database, tmp_path, home)
    assert broken.exists()
    assert await ids(database) == [row.id for row in rows]
    assert "the journal 0-broken cannot be taken over: Is a directory" in caplog.messages


async def test_what_others_take_counts_for_the_quota_until_it_is_taken_over(database: Database, tmp_path: Path) -> None:
    async with journal_in(tmp_path, journal_mb=2) as living:
        while living.taken < 1 << 20:
            living.final(make_row())
        async with shipping(database, tmp_path, journal_mb=1) as (journal, _):
            await eventually(lambda: journal.full)
    async with shipping(database, tmp_path, journal_mb=1) as (journal, _):
        await eventually(lambda: not living.home.exists() and not journal.full)
    assert await count(database) == living.finals


@pytest.mark.parametrize(
    "zone", ["UTC", "Asia/Kolkata", "Asia/Kathmandu", "America/St_Johns", "Europe/Berlin", "Australia/Lord_Howe"]
)
async def test_sums_by_the_hour_of_any_clock_are_those_of_the_rows(
    database: Database, tmp_path: Path, zone: str
) -> None:
    changes = [datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC)]  # Berlin
    changes += [datetime(2026, 4, 4, 15, tzinfo=UTC), datetime(2026, 10, 3, 15, 30, tzinfo=UTC)]  # Lord Howe
    moments = [change + timedelta(minutes=minutes) for change in changes for minutes in range(-150, 150, 7)]
    async with shipping(database, tmp_path, zone, storage_days=0) as (journal, shipper):
        for number, moment in enumerate(moments):
            facts: dict[str, Any] = {
                "gateway": ("ollama", "openai")[number % 2],
                "ttft_ms": (None, 1.5)[number % 3 > 0],
            }
            outcome = ("ok", "failed", "cancelled", "refused")[number % 4]
            journal.final(make_row(moment, outcome=outcome, node=("node-1", None)[number % 5 > 3], **facts))
        await eventually(lambda: shipper.pending == 0)
    assert await count(database) == len(moments)
    await sums_agree(database, zone)


async def test_rows_that_were_stored_and_dropped_for_their_age_are_not_summed_again(
    database: Database, tmp_path: Path
) -> None:
    old = make_row(datetime.now(UTC) - timedelta(days=40))
    home = tmp_path / "0-left"
    async with shipping(database, tmp_path, storage_days=0) as (journal, shipper):
        journal.final(old)
        journal.final(young := make_row())
        await eventually(lambda: shipper.pending == 0)
        admit(journal, open_ := make_row())
        journal.final(late := make_row())
        await eventually(lambda: shipper.pending == 0)
        journal.final(last := make_row())
        shutil.copytree(journal.home, home)
        await eventually(lambda: shipper.pending == 0)
    assert left_rows(home) == [last.id, open_.id]
    await database.fetch(Query("forget", (), "SELECT usage_forget(now() - interval '30 days')"))
    await adopt(database, tmp_path, home)
    assert {row["id"] for row in await stored(database)} == {young.id, late.id, last.id, open_.id}
    sums = await database.fetchrow(Query("sums", (), "SELECT sum(requests)::int FROM usage_hours"))
    assert sums is not None
    assert sums[0] == 5


def left_rows(home: Path) -> list[Any]:
    """The ids of the rows that whoever takes over stores."""
    return [row.id for row in left.rows(home, lambda path: pytest.fail(str(path)))]
