"""The journal of a living process: what is written stays, however many files it takes and whatever the disk does."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from full_disk import CASES
from journals import admit, journal_in, read, rows_in, said
from usage_rows import eventually, make_row

from parallama.config import UsageSettings
from parallama.errors import ConfigError, Unavailable
from parallama.exchange import UsageRecord
from parallama.ledger import entries, left
from parallama.ledger.journal import Journal

HERE = Path(__file__).parent


def begin(journal: Journal, row: UsageRecord, tokens: int | None = None) -> UsageRecord:
    """Admit the exchange of a row and send it to its node."""
    admit(journal, row, tokens).choose()
    journal.dispatch(row.id)
    return row


def read_all(journal: Journal) -> None:
    """As the shipper does when all rows are stored."""
    for segment in journal.segments:
        segment.read = segment.size


def fill(journal: Journal, segments: int) -> list[UsageRecord]:
    """Write rows until there are so many segments."""
    rows = []
    while len(list(journal.segments)) < segments:
        rows.append(make_row())
        journal.final(rows[-1])
    return rows


async def test_what_is_written_is_in_the_files_at_once(tmp_path: Path) -> None:
    async with journal_in(tmp_path, sync_ms=3_600_000) as journal:
        row = begin(journal, make_row())
        assert [entry[:1] for entry in said(journal.home)] == [entries.ADMIT]
        journal.final(row)
        assert rows_in(journal.home) == [row]


async def test_who_goes_to_a_node_at_once_is_one_entry_that_names_it(tmp_path: Path) -> None:
    async with journal_in(tmp_path, sync_ms=3_600_000) as journal:
        begin(journal, make_row())
        await asyncio.sleep(0)
        (aborted,) = rows_in(journal.home)
        assert (aborted.node, aborted.model) == ("node-1", "llama3.2")
        assert [entry[:1] for entry in said(journal.home)] == [entries.ADMIT]


async def test_who_waits_is_written_at_the_end_of_the_turn_and_has_asked_no_node_yet(tmp_path: Path) -> None:
    async with journal_in(tmp_path, sync_ms=3_600_000) as journal:
        waiting = [make_row() for _ in range(3)]
        for row in waiting:
            admit(journal, row).choose()
        assert rows_in(journal.home) == []
        await asyncio.sleep(0)
        assert [(row.id, row.node, row.model) for row in rows_in(journal.home)] == [
            (row.id, None, None) for row in waiting
        ]
        journal.dispatch(waiting[1].id)
        assert [row.node for row in rows_in(journal.home)] == [None, "node-1", None]
        assert b"".join(entry[:1] for entry in said(journal.home)) == b"AAAD"
        admit(journal, make_row())
        await asyncio.sleep(0)
        assert len(rows_in(journal.home)) == 4, "each turn has its end"


async def test_who_ends_in_the_turn_in_which_it_began_is_its_end_alone(tmp_path: Path) -> None:
    async with journal_in(tmp_path, sync_ms=3_600_000) as journal:
        row = make_row()
        admit(journal, row)
        journal.final(row)
        await asyncio.sleep(0)
        assert [entry[:1] for entry in said(journal.home)] == [entries.FINAL]


async def test_where_others_see_what_comes_next_nobody_is_held_back(tmp_path: Path) -> None:
    async with Journal(tmp_path, "one", UsageSettings(), at_once=True).running() as journal:
        row = make_row()
        asking = admit(journal, row)
        assert [found.id for found in rows_in(journal.home)] == [row.id]
        asking.choose()
        journal.dispatch(row.id)
        assert [entry[:1] for entry in said(journal.home)] == [entries.ADMIT, entries.DISPATCH]


async def test_a_segment_that_begins_has_what_is_held_back_once(tmp_path: Path) -> None:
    async with journal_in(tmp_path, journal_mb=1, sync_ms=3_600_000) as journal:
        waiting = make_row()
        admit(journal, waiting).choose()
        fill(journal, 2)
        journal.segments.begin()
        journal.dispatch(waiting.id)
        assert [entry[:1] for entry in said(journal.home)].count(entries.ADMIT) == 1
        assert [row.node for row in rows_in(journal.home) if row.id == waiting.id] == ["node-1"]


async def test_its_files_are_for_nobody_else(tmp_path: Path) -> None:
    async with journal_in(tmp_path) as journal:
        assert journal.home.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in journal.home.iterdir()} == {0o600}


async def test_a_new_segment_repeats_what_is_open_so_that_the_earlier_ones_can_go(tmp_path: Path) -> None:
    async with journal_in(tmp_path, journal_mb=1, sync_ms=3_600_000) as journal:
        running, ended = begin(journal, make_row()), begin(journal, make_row())
        journal.final(ended)
        rows = fill(journal, 2)
        first, second = journal.segments
        assert read(said(journal.home))[:-1] == [ended, *rows]
        first.read = first.size
        journal.segments.tidy()
        assert not first.path.exists()
        assert journal.segments.bytes == second.path.stat().st_size
        *late, aborted = rows_in(journal.home)
        assert late == rows[-1:]
        assert (aborted.id, aborted.node, aborted.error) == (running.id, "node-1", "aborted")


async def test_segments_that_are_not_read_to_their_end_stay(tmp_path: Path) -> None:
    async with journal_in(tmp_path, journal_mb=1) as journal:
        rows = fill(journal, 4)
        first, second, *_ = journal.segments
        first.read, second.read = first.size - 1, second.size
        journal.segments.tidy()
        assert rows_in(journal.home) == rows


async def test_how_far_the_open_exchanges_have_come_is_told_again_and_again(tmp_path: Path) -> None:
    async with journal_in(tmp_path) as journal:
        running = [begin(journal, make_row(), tokens) for tokens in range(2500)]

        def told() -> bool:
            return [row.output_tokens for row in rows_in(journal.home)] == list(range(2500))

        await eventually(told)
        for row in running:
            journal.final(row)


async def test_a_journal_is_locked_while_its_process_lives(tmp_path: Path) -> None:
    async with journal_in(tmp_path) as journal:
        with left.locked(journal.home) as ours:
            assert not ours
        journal.final(make_row())
    with left.locked(journal.home) as ours:
        assert ours


async def test_at_its_quota_nothing_begins_until_something_is_read_but_what_has_begun_ends(tmp_path: Path) -> None:
    async with journal_in(tmp_path, journal_mb=1) as journal:
        running = begin(journal, make_row())
        while not journal.full:
            begin(journal, make_row())
        with pytest.raises(Unavailable):
            begin(journal, make_row())
        journal.final(running)
        assert rows_in(journal.home)[0] == running
        read_all(journal)
        journal.segments.tidy()
        assert journal.taken < 1 << 20
        begin(journal, make_row())


async def test_refusals_do_not_fill_the_disk_but_what_has_begun_ends(tmp_path: Path) -> None:
    async with journal_in(tmp_path, journal_mb=1) as journal:
        running = begin(journal, make_row())
        while not journal.lost:
            journal.final(make_row())  # a 503: it never began
        size, finals = journal.taken, journal.finals
        assert 2 << 20 <= size < (2 << 20) + 4096
        journal.final(make_row())
        assert (journal.lost, journal.taken, journal.finals) == (2, size, finals)
        journal.final(running)
        assert rows_in(journal.home)[-1] == running


async def test_the_journals_of_other_processes_count_for_the_quota(tmp_path: Path) -> None:
    async with journal_in(tmp_path, journal_mb=1) as journal:
        journal.elsewhere = 1 << 20
        with pytest.raises(Unavailable):
            begin(journal, make_row())


@pytest.mark.parametrize("case", CASES)
def test_a_disk_that_takes_nothing(tmp_path: Path, case: str) -> None:
    command = [sys.executable, str(HERE / "full_disk.py"), case, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent}"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    (said_once,) = done.stderr.splitlines()
    assert said_once.startswith("the journal cannot be written: ")


async def test_strict_means_that_it_is_on_the_disk_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, come, put = threading.Event(), threading.Event(), os.fdatasync
    synced: list[int] = []

    def gated(file: int) -> None:
        come.set()
        assert opened.wait(30)
        put(file)
        synced.append(os.fstat(file).st_size)

    async with journal_in(tmp_path, sync_ms=3_600_000) as journal:
        monkeypatch.setattr(os, "fdatasync", gated)
        journal.final(make_row())
        size = journal.segments.bytes
        first = asyncio.get_running_loop().create_task(journal.synced())
        assert await asyncio.to_thread(come.wait, 30)
        second = asyncio.get_running_loop().create_task(journal.synced())
        await asyncio.wait({first, second}, timeout=0.01)
        assert not first.done()
        opened.set()
        await asyncio.gather(first, second)
        assert synced[0] == size


async def test_what_comes_while_the_disk_works_waits_for_its_own_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns, come, put = threading.Semaphore(0), threading.Semaphore(0), os.fdatasync

    def gated(file: int) -> None:
        come.release()
        assert turns.acquire(timeout=30)
        put(file)

    async with journal_in(tmp_path, sync_ms=3_600_000) as journal:
        monkeypatch.setattr(os, "fdatasync", gated)
        journal.final(make_row())
        first = asyncio.get_running_loop().create_task(journal.synced())
        await asyncio.to_thread(come.acquire)
        journal.final(make_row())
        second = asyncio.get_running_loop().create_task(journal.synced())
        turns.release()
        await first
        await asyncio.to_thread(come.acquire)
        assert not second.done()
        turns.release(10)
        await second


async def test_a_disk_that_does_not_answer_is_said_in_strict_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_file: int) -> None:
        raise OSError(5, "Input/output error")

    put = os.fdatasync
    monkeypatch.setattr("parallama.ledger.journal._SYNC_S", 0.2)
    async with journal_in(tmp_path) as journal:
        monkeypatch.setattr(os, "fdatasync", broken)
        journal.final(make_row())
        with pytest.raises(Unavailable):
            await journal.synced()
        monkeypatch.setattr(os, "fdatasync", put)
        await journal.synced()
    assert caplog.messages == ["the journal does not get to the disk itself: Input/output error"]


async def test_after_an_end_at_which_all_was_read_nothing_is_left(tmp_path: Path) -> None:
    async with journal_in(tmp_path, journal_mb=1) as journal:
        fill(journal, 3)
        read_all(journal)
    assert list(tmp_path.iterdir()) == []


async def test_what_is_unread_at_the_end_stays(tmp_path: Path) -> None:
    async with journal_in(tmp_path) as journal:
        read_all(journal)
        row = make_row()
        journal.final(row)
    assert rows_in(journal.home) == [row]


async def test_an_exchange_that_is_open_at_the_end_stays(tmp_path: Path) -> None:
    async with journal_in(tmp_path) as journal:
        row = begin(journal, make_row())
        read_all(journal)
    assert [found.id for found in rows_in(journal.home)] == [row.id]


async def test_a_row_behind_the_end_touches_no_file(tmp_path: Path) -> None:
    async with journal_in(tmp_path) as journal:
        read_all(journal)
    journal.final(make_row())
    assert list(tmp_path.iterdir()) == []


async def test_a_place_that_cannot_be_had_is_the_operators_error(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.touch()
    with pytest.raises(ConfigError, match=r"the journal cannot be written in .*file"):
        async with Journal(place, "one", UsageSettings()).running():
            pass


async def test_much_that_is_open_does_not_make_every_entry_begin_a_file(tmp_path: Path) -> None:
    async with journal_in(tmp_path, journal_mb=1, sync_ms=3_600_000) as journal:
        while not journal.full:
            begin(journal, make_row())
        before = len(list(journal.segments))
        for _ in range(20):
            journal.final(make_row())
        assert len(list(journal.segments)) <= before + 1
