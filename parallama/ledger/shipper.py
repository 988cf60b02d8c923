"""Usage rows on their way from the journals to PostgreSQL, each exactly once.

Reads the journal of this process behind its writer, and takes over the journals that processes which are no more have
left. What is read is needed no more only when its batch is known to be committed, and a batch that is sent twice adds
nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from parallama.config import UsageSettings
from parallama.db import query
from parallama.db.pool import BadRows, Database
from parallama.errors import Unavailable
from parallama.exchange import UsageRecord
from parallama.ledger import left
from parallama.ledger.entries import ABORTED, line, row_of
from parallama.ledger.frames import payloads
from parallama.ledger.journal import Journal
from parallama.ledger.lines import begin_of, days_of, id_of, storable
from parallama.ledger.segments import Segment

_BATCH = 1000
"""Rows that are written together."""
_AHEAD = range(-1, 8)
"""Days around today whose partitions are made in advance, so that no midnight waits for one."""
_UPKEEP_S = 3600.0
_SWEEP_S = 10.0
_DAY_S = 86_400
_SETTLED_S = 1.0
_RETRY_S = 0.05
"""The first wait after a failure; it doubles from one to the next."""
_LONGEST_RETRY_S = 1.0

_queries = query.load("usage")
_log = logging.getLogger("parallama.usage")
_errors = logging.getLogger("parallama.error")


class Shipper:
    """Works inside `running()`, which is entered after the journal's."""

    def __init__(
        self,
        database: Database,
        journal: Journal,
        settings: UsageSettings,
        zone: str,
        *,
        settle: Callable[[UsageRecord], None] = lambda _: None,
        settled: Callable[[], Awaitable[None]] | None = None,
        adopted: Callable[[str], None] = lambda _: None,
        stop_s: float = 10.0,
    ) -> None:
        """`zone`: of the hours by which usage is summed, an IANA name; `settle` hears of each row that a process which
        is no more has left, then `adopted` of its name; `settled` waits between until that is counted."""
        self._database, self.journal, self._zone = database, journal, zone
        self._settle, self._settled, self._adopted = settle, settled, adopted
        self._flush_s, self._storage_days = settings.flush_ms / 1000, settings.storage_days
        self._stop_s = stop_s
        self._stopping = False
        self._wake = asyncio.Event()
        self._asked: list[asyncio.Future[bool]] = []
        """By those who wait until what has ended is in the database: whether it is."""
        self._shipped = 0
        self._complete_at = 0.0
        self._days: frozenset[int] = frozenset()
        """Since 1970; those that have a partition."""
        self._upkeep_at = self._sweep_at = float("-inf")
        self.lost = 0
        """Rows that the database refuses, whenever they are sent."""
        self.damaged = 0
        """Segments of journals that were damaged: what stood in them behind the damage is not known."""

    @property
    def pending(self) -> int:
        """Rows of this process that are not known to be in the database."""
        return self.journal.finals - self._shipped

    @property
    def waiting_since(self) -> float | None:
        """Rows of this process are not known to be in the database; but those of what had ended then, of the monotonic
        clock. None: all are."""
        return self._complete_at if self.pending else None

    async def caught_up(self, limit_s: float = 5.0) -> None:
        """Until all that has ended by now is in the database, also of processes that are no more. Raises Unavailable
        when the database does not take it, or takes longer."""
        one: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._asked.append(one)
        self._wake.set()
        try:
            taken = await asyncio.wait_for(one, limit_s)
        except TimeoutError:
            taken = False
        if not taken:
            raise Unavailable("the database does not take what was used")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Shipper]:
        """Ship during the block, and at most `stop_s` seconds after it, as long as the database takes rows; what is
        left then waits in the journal."""
        shipping = asyncio.get_running_loop().create_task(self._ship_always(), name="usage-shipper")
        try:
            yield self
        finally:
            self._stopping = True
            self._wake.set()
            try:
                await asyncio.wait({shipping}, timeout=self._stop_s)
            finally:
                shipping.cancel()
                await asyncio.wait({shipping})
                if self.pending:
                    _log.warning("usage rows stay in the journal", extra={"fields": {"rows": self.pending}})

    async def _ship_always(self) -> None:
        wait_s = await self._attempt(0.0, self._upkeep, self._sweep)
        while not self._stopping:
            await self._due(wait_s or self._flush_s)
            asked, began, finals = len(self._asked), time.monotonic(), self.journal.finals
            wait_s = await self._attempt(wait_s, self._upkeep, self._ship_own, self._sweep)
            if self._shipped >= finals:
                self._complete_at = began
            self._answer(asked, taken=not wait_s)
        await self._attempt(wait_s, self._ship_own, self._ship_own)  # again: what has come during the first

    async def _due(self, wait_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        self._wake.clear()

    def _answer(self, asked: int, *, taken: bool) -> None:
        """Those who asked before the last round."""
        for one in self._asked[:asked]:
            if not one.done():
                one.set_result(taken)
        del self._asked[:asked]

    async def _attempt(self, waited_s: float, *steps: Callable[[], Awaitable[None]]) -> float:
        """The seconds to wait before another attempt: 0: it worked. `waited_s`: what the last one returned."""
        try:
            for step in steps:
                await step()
        except Exception as error:  # noqa: BLE001 (whatever it is: without its task every later row waits for ever)
            if not waited_s:
                _log.warning("usage rows wait, the database does not take them: %s", type(error).__name__)
            return min(max(_RETRY_S, waited_s * 2), _LONGEST_RETRY_S)
        if waited_s:
            _log.info("the database takes usage rows again")
        return 0.0

    async def _upkeep(self) -> None:
        """Make the partitions of the days around today, and drop those that are too old, once an hour."""
        now = asyncio.get_running_loop().time()
        if now < self._upkeep_at:
            return
        today = datetime.now(UTC)
        days = [today + timedelta(days=ahead) for ahead in _AHEAD]
        await self._database.fetch(_queries.partitions, days)
        self._days = frozenset(int(day.timestamp()) // _DAY_S for day in days)
        self._upkeep_at = now + _UPKEEP_S
        if self._storage_days:
            await self._forget(today - timedelta(days=self._storage_days))

    async def _forget(self, before: datetime) -> None:
        try:
            row = await self._database.fetchrow(_queries.forget, before)
        except Exception as error:  # noqa: BLE001 (a report may hold the table; rows are not to wait for that)
            _log.warning("old usage rows are not dropped yet: %s", type(error).__name__)
            return
        if row and row["dropped"]:
            _log.info("old usage rows dropped", extra={"fields": {"days": row["dropped"]}})

    async def _ship_own(self) -> None:
        """What is there by now. What comes meanwhile waits for the next round, so that a busy process writes many rows
        at a time and not a few all the time."""
        for segment in self.journal.segments:
            there = segment.size
            while segment.read < there:
                await self._ship(segment)
        self.journal.segments.tidy()

    async def _ship(self, segment: Segment) -> None:
        """The next rows of this process."""
        records, end = segment.next(_BATCH)
        rows = [*map(row_of, payloads(records))]
        await self._insert(rows)
        if len(rows) < len(records):
            self._damage(segment.path)
        segment.done(len(records), end)
        self._shipped += len(records)
        self.journal.stored(segment)

    async def _sweep(self) -> None:
        """Take over the journals of processes that are no more, every 10 seconds."""
        now = asyncio.get_running_loop().time()
        if now < self._sweep_at:
            return
        others = left.others(self.journal.home)
        self.journal.elsewhere = sum(others.values())
        for home, size in others.items():
            try:
                with left.locked(home) as ours:
                    if ours:
                        await self._adopt(home)
                        self.journal.elsewhere -= size
            except TimeoutError:
                _errors.error("the journal %s cannot be taken over: no Redis", home.name)
            except OSError as error:
                _errors.error("the journal %s cannot be taken over: %s", home.name, error.strerror)
        self._sweep_at = now + _SWEEP_S

    async def _adopt(self, home: Path) -> None:
        """Damage is counted when all the rest is stored: until then it may be met again."""
        damaged: list[Path] = []
        aborted, shipped = 0, 0
        for rows in _batches(left.rows(home, damaged.append)):
            await self._insert([line(row) for row in rows])
            for row in rows:
                self._settle(row)
            shipped += len(rows)
            aborted += sum(row.error == ABORTED for row in rows)
        if self._settled is not None:  # before it is removed: what Redis has not heard would die with this process
            await asyncio.wait_for(self._settled(), _SETTLED_S)
        for path in damaged:
            self._damage(path)
        left.remove(home)
        self._adopted(home.name)
        fields = {"journal": home.name, "rows": shipped, "aborted": aborted}
        _log.warning("the journal of a process that is no more is taken over", extra={"fields": fields})

    def _damage(self, path: Path) -> None:
        self.damaged += 1
        _errors.error("a journal is damaged: %s", path.relative_to(path.parents[1]))

    async def _insert(self, rows: Sequence[bytes]) -> None:
        """Write the rows, as the journal has them, but those that the database refuses: they are lost."""
        if rows:
            refused = await self._refused(storable(rows))
            self.lost += refused

    async def _refused(self, rows: Sequence[bytes]) -> int:
        """Write the rows; how many the database refuses. They are halved until each of those stands alone."""
        try:
            await self._make_days(rows)
            await self._database.copy(rows, _queries.ship, self._zone)
        except BadRows as error:
            if len(rows) == 1:
                cause = type(error.__cause__).__name__
                _errors.error("the usage row %s cannot be stored: %s", id_of(rows[0]), cause)
                return 1
            half = len(rows) // 2
            return await self._refused(rows[:half]) + await self._refused(rows[half:])
        return 0

    async def _make_days(self, rows: Sequence[bytes]) -> None:
        try:
            moments = [begin_of(day) for day in days_of(rows) - self._days]
        except (ValueError, OverflowError) as error:
            raise BadRows("an id that is no UUIDv7") from error
        if moments:
            await self._database.fetch(_queries.partitions, moments)


def _batches(rows: Iterable[UsageRecord]) -> Iterator[list[UsageRecord]]:
    rest = iter(rows)
    while batch := list(islice(rest, _BATCH)):
        yield batch
