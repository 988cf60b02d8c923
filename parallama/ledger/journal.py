"""The journal of a process: what becomes of every exchange is on disk before the client has the last of its answer.

One directory a process, `journal/<instance>/`, locked while the process lives; the lock says how far its rows are
stored. In it segments of records as `frames.py` has them. Written at once, so that a killed process loses nothing; on
the disk itself within `sync_ms`, so that a power cut loses no more than that.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import shutil
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from uuid import UUID

from parallama.config import UsageSettings
from parallama.errors import ConfigError, Unavailable
from parallama.exchange import UsageRecord
from parallama.ledger import entries
from parallama.ledger.entries import Reached
from parallama.ledger.frames import framed
from parallama.ledger.segments import Segment, Segments, sync_directory, written

LOCK = "lock"

_SEGMENT = 8 << 20
_PROGRESS_S = 1.0
_TOGETHER = 1000
"""Exchanges in one entry of progress."""
_MOST_LATE = 100_000
"""Rows of refusals that wait in memory for a disk that takes nothing."""
_MOST_TIMES = 2
"""The quota, beyond which refusals are counted only: clients that try again and again must not fill the disk."""
_SYNC_S = 10.0
"""Longest wait for the disk."""

_FULL = (errno.ENOSPC, errno.EDQUOT)

_log = logging.getLogger("parallama.usage")

Progress = Callable[[], Reached]
"""How far an exchange has come by now."""


@dataclass(slots=True)
class _Open:
    """An exchange whose end is not written."""

    progress: Progress
    entries: list[bytes] = field(default_factory=list)


class Journal:
    """Of this process. Works inside `running()`."""

    def __init__(self, directory: Path, instance: str, settings: UsageSettings) -> None:
        """`directory`: of all journals of this machine; `instance`: the name of this one, never used before."""
        self.home = directory / instance
        self._sync_s, self._quota = settings.sync_ms / 1000, settings.journal_mb << 20
        # several to the quota: only those that are complete can be deleted
        self.segments = Segments(self.home, min(_SEGMENT, self._quota // 4), self._opening)
        self.elsewhere = 0
        """Bytes of the other journals of this machine; the shipper counts them."""
        self.finals = 0
        """Rows taken since the start."""
        self.lost = 0
        """Rows of refusals that were too many to keep while the disk took nothing."""
        self._lock = -1
        self._open: dict[int, _Open] = {}
        """By the number of their ids: a UUID takes long to be hashed."""
        self._late: deque[tuple[bytes, UUID | None]] = deque()
        """Records that the disk has not taken, each with the exchange that ends with it."""
        self._waiting: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._stopping = False
        self._progress_at = 0.0
        self._trouble: str | None = None
        self._homeless = False
        """Whether there is no directory, and none can be made now."""

    @property
    def full(self) -> bool:
        """Whether no exchange may begin: the disk takes nothing, or the journals have grown to their quota."""
        return bool(self._late) or self._homeless or self.taken >= self._quota

    @property
    def taken(self) -> int:
        """Bytes on disk, of all journals of this machine."""
        return self.segments.bytes + self.elsewhere

    def admit(self, row: UsageRecord, progress: Progress) -> None:
        """An exchange begins; `row` stands if nothing more is heard of it. Raises Unavailable when that cannot be
        written down."""
        entry = entries.admit(row)
        if self.full or not self._append(framed(entry)):
            raise Unavailable("usage cannot be recorded now: the journal is full, or its disk")
        self._open[row.id.int] = _Open(progress, [entry])

    def dispatch(
        self,
        id: UUID,
        node: str,
        model: str | None,
        charged_at: datetime | None = None,
        prompt_tokens: int | None = None,
    ) -> None:
        """The exchange, which was admitted, goes to this node for this model; `charged_at`: as its row has it;
        `prompt_tokens`: probably."""
        if (one := self._open.get(id.int)) is not None:
            entry = entries.dispatch(id, node, model, charged_at, prompt_tokens)
            one.entries.append(entry)
            self._write(entry)

    def final(self, row: UsageRecord) -> None:
        """The exchange has ended so. Never waits; what the disk does not take is kept until it does."""
        if row.id.int not in self._open and (len(self._late) >= _MOST_LATE or self.taken >= _MOST_TIMES * self._quota):
            self.lost += 1
            return
        self.finals += 1
        self._write(entries.final(row), row.id)

    def stored(self, segment: Segment) -> None:
        """The rows of the segment are stored as far as it is read. Whoever takes over does not store them again, which
        would count them twice in the sums once they were dropped for their age."""
        with suppress(OSError):  # not a full disk: the bytes are there
            os.pwrite(self._lock, written(segment.place), 0)

    async def synced(self) -> None:
        """Until all that is written by now is on the disk itself. Raises Unavailable when the disk takes too long."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._wake.set()
        try:
            await asyncio.wait_for(done, _SYNC_S)
        except TimeoutError:
            raise Unavailable("usage cannot be recorded now: the disk does not answer") from None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Journal]:
        """Make the directory and hold its lock during the block. Afterwards what was written is on the disk; if all of
        it was read, the directory is gone. Raises ConfigError when it cannot be made, unless the disk is full: what
        others have left there is shipped nevertheless, which may be what it is full of."""
        try:
            await asyncio.to_thread(self._begin)
        except OSError as error:
            if error.errno not in _FULL or not self.home.parent.is_dir():
                raise ConfigError(f"the journal cannot be written in {self.home.parent}: {error.strerror}") from error
            self._homeless = True
            self._tell(f"the journal cannot be written: {error.strerror}")
        keeping = asyncio.get_running_loop().create_task(self._keep(), name="journal")
        try:
            yield self
        finally:
            self._stopping = True
            self._wake.set()
            try:
                await asyncio.wait({keeping}, timeout=_SYNC_S)
            finally:
                keeping.cancel()
                self._end()

    def _begin(self) -> None:
        self._make_home()
        self.segments.begin()
        for above in self.home.parents[:2]:
            sync_directory(above)

    def _make_home(self) -> None:
        # under its name only when it is locked: nobody may take it for one that was left
        unlocked = self.home.with_name(f".{self.home.name}")
        unlocked.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = -1
        try:
            lock = os.open(unlocked / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(lock, written(("", 0)), 0)
            unlocked.rename(self.home)
        except OSError:
            if lock >= 0:
                os.close(lock)
            shutil.rmtree(unlocked, ignore_errors=True)
            raise
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = lock

    def _stay(self) -> None:
        """When the directory, or the file that is written to, was removed or put elsewhere, or was never made: make
        another."""
        if self.segments.in_place:
            self._homeless = False
            return
        removed = self.segments.begun
        try:
            if not self.home.exists():
                self._make_home()
            self.segments.begin()
        except OSError as error:
            self._homeless = True
            self._tell(f"the journal was removed, and cannot be made again: {error.strerror}")
        else:
            self._homeless = False
            if removed:
                _log.error("the journal was removed, and is made again")

    def _end(self) -> None:
        self.segments.close()
        if not self._late and not self._open and not self.segments.unread:
            self.segments.remove()
            (self.home / LOCK).unlink(missing_ok=True)
            with suppress(OSError):
                self.home.rmdir()
        if self._lock >= 0:
            os.close(self._lock)

    def _opening(self) -> Iterator[bytes]:
        """What is known of the exchanges that are open, so that earlier segments are not needed for them."""
        yield framed(entries.columns())
        for one in self._open.values():
            yield from map(framed, one.entries)
        self._progress_at = 0.0

    def _write(self, entry: bytes, ended: UUID | None = None) -> None:
        """Write it behind all that the disk has not taken yet."""
        record = framed(entry)
        if self._late or not self._append(record, ended):
            self._late.append((record, ended))

    def _catch_up(self) -> None:
        """Write what is late, as far as the disk takes it."""
        while self._late and self._append(*self._late[0]):
            self._late.popleft()

    def _append(self, record: bytes, ended: UUID | None = None) -> bool:
        """Whether the record is written whole; else nothing of it is. `ended`: the exchange whose row it is."""
        try:
            self.segments.append(record, mark=ended is not None)
        except OSError as error:
            self._tell(f"the journal cannot be written: {error.strerror}")
            return False
        if ended is not None:
            self._open.pop(ended.int, None)
        return True

    def _tell(self, trouble: str | None) -> None:
        """Log it once; None: there is none any more."""
        if trouble and self._trouble is None:
            _log.error(trouble)
        elif self._trouble and trouble is None:
            _log.info("the journal can be written again")
        self._trouble = trouble

    async def _keep(self) -> None:
        """Write what the disk has not taken, and put on the disk itself what is written, every `sync_ms`."""
        while not self._stopping:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._sync_s):
                    await self._wake.wait()
            self._wake.clear()
            self._stay()
            self._catch_up()
            self._tell_progress()
            await self._sync()
        self._catch_up()
        await self._sync()

    def _tell_progress(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._late or now < self._progress_at:
            return
        self._progress_at = now + _PROGRESS_S
        reached = [one.progress() for one in self._open.values()]
        for begin in range(0, len(reached), _TOGETHER):
            self._write(entries.progress(reached[begin : begin + _TOGETHER]))

    async def _sync(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            await self.segments.to_disk()
        except OSError as error:
            self._tell(f"the journal does not get to the disk itself: {error.strerror}")
            self._waiting = waiting + self._waiting
            return
        if self._late or self._homeless:
            self._waiting = waiting + self._waiting
            return
        self._tell("the journal is full" if self.full else None)
        for one in waiting:
            if not one.done():
                one.set_result(None)
