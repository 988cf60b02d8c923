"""The files of a journal: each is only added to, then followed by another. Of what stands in them only the frames are
known here."""

from __future__ import annotations

import asyncio
import errno
import os
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from parallama.ledger.frames import framed

SUFFIX = ".log"

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

Place = tuple[str, int]
"""A file's name and an offset in it."""


@dataclass(slots=True)
class Segment:
    """One file of a journal."""

    path: Path
    reading: int = -1
    """The open file: its name may be taken from it."""
    size: int = 0
    """Bytes that are written whole."""
    read: int = 0
    """How far whoever reads it needs it no more."""
    marks: array[int] = field(default_factory=lambda: array("I"))
    """Where each record begins and ends that was marked, and is not read."""

    @property
    def place(self) -> Place:
        """How far it is read."""
        return self.path.name, self.read

    def close(self) -> None:
        """It is not read any more."""
        if self.reading >= 0:
            os.close(self.reading)
            self.reading = -1

    def next(self, most: int) -> tuple[list[bytes], int]:
        """The next marked records, at most so many, and how far it is read with them."""
        marks = self.marks[: 2 * most]
        end = marks[-1] if len(marks) < len(self.marks) else self.size
        if not marks:
            return [], end
        first, last = marks[0], marks[-1]
        data = os.pread(self.reading, last - first, first)
        places = [*map((-first).__add__, marks)]
        return [*map(data.__getitem__, map(slice, places[::2], places[1::2]))], end

    def done(self, records: int, end: int) -> None:
        """So many marked records, up to `end`, are not needed any more."""
        del self.marks[: 2 * records]
        self.read = end


class Segments:
    """Of one directory, the oldest first; all but the last are complete."""

    def __init__(self, home: Path, longest: int, opening: Callable[[], Iterable[bytes]]) -> None:
        """`longest`: bytes, after which another begins; `opening` gives the payloads with which a new one begins."""
        self._home, self._longest, self._opening = home, longest, opening
        self._all: deque[Segment] = deque()
        self._last = Segment(home)
        """That which is written to; as long as there is none, one that is at its end."""
        self.bytes = 0
        """On disk."""
        self._number = 0
        self._until = 0
        """Bytes of the last one, after which another begins: as much again, at least, as it began with."""
        self._file = -1
        self._complete: list[int] = []
        """Files that are not written to any more, but not known to be on the disk itself."""
        self._unsynced = self._unnamed = False

    def __iter__(self) -> Iterator[Segment]:
        return iter(tuple(self._all))

    @property
    def begun(self) -> bool:
        """Whether there is a file that is written to."""
        return self._file >= 0

    @property
    def in_place(self) -> bool:
        """Whether the file that is written to still has its name: else nobody finds it after this process."""
        if not self.begun:
            return False
        with suppress(OSError):
            return os.path.samestat(os.stat(self._last.path), os.fstat(self._file))
        return False

    @property
    def unread(self) -> int:
        """Bytes."""
        return sum(one.size - one.read for one in self._all)

    def append(self, payload: bytes, mark: bool = False) -> None:
        """Write it as one record. Raises OSError when the disk does not take it whole, and leaves nothing of it.
        `mark`: whoever reads is to find it."""
        segment = self._last
        if segment.size >= self._until:
            self.begin()
            segment = self._last
        record = framed(payload)
        length, at = len(record), segment.size
        if os.pwrite(self._file, record, at) < length:
            _take_back(self._file, at)
        segment.size = end = at + length
        if mark:
            segment.marks.extend((at, end))
        self.bytes += length
        self._unsynced = True

    def begin(self) -> None:
        """Begin the next file. Raises OSError, and leaves all as it was."""
        self._number += 1
        segment = Segment(self._home / f"{self._number:08}{SUFFIX}")
        file = os.open(segment.path, _NEW, 0o600)
        try:
            segment.reading = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
            opening = b"".join(map(framed, self._opening()))
            segment.size = os.pwrite(file, opening, 0)
            if segment.size < len(opening):
                _take_back(file, 0)
        except OSError:
            os.close(file)
            segment.close()
            segment.path.unlink(missing_ok=True)
            raise
        if self._file >= 0:
            self._complete.append(self._file)
        self._file, self._until = file, max(self._longest, 2 * segment.size)
        self._all.append(segment)
        self._last = segment
        self.bytes += segment.size
        self._unsynced = self._unnamed = True

    def tidy(self) -> None:
        """Delete those that are complete and read."""
        while len(self._all) > 1 and self._all[0].read == self._all[0].size:
            segment = self._all.popleft()
            segment.close()
            segment.path.unlink(missing_ok=True)
            self.bytes -= segment.size

    async def to_disk(self) -> None:
        """Until all that is written by now is on the disk itself. Raises OSError: then it is to be called again."""
        if not self._unsynced:
            return
        complete, home = list(self._complete), self._home if self._unnamed else None
        self._unsynced = self._unnamed = False
        try:
            await asyncio.to_thread(_sync, [*complete, self._file], home)
        except OSError:
            self._unsynced, self._unnamed = True, self._unnamed or home is not None
            raise
        for file in complete:
            self._complete.remove(file)
            os.close(file)

    def close(self) -> None:
        """Nothing is written any more; what is unread stays."""
        for file in (*self._complete, self._file):
            if file >= 0:
                os.close(file)
        for segment in self._all:
            segment.close()
        self._complete, self._file = [], -1

    def remove(self) -> None:
        """Delete all of them."""
        for segment in self._all:
            segment.path.unlink(missing_ok=True)


def _take_back(file: int, at: int) -> NoReturn:
    """Leave nothing of a record of which a full disk took a part; what is left all the same is written over."""
    with suppress(OSError):
        os.ftruncate(file, at)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _sync(files: Iterable[int], home: Path | None) -> None:
    for file in files:
        os.fdatasync(file)
    if home is not None:
        sync_directory(home)


def sync_directory(path: Path) -> None:
    """Until the names in it are on the disk itself. Raises OSError."""
    directory = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def written(place: Place) -> bytes:
    """How a journal's lock says to where its rows are stored; always as long, so that a full disk takes it."""
    return b"%-16s%016d" % (place[0].encode(), place[1])


def place_in(data: bytes) -> Place:
    """What `written` has made; the beginning of all where there is none."""
    name, offset = data[:16].rstrip().decode("ascii", "replace"), data[16:32]
    return (name, int(offset)) if len(offset) == 16 and offset.isdigit() else ("", 0)
