"""The journals that processes which are no more have left: found, locked, read to the end, deleted.

Whose rows they are and where these go is the shipper's matter.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from parallama.exchange import UsageRecord
from parallama.ledger.entries import Reader
from parallama.ledger.frames import unframed
from parallama.ledger.home import LOCK
from parallama.ledger.segments import SUFFIX, place_in


def homes(directory: Path) -> list[Path]:
    """The journals in a directory, if it is there, of live processes too."""
    return sorted(home for home in directory.glob("[!.]*") if home.is_dir())


def others(own: Path) -> dict[Path, int]:
    """The journals beside `own` with their bytes on disk."""
    return {home: _taken(home) for home in homes(own.parent) if home != own}


def is_alive(home: Path) -> bool:
    """Whether the process of this journal runs, or another one is taking it over."""
    try:
        lock = os.open(home / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


@contextmanager
def locked(home: Path) -> Iterator[bool]:
    """Whether the journal is ours for the block: its process is no more, and nobody else has it. Raises OSError."""
    try:
        lock = os.open(home / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:  # the directory is gone meanwhile
        yield False
        return
    try:
        yield _ours(lock)
    finally:
        os.close(lock)


def rows(home: Path, damaged: Callable[[Path], None]) -> Iterator[UsageRecord]:
    """The rows that are not known to be stored: of exchanges that ended, then of those that never did. `damaged` is
    told of each segment that cannot be read to its end, or has entries that are none; the others are read all the same.
    """
    reader, stored = Reader(), place_in((home / LOCK).read_bytes())
    for path in segments(home):
        for row, end in read(path, reader, damaged):
            if (path.name, end) > stored:
                yield row
    yield from reader.aborted()


def segments(home: Path) -> list[Path]:
    """Its files, the oldest first."""
    return sorted(home.glob(f"*{SUFFIX}"))


def read(path: Path, reader: Reader, damaged: Callable[[Path], None]) -> Iterator[tuple[UsageRecord, int]]:
    """The rows of a segment, each with the offset at which it ends, also of exchanges that are stored; `damaged` as for
    `rows`. `reader` has read the segments before."""
    data = path.read_bytes()
    end, whole = 0, True
    for entry, end in unframed(data):
        try:
            row = reader.read(entry)
        except ValueError:
            whole = False
            continue
        if row is not None:
            yield row, end
    if end < len(data) or not whole:
        damaged(path)


def remove(home: Path) -> None:
    """Delete the journal, which is locked. The lock goes last, so that an interrupted removal is found again."""
    for path in segments(home):
        path.unlink(missing_ok=True)
    (home / LOCK).unlink(missing_ok=True)
    with suppress(OSError):
        home.rmdir()


def _ours(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(lock).st_nlink > 0  # else its journal was deleted while we opened it


def _taken(home: Path) -> int:
    with suppress(OSError):
        return sum(path.stat().st_size for path in home.iterdir())
    return 0
