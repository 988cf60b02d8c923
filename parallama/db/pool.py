"""The connection pool: every query has a time limit, and a database that does not answer is an Unavailable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from parallama.config import DatabaseSettings
from parallama.db.query import Query
from parallama.errors import Unavailable

Row = asyncpg.Record

_GONE = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError,
         asyncpg.OperatorInterventionError, asyncpg.InsufficientResourcesError)  # fmt: skip


class Database:
    """A pool on one PostgreSQL. Usable inside `running()`; reconnects by itself after the database restarts."""

    def __init__(self, url: str, settings: DatabaseSettings) -> None:
        self.url = url
        self._settings = settings
        self._pool: asyncpg.Pool[Row] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Database]:
        """Open the pool, close it on leaving. Raises Unavailable when the database does not answer."""
        limits = self._settings
        try:
            pool = await asyncpg.create_pool(
                self.url,
                min_size=1,
                max_size=limits.pool_size,
                timeout=limits.connect_s,
                command_timeout=limits.command_s,
                max_inactive_connection_lifetime=limits.recycle_s,
            )
        except _GONE as error:
            raise Unavailable("the database does not answer") from error
        self._pool = pool
        try:
            yield self
        finally:
            self._pool = None
            try:
                await asyncio.wait_for(pool.close(), limits.command_s)
            except TimeoutError:
                pool.terminate()

    @asynccontextmanager
    async def connection(self, *, limit_s: float | None = None) -> AsyncIterator[asyncpg.Connection[Row]]:
        """One connection for the block, at most `limit_s` seconds (default: `database.command_s`) for the whole of it.

        Raises Unavailable when none can be had, when it breaks, or when the time is up; asyncpg's own errors about
        the statement itself pass.
        """
        if self._pool is None:
            raise RuntimeError("the database is not running")
        seconds = self._settings.command_s if limit_s is None else limit_s
        try:
            async with asyncio.timeout(seconds), self._pool.acquire(timeout=min(seconds, self._settings.acquire_s)) as one:
                yield one
        except _GONE as error:
            raise Unavailable("the database does not answer") from error

    async def fetch(self, query: Query, *args: Any) -> list[Row]:
        """All rows."""
        async with self.connection() as one:
            return await one.fetch(query.sql, *args)

    async def fetchrow(self, query: Query, *args: Any, limit_s: float | None = None) -> Row | None:
        """The first row, or None."""
        async with self.connection(limit_s=limit_s) as one:
            return await one.fetchrow(query.sql, *args)

    async def execute(self, query: Query, *args: Any) -> int:
        """Run a statement; the number of rows that it changed (0 for a statement that counts none)."""
        async with self.connection() as one:
            last = (await one.execute(query.sql, *args)).split()[-1]
            return int(last) if last.isdigit() else 0

    async def stream(self, query: Query, *args: Any) -> AsyncIterator[Row]:
        """The rows one by one, through a cursor: for exports of any size. Without a time limit on the whole."""
        if self._pool is None:
            raise RuntimeError("the database is not running")
        async with self._pool.acquire() as one, one.transaction(readonly=True):
            async for row in one.cursor(query.sql, *args, prefetch=500, timeout=None):
                yield row

    def size(self) -> tuple[int, int]:
        """Open and idle connections."""
        return (self._pool.get_size(), self._pool.get_idle_size()) if self._pool else (0, 0)
