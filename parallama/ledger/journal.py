"""The journal of a process: what becomes of every exchange is on disk before the client has the last of its answer.

One directory a process, `journal/<instance>/`, locked while the process lives; the lock says how far its rows are
stored. In it segments of records as `frames.py` has them. Written before anybody else sees what comes of it, so that a
killed process loses nothing; on the disk itself within `sync_ms`, so that a power cut loses no more than that.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import UUID

from parallama.config import UsageSettings
from parallama.errors import ConfigError, Unavailable
from parallama.exchange import UsageRecord
from parallama.ledger import entries
from parallama.ledger.entries import Begun
from parallama.ledger.home import Home
from parallama.ledger.segments import Segment, Segments, sync_directory

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
_FULL_NOW = "usage cannot be recorded now: the journal is full, or its disk"

_log = logging.getLogger("parallama.usage")


class Journal:
    """Of this process. Works inside `running()`."""

    def __init__(self, directory: Path, instance: str, settings: UsageSettings, *, at_once: bool = False) -> None:
        """`directory`: of all journals of this machine; `instance`: the name of this one, never used before; `at_once`:
        hold no entry back, since others see what comes next."""
        self.home = directory / instance
        self._place = Home(self.home)
        self._sync_s, self._quota = settings.sync_ms / 1000, settings.journal_mb << 20
        # several to the quota: only those that are complete can be deleted
        self.segments = Segments(self.home, min(_SEGMENT, self._quota // 4), self._opening)
        self.elsewhere = 0
        """Bytes of the other journals of this machine; the shipper counts them."""
        self.finals = 0
        """Rows taken since the start."""
        self.lost = 0
        """Rows of refusals that were too many to keep while the disk took nothing."""
        self._at_once = at_once
        self._held: dict[int, Begun] = {}
        """Exchanges of which nothing is written yet, by the number of their ids: a UUID takes long to be hashed."""
        self._open: dict[int, tuple[Begun, list[bytes]]] = {}
        """Those of which it is, with these entries."""
        self._turn_ends = False
        """Whether `_end_turn` is about to be called."""
        self._late: deque[tuple[bytes, int | None]] = deque()
        """Entries that the disk has not taken, each with the exchange that ends with it."""
        self._waiting: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._stopping, self._progress_at = False, 0.0
        self._trouble: str | None = None
        self._homeless = False
        """Whether there is no directory, and none can be made now."""

    @property
    def full(self) -> bool:
        """Whether no exchange may begin: the disk takes nothing, or the journals have grown to their quota."""
        return bool(self._late) or self._homeless or self.segments.bytes + self.elsewhere >= self._quota

    @property
    def taken(self) -> int:
        """Bytes on disk, of all journals of this machine."""
        return self.segments.bytes + self.elsewhere

    def admit(self, id: UUID, begun: Begun) -> None:
        """An exchange begins; its row stands if nothing more is heard of it. That is written with its dispatch, or at
        the end of this turn of the event loop: nobody else sees what happens between. Raises Unavailable when it cannot
        be written down."""
        if self.full or (self._at_once and not self._begin(id.int, begun, begun.row())):
            raise Unavailable(_FULL_NOW)
        if self._at_once:
            return
        self._held[id.int] = begun
        if not self._turn_ends:
            self._turn_ends = True
            asyncio.get_running_loop().call_soon(self._end_turn)

    def dispatch(self, id: UUID) -> None:
        """The exchange, which was admitted, goes to the node that its row names. Raises Unavailable when nothing of it
        is written down and nothing can be: then it never began."""
        if (begun := self._held.pop(id.int, None)) is not None:
            if not self._begin(id.int, begun, begun.row()):
                raise Unavailable(_FULL_NOW)
        elif (one := self._open.get(id.int)) is not None:
            begun, said = one
            said.append(entry := entries.dispatch(begun.sent()))
            self._write(entry)

    def final(self, row: UsageRecord) -> None:
        """The exchange has ended so. Never waits; what the disk does not take is kept until it does."""
        id = row.id.int
        if id not in self._open and self._held.pop(id, None) is None and self._takes_no_refusal:
            self.lost += 1
            return
        self.finals += 1
        entry = entries.final(row)
        if self._late or not self._append(entry, id):
            self._late.append((entry, id))

    def stored(self, segment: Segment) -> None:
        """The rows of the segment are stored as far as it is read. Whoever takes over does not store them again, which
        would count them twice in the sums once they were dropped for their age."""
        self._place.stored(segment.place)

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
            await asyncio.to_thread(self._settle_in)
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

    def _settle_in(self) -> None:
        self._place.make()
        self.segments.begin()
        for above in self.home.parents[:2]:
            sync_directory(above)

    def _stay(self) -> None:
        """When the directory, or the file that is written to, was removed or put elsewhere, or was never made: make
        another."""
        if self.segments.in_place:
            self._homeless = False
            return
        removed = self.segments.begun
        try:
            if not self.home.exists():
                self._place.make()
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
        if not (self._late or self._held or self._open or self.segments.unread):
            self.segments.remove()
            self._place.remove()
        self._place.unlock()

    @property
    def _takes_no_refusal(self) -> bool:
        return len(self._late) >= _MOST_LATE or self.taken >= _MOST_TIMES * self._quota

    def _opening(self) -> Iterator[bytes]:
        """What is known of the exchanges that are open, so that earlier segments are not needed for them."""
        yield entries.columns()
        for _, said in self._open.values():
            yield from said
        self._progress_at = 0.0

    def _end_turn(self) -> None:
        """Write of those that are held back that they began; what the disk does not take is tried again and again."""
        self._turn_ends = False
        for id, begun in tuple(self._held.items()):
            row = begun.row()._replace(node=None, model=None)  # they may be chosen, but were not asked
            if not self._begin(id, begun, row):
                return
            del self._held[id]

    def _begin(self, id: int, begun: Begun, row: UsageRecord) -> bool:
        """Whether it is written that the exchange began so."""
        entry = entries.admit(row)
        if self._late or not self._append(entry):
            return False
        self._open[id] = begun, [entry]
        return True

    def _write(self, entry: bytes) -> None:
        """Write it behind all that the disk has not taken yet."""
        if self._late or not self._append(entry):
            self._late.append((entry, None))

    def _catch_up(self) -> None:
        """Write what is late, as far as the disk takes it."""
        while self._late and self._append(*self._late[0]):
            self._late.popleft()
        if self._held and not self._turn_ends:
            self._end_turn()

    def _append(self, entry: bytes, ended: int | None = None) -> bool:
        """Whether the entry is written whole; else nothing of it is. `ended`: the exchange whose row it is."""
        try:
            self.segments.append(entry, ended is not None)
        except OSError as error:
            self._tell(f"the journal cannot be written: {error.strerror}")
            return False
        if ended is not None:
            self._open.pop(ended, None)
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
        reached = [begun.reached() for begun, _ in self._open.values()]
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
