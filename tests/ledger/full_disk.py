"""A journal on a disk that takes a part of a record and then nothing: a process whose files may not grow.

Run as `full_disk.py CASE DIRECTORY`; exit code 0: all is as it must be.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path

from journals import admit, journal_in, rows_in
from usage_rows import eventually, make_row

from parallama.errors import Unavailable
from parallama.exchange import UsageRecord
from parallama.ledger import journal as under_test
from parallama.ledger.journal import Journal


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As a full disk: of what is written beyond, the first bytes are taken, then none."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def refuses(journal: Journal) -> bool:
    with suppress(Unavailable):
        row = make_row()
        admit(journal, row)
        journal.dispatch(row.id)
        return False
    return True


def end(journal: Journal, count: int = 20) -> list[UsageRecord]:
    """The ends of so many exchanges."""
    rows = [make_row() for _ in range(count)]
    for row in rows:
        journal.final(row)
    return rows


async def no_part_of_a_record_is_left(directory: Path) -> None:
    async with journal_in(directory) as journal:
        before, size = end(journal), journal.segments.bytes
        with files_of_at_most(size + 100):
            assert refuses(journal)
            (segment,) = journal.segments
            assert segment.path.stat().st_size == size
            assert rows_in(journal.home) == before


async def who_finds_no_place_when_it_goes_to_its_node_never_began(directory: Path) -> None:
    async with journal_in(directory, sync_ms=3_600_000) as journal:
        rows = end(journal)
        with files_of_at_most(journal.segments.bytes + 100):
            admit(journal, row := make_row()).choose()
            try:
                journal.dispatch(row.id)
            except Unavailable:
                journal.final(row)
            assert rows_in(journal.home) == rows
            assert journal.full
    assert rows_in(journal.home) == [*rows, row]


async def who_waited_while_nothing_was_taken_begins_when_it_goes_to_its_node(directory: Path) -> None:
    async with journal_in(directory, sync_ms=3_600_000) as journal:
        with files_of_at_most(journal.segments.bytes + 100):
            admit(journal, row := make_row()).choose()
            await asyncio.sleep(0)
            assert rows_in(journal.home) == []
        journal.dispatch(row.id)
        assert [(found.id, found.node) for found in rows_in(journal.home)] == [(row.id, "node-1")]


async def who_waited_while_nothing_was_taken_is_written_down_when_it_is_again(directory: Path) -> None:
    async with journal_in(directory) as journal:
        with files_of_at_most(journal.segments.bytes + 100):
            admit(journal, row := make_row())
            await asyncio.sleep(0)
        await eventually(lambda: [found.id for found in rows_in(journal.home)] == [row.id])
        journal.final(row)


async def rows_wait_and_are_written_in_their_order(directory: Path) -> None:
    async with journal_in(directory) as journal:
        rows = end(journal)
        with files_of_at_most(journal.segments.bytes + 100):
            rows += end(journal)
            assert journal.full
            assert refuses(journal)
        await eventually(lambda: not journal.full)
        assert not refuses(journal)
        rows += end(journal)
        assert rows_in(journal.home)[:-1] == rows


async def strict_waits_for_what_the_disk_has_not_taken(directory: Path) -> None:
    async with journal_in(directory) as journal:
        with files_of_at_most(journal.segments.bytes + 100):
            rows = end(journal)
            waiting = asyncio.get_running_loop().create_task(journal.synced())
            await asyncio.wait({waiting}, timeout=0.1)
            assert not waiting.done()
        await waiting
        assert rows_in(journal.home) == rows


async def what_the_disk_takes_at_the_end_is_written_then(directory: Path) -> None:
    async with journal_in(directory, sync_ms=3_600_000) as journal:
        with files_of_at_most(journal.segments.bytes + 100):
            rows = end(journal)
    assert rows_in(journal.home) == rows


async def who_has_ended_is_open_until_the_disk_knows(directory: Path) -> None:
    async with journal_in(directory, journal_mb=1, sync_ms=3_600_000) as journal:
        row = make_row(model_asked="x" * 5000)
        admit(journal, row._replace(model_asked="x"))
        journal.dispatch(row.id)
        while journal.segments.bytes < 1 << 18:
            end(journal, 1)
        with files_of_at_most(3000):  # enough for what a new segment repeats, not for the row
            journal.final(row)
            first, _ = journal.segments
            first.read = first.size
            journal.segments.tidy()
            assert [found.id for found in rows_in(journal.home)] == [row.id]
    assert rows_in(journal.home) == [row]


async def refusals_are_too_many_to_keep_but_what_was_admitted_is_kept(directory: Path) -> None:
    under_test._MOST_LATE = 10
    async with journal_in(directory) as journal:
        row = make_row()
        admit(journal, row)
        journal.dispatch(row.id)
        with files_of_at_most(journal.segments.bytes + 100):
            refused = end(journal, 15)
            journal.final(row)
            assert (journal.finals, journal.lost) == (11, 5)
        await eventually(lambda: not journal.full)
        assert rows_in(journal.home) == [*refused[:10], row]


async def what_starts_on_it_begins_when_it_takes_something(directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    async with AsyncExitStack() as stack:
        with files_of_at_most(100):
            journal = await stack.enter_async_context(journal_in(directory))
            assert journal.full
            assert refuses(journal)
            rows = end(journal)
        await eventually(lambda: not journal.full)
        assert not refuses(journal)
        rows += end(journal)
        assert rows_in(journal.home)[:-1] == rows
    assert len([*directory.iterdir()]) == 1


async def what_starts_and_stops_on_it_leaves_nothing(directory: Path) -> None:
    with files_of_at_most(10):
        async with journal_in(directory) as journal:
            assert journal.full
    assert [*directory.iterdir()] == []


CASES = {
    case.__name__: case
    for case in (
        no_part_of_a_record_is_left,
        who_finds_no_place_when_it_goes_to_its_node_never_began,
        who_waited_while_nothing_was_taken_begins_when_it_goes_to_its_node,
        who_waited_while_nothing_was_taken_is_written_down_when_it_is_again,
        rows_wait_and_are_written_in_their_order,
        strict_waits_for_what_the_disk_has_not_taken,
        what_the_disk_takes_at_the_end_is_written_then,
        who_has_ended_is_open_until_the_disk_knows,
        refusals_are_too_many_to_keep_but_what_was_admitted_is_kept,
        what_starts_on_it_begins_when_it_takes_something,
        what_starts_and_stops_on_it_leaves_nothing,
    )
}

if __name__ == "__main__":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sys.exit(asyncio.run(CASES[sys.argv[1]](Path(sys.argv[2]))))
