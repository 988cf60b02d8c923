"""Connections to PostgreSQL: the pool, and single ones outside it.

Every query has a time limit, and a database that does not answer is an Unavailable.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from parallama.config import DatabaseSettings
from parallama.db.query import Query
from parallama.errors import ConfigError, Unavailable

Row = asyncpg.Record

if TYPE_CHECKING:
    Connection = asyncpg.pool.PoolConnectionProxy[Row]
    """What `Database.connection` and `Database.change` give."""

TAKEN = asyncpg.UniqueViolationError
"""Another row has the name."""

GONE = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError,
         asyncpg.OperatorInterventionError, asyncpg.InsufficientResourcesError,
         asyncpg.InternalClientError)  # fmt: skip
"""The last is what asyncpg makes of a connection that was cut while it had it in hand."""

_REFUSED = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError,
            asyncpg.InsufficientPrivilegeError)  # fmt: skip

_IDENTITY = {"application_name": "parallama"}

_UNSTORABLE = (TypeError, ValueError, OverflowError, asyncpg.DataError,
               asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)  # fmt: skip


class BadRows(Exception):
    """The database cannot store one of the rows, whenever it is sent. The cause is asyncpg's error."""


def plain(value: Any) -> Any:
    """A value of a row; an id as Python's own UUID: asyncpg has a class of its own, which orjson refuses."""
    return UUID(int=value.int) if isinstance(value, UUID) else value


STAGING = "CREATE TEMPORARY TABLE IF NOT EXISTS incoming (line jsonb) ON COMMIT DELETE ROWS"
"""Makes the table of `Database.copy`, once a connection: one a batch would bloat the catalogue."""


class Database:
    """A pool on one PostgreSQL. Usable inside `running()`; reconnects by itself after the database restarts."""

    def __init__(self, url: str, settings: DatabaseSettings) -> None:
        self.url = url
        self._settings = settings
        self._pool: asyncpg.Pool[Row] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Database]:
        """Open the pool, close it on leaving. Raises Unavailable and ConfigError as `connect` does."""
        limits = self._settings
        with _connecting():
            pool = await asyncpg.create_pool(
                self.url,
                min_size=1,
                max_size=limits.pool_size,
                timeout=limits.connect_s,
                command_timeout=limits.command_s,
                max_inactive_connection_lifetime=limits.recycle_s,
                server_settings=_IDENTITY,
            )
        self._pool = pool
        try:
            yield self
        finally:
            self._pool = None
            try:
                await asyncio.wait_for(pool.close(), limits.command_s)
            except GONE:
                pool.terminate()

    @asynccontextmanager
    async def connection(self, *, limit_s: float | None = None) -> AsyncIterator[Connection]:
        """One connection for the block, which may take `limit_s` seconds (default: `database.command_s`).

        Raises Unavailable when none can be had, when it breaks, or when the time is up; asyncpg's own errors about
        the statement itself pass.
        """
        if self._pool is None:
            raise RuntimeError("the database is not running")
        seconds = self._settings.command_s if limit_s is None else limit_s
        try:
            async with _lent(self._pool, min(seconds, self._settings.acquire_s)) as one, asyncio.timeout(seconds):
                yield one
        except GONE as error:
            raise Unavailable("the database does not answer") from error

    @asynccontextmanager
    async def change(self, actor: str) -> AsyncIterator[Connection]:
        """A transaction for the block, whose changes the audit trail puts down to `actor`: a JSON object with `name`,
        `via`, and perhaps `user_id`, `request_id`, `address`. Raises Unavailable as `connection` does."""
        async with self.connection() as one, one.transaction():
            await one.execute("SELECT set_config('parallama.actor', $1, true)", actor)
            yield one

    async def fetch(self, query: Query, *args: Any, limit_s: float | None = None) -> list[Row]:
        """All rows."""
        async with self.connection(limit_s=limit_s) as one:
            return await one.fetch(query.sql, *args, timeout=limit_s)

    async def fetchrow(self, query: Query, *args: Any, limit_s: float | None = None) -> Row | None:
        """The first row, or None."""
        async with self.connection(limit_s=limit_s) as one:
            return await one.fetchrow(query.sql, *args)

    async def execute(self, query: Query, *args: Any) -> int:
        """Run a statement; the number of rows that it changed (0 for a statement that counts none)."""
        async with self.connection() as one:
            last = (await one.execute(query.sql, *args)).split()[-1]
            return int(last) if last.isdigit() else 0

    async def stream(self, query: Query, *args: Any) -> AsyncGenerator[Row, None]:
        """The rows one by one, through a cursor: for exports of any size. Without a time limit on the whole."""
        if self._pool is None:
            raise RuntimeError("the database is not running")
        try:
            wait_s = self._settings.acquire_s
            async with _lent(self._pool, wait_s) as one, one.transaction(readonly=True):
                async for row in one.cursor(query.sql, *args, prefetch=500, timeout=None):
                    yield row
        except GONE as error:
            raise Unavailable("the database does not answer") from error

    async def copy(self, lines: Sequence[bytes], query: Query, *args: Any) -> None:
        """COPY lines, each a JSON document without line breaks, into the temporary table `incoming (line jsonb)`, and
        run `query` on it; all or nothing of it is done.

        Raises BadRows, and Unavailable as `connection` does.
        """
        text = b"\n".join([*lines, b""]).replace(b"\\", rb"\\")
        try:
            async with self.connection() as one, one.transaction():
                await one.execute(STAGING)
                await one.copy_to_table("incoming", source=BytesIO(text))
                await one.execute(query.sql, *args)
        except _UNSTORABLE as error:
            raise BadRows("a line cannot be stored") from error

    def size(self) -> tuple[int, int]:
        """Open and idle connections."""
        return (self._pool.get_size(), self._pool.get_idle_size()) if self._pool else (0, 0)


@asynccontextmanager
async def _lent(pool: asyncpg.Pool[Row], wait_s: float) -> AsyncIterator[Connection]:
    """A connection of the pool. What was done with it is done, whether or not it can be given back; and who gives up
    while it is given back leaves a task behind, of which asyncio would complain when it fails."""
    one = await pool.acquire(timeout=wait_s)
    try:
        yield one
    finally:
        giving_back = asyncio.get_running_loop().create_task(pool.release(one), name="connection given back")
        giving_back.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.wait({giving_back})


async def connect(url: str, *, limit_s: float = 5.0) -> asyncpg.Connection[Row]:
    """A connection of its own, for what a pool cannot do. The caller closes or terminates it.

    Raises Unavailable when the database does not answer within `limit_s`, ConfigError when the URL is wrong.
    """
    with _connecting():
        return await asyncpg.connect(url, timeout=limit_s, server_settings=_IDENTITY)


@contextmanager
def _connecting() -> Iterator[None]:
    try:
        yield
    except asyncpg.PostgresError as error:
        if isinstance(error, _REFUSED):
            raise ConfigError(f"the database refuses `database.url`: {error}") from error
        raise Unavailable("the database does not answer") from error
    except ValueError as error:
        # without its text, which may quote a password
        raise ConfigError("`database.url` cannot be used: it must be postgresql://user:password@host/name") from error
    except GONE as error:
        raise Unavailable("the database does not answer") from error
