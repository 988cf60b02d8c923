"""Writes the usage rows: the last step of every exchange, and the one that never makes it wait.

`record` puts a row in memory; one task writes what is there in batches. A row stays in memory until its batch
is known to be committed, and a batch that is sent twice adds nothing, so every row arrives exactly once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import islice

from parallama.config import UsageSettings
from parallama.db import query
from parallama.db.pool import BadRows, Database
from parallama.exchange import UsageRecord, created_at

_BATCH = 200
"""Rows that are written together: more of them do not stay in the processor's cache."""
_AHEAD = range(-1, 8)
"""Days around today whose partitions are made in advance, so that no midnight waits for one."""
_UPKEEP_S = 3600.0
_DAY_S, _DAY_MS = 86_400, 86_400_000
_RETRY_S = 0.05
"""The first wait after a failure; it doubles from one to the next."""
_LONGEST_RETRY_S = 1.0

_queries = query.load("usage")
_log = logging.getLogger("parallama.usage")
_errors = logging.getLogger("parallama.error")


class Recorder:
    """The usage rows on their way to PostgreSQL. Works inside `running()`."""

    def __init__(self, database: Database, settings: UsageSettings, *, stop_s: float = 10.0) -> None:
        self._database = database
        self._flush_s = settings.flush_ms / 1000
        self._max_pending = settings.max_pending
        self._stop_s = stop_s
        self._rows: deque[UsageRecord] = deque()
        self._hurry = asyncio.Event()
        self._stopping = False
        self._stopped = False
        self._days: frozenset[int] = frozenset()
        """Since 1970; those that have a partition."""
        self._upkeep_at = float("-inf")
        self._lost = 0

    def record(self, row: UsageRecord) -> None:
        """Take a row. Never waits, never raises."""
        self._rows.append(row)
        if self._stopped:
            self._give_up()
        elif len(self._rows) >= _BATCH:
            self._hurry.set()

    @property
    def pending(self) -> int:
        """Rows that are not known to be in the database."""
        return len(self._rows)

    @property
    def room(self) -> int:
        """How many more rows have a place in memory; with none, billable requests must be refused."""
        return max(0, self._max_pending - len(self._rows))

    @property
    def lost(self) -> int:
        """Rows given up: those that the database refuses, and those not written before the stop."""
        return self._lost

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Recorder]:
        """Write rows during the block. After it what is pending gets `stop_s` seconds; the rest is lost."""
        writer = asyncio.get_running_loop().create_task(self._write(), name="usage-recorder")
        try:
            yield self
        finally:
            self._stopping = True
            self._hurry.set()
            try:
                await asyncio.wait({writer}, timeout=self._stop_s)
            finally:
                writer.cancel()
                await asyncio.wait({writer})
                self._stopped = True
                self._give_up()

    async def _write(self) -> None:
        wait_s = 0.0
        while self._rows or not self._stopping:
            await (asyncio.sleep(wait_s) if wait_s else self._due())
            wait_s = await self._attempt(wait_s)

    async def _due(self) -> None:
        """Until the next flush: `flush_ms`, or a full batch, or the stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._flush_s):
                await self._hurry.wait()
        if not self._stopping:
            self._hurry.clear()

    async def _attempt(self, waited_s: float) -> float:
        """Write all that is pending. The seconds to wait before another attempt: 0 when this one worked.

        `waited_s` is what the last attempt returned.
        """
        try:
            await self._upkeep()
            await self._flush()
        except Exception as error:  # noqa: BLE001 (whatever it is: without its task every later row is lost)
            if not waited_s:
                _log.warning("usage rows wait, the database does not take them: %s", type(error).__name__)
            return min(max(_RETRY_S, waited_s * 2), _LONGEST_RETRY_S)
        if waited_s:
            _log.info("the database takes usage rows again")
        return 0.0

    async def _upkeep(self) -> None:
        """Make the partitions of the days around today, once an hour."""
        now = asyncio.get_running_loop().time()
        if now < self._upkeep_at:
            return
        today = datetime.now(UTC)
        days = [today + timedelta(days=ahead) for ahead in _AHEAD]
        await self._database.fetch(_queries.partitions, days)
        self._days = frozenset(int(day.timestamp()) // _DAY_S for day in days)
        self._upkeep_at = now + _UPKEEP_S

    async def _flush(self) -> None:
        """Write from the front until nothing is pending.

        A batch that the database refuses is halved until the one row that it refuses stands alone.
        """
        size = _BATCH
        while self._rows:
            batch = list(islice(self._rows, size))
            try:
                await self._insert(batch)
            except BadRows as error:
                if len(batch) == 1:
                    self._drop(error)
                size = max(len(batch) // 2, 1)
            else:
                for _ in batch:
                    self._rows.popleft()
                size = min(size * 2, _BATCH)

    async def _insert(self, batch: Sequence[UsageRecord]) -> None:
        missing = {day: row for row in batch if (day := (row.id.int >> 80) // _DAY_MS) not in self._days}
        if missing:
            await self._database.fetch(_queries.partitions, [_moment(row) for row in missing.values()])
        await self._database.insert_new("usage", UsageRecord._fields, _storable(batch))

    def _drop(self, error: BadRows) -> None:
        row = self._rows.popleft()
        self._lost += 1
        _errors.error("the usage row %s cannot be stored: %s", row.id, type(error.__cause__).__name__)

    def _give_up(self) -> None:
        if self._rows:
            self._lost += len(self._rows)
            _errors.error("%d usage rows could not be written before the stop", len(self._rows))
            self._rows.clear()


def _moment(row: UsageRecord) -> datetime:
    """When the row's id was made, which decides its partition."""
    try:
        return created_at(row.id)
    except (ValueError, OverflowError) as error:
        raise BadRows("an id that is no UUIDv7") from error


def _storable(rows: Sequence[UsageRecord]) -> list[UsageRecord]:
    """The rows without what PostgreSQL cannot hold: NUL and lone surrogates, which a model's name may bring."""
    try:
        return [_clean(row) for row in rows]
    except Exception as error:  # whatever it is, the rows behind it must not wait for ever
        raise BadRows("a row holds what no row may hold") from error


def _clean(row: UsageRecord) -> UsageRecord:
    asked, served = row.model_asked, row.model
    if row.end_user is None and (asked or "").isprintable() and (served is asked or (served or "").isprintable()):
        return row
    return row._replace(model_asked=_text(asked), model=_text(served), end_user=_text(row.end_user))


def _text(value: str | None) -> str | None:
    return value and value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
