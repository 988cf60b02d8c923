"""What has changed in the database, told by PostgreSQL's NOTIFY to every process.

Messages sent while nobody listens are lost, and a server that hangs raises nothing: so the connection is pinged, and
after a loss everything cached has to go (`on_reset`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import asyncpg

from parallama.db.pool import GONE, Row, connect
from parallama.errors import ConfigError, Unavailable

_CHANNEL = "parallama"

_PING_S = 1.0
_CONNECT_S = 2.0
_BACK_OFF_S = (0.05, 0.1, 0.2, 0.5, 1.0)

_errors = logging.getLogger("parallama.error")
_events = logging.getLogger("parallama.gateway")


class Listener:
    """Listens on the channel `parallama`, on a connection of its own, inside `running()`.

    A payload is "kind id" and becomes `on_change(kind, id)`. After a loss `on_reset()` is called as soon as it listens
    again. Both are called on the event loop and must not block.
    """

    def __init__(self, url: str, on_change: Callable[[str, str], None], on_reset: Callable[[], None]) -> None:
        self._url = url
        self._on_change = on_change
        self._on_reset = on_reset
        self._connection: asyncpg.Connection[Row]
        self.lost_since: float | None = None
        """Monotonic seconds; None while it listens."""
        self._wake = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Listener]:
        """Listen for the block. Raises Unavailable or ConfigError when the first connection fails."""
        self._connection = await self._listen()
        watching = asyncio.get_running_loop().create_task(self._watch(), name="database listener")
        try:
            yield self
        finally:
            watching.cancel()
            try:
                await asyncio.wait([watching])
            finally:
                self._connection.terminate()
            if not watching.cancelled():
                watching.result()

    async def caught_up(self) -> None:
        """Return when all that was committed before the call has been told: PostgreSQL tells it before it answers a
        ping. At once while the connection is lost, and after a second in any case."""
        if self.lost_since is not None:
            return
        told = asyncio.get_running_loop().create_future()
        self._waiting.append(told)
        self._wake.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(_PING_S):
                await told

    async def _watch(self) -> None:
        try:
            while True:
                await self._until_lost(self._connection)
                # never close(): it would wait for a server that hangs
                self._connection.terminate()
                self.lost_since = time.monotonic()
                _errors.error("the database listener lost its connection")
                self._connection = await self._listen_again()
                self._on_reset()
                self.lost_since = None
                _events.info("the database listener is back")
        finally:
            # whatever ended this, nobody listens any more
            self.lost_since = self.lost_since or time.monotonic()

    async def _listen_again(self) -> asyncpg.Connection[Row]:
        attempt = 0
        while True:
            try:
                return await self._listen()
            except (Unavailable, ConfigError):
                await asyncio.sleep(_BACK_OFF_S[min(attempt, len(_BACK_OFF_S) - 1)])
                attempt += 1

    async def _listen(self) -> asyncpg.Connection[Row]:
        connection = await connect(self._url, limit_s=_CONNECT_S)
        try:
            async with asyncio.timeout(_CONNECT_S):
                await connection.add_listener(_CHANNEL, self._heard)
        except GONE as error:
            connection.terminate()
            raise Unavailable("the database does not answer") from error
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _until_lost(self, connection: asyncpg.Connection[Row]) -> None:
        """Return when the connection is broken, or silent for longer than a ping may take."""
        connection.add_termination_listener(lambda _: self._wake.set())
        while not connection.is_closed():
            with suppress(TimeoutError):
                async with asyncio.timeout(_PING_S):
                    await self._wake.wait()
            self._wake.clear()
            waiting, self._waiting = self._waiting, []
            try:
                async with asyncio.timeout(_PING_S):
                    await connection.execute("SELECT 1")
            except GONE:
                return
            finally:
                for told in waiting:
                    if not told.done():
                        told.set_result(None)

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        kind, _, changed = str(payload).partition(" ")
        self._on_change(kind, changed)
