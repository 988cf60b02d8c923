"""Callers under test: a cache with a listener of its own, clocks moved by hand, a way to PostgreSQL that can be cut."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import UUID

import pytest
from multidict import CIMultiDict

from parallama.config import AuthSettings, DatabaseSettings
from parallama.db.notify import Listener
from parallama.db.pool import Database
from parallama.errors import NotAuthenticated
from parallama.exchange import Caller
from parallama.identity.api_keys import ApiKeys
from parallama.identity.callers import Callers
from parallama.identity.tokens import AccessTokens
from parallama.identity.users import Users

CEILING_S = 20.0

TOKENS = AccessTokens("a test's signing secret, of 40 characters", None, 1800)


class Present:
    """A listener that misses nothing, because nothing changes while it is used."""

    lost_since: float | None = None


class Clock:
    """The clocks of a Callers, moved by hand."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.ahead_s)

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s


class Wire:
    """A way to PostgreSQL that can be cut, or made to keep the answers back."""

    def __init__(self, url: str) -> None:
        self._target, query = urlsplit(url), parse_qs(urlsplit(url).query)
        self._host = unquote(query["host"][0] if "host" in query else self._target.hostname or "localhost")
        self._port = int(query["port"][0]) if "port" in query else self._target.port or 5432
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._pipes: set[asyncio.Task[None]] = set()
        self._place = socket.socket()
        """Bound, so that nobody else gets the port while the way is cut; it does not listen."""
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind(("127.0.0.1", 0))
        self.port = self._place.getsockname()[1]
        self.open = asyncio.Event()
        self.open.set()
        self.held = b""

    @property
    def url(self) -> str:
        user, at, _ = self._target.netloc.rpartition("@")
        return self._target._replace(netloc=f"{user}{at}127.0.0.1:{self.port}", query="").geturl()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Wire]:
        await self.mend()
        try:
            yield self
        finally:
            await self.cut()
            self._place.close()

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def cut(self) -> None:
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for end in self._ends:
            end.transport.abort()
        if self._pipes:
            await asyncio.wait(self._pipes)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._host.startswith("/"):
            up = await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._port}")
        else:
            up = await asyncio.open_connection(self._host, self._port)
        self._ends |= {writer, up[1]}
        for source, sink, gated in ((reader, up[1], False), (up[0], writer, True)):
            pipe = asyncio.get_running_loop().create_task(self._pipe(source, sink, gated))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, gated: bool) -> None:
        try:
            while chunk := await source.read(65536):
                if gated and not self.open.is_set():
                    self.held += chunk
                    await self.open.wait()
                sink.write(chunk)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.transport.abort()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """That a machine is slow is not under test."""
    monkeypatch.setattr("parallama.identity.callers._LOOK_UP_S", CEILING_S)


@pytest.fixture
async def wire(database_url: str) -> AsyncIterator[Wire]:
    async with Wire(database_url).running() as wire:
        yield wire


@pytest.fixture
async def remote(wire: Wire) -> AsyncIterator[Database]:
    """The database behind the wire."""
    settings = DatabaseSettings(acquire_s=CEILING_S, connect_s=1, command_s=CEILING_S)
    async with Database(wire.url, settings).running() as database:
        yield database


@pytest.fixture
async def alice(database: Database) -> str:
    """A key of the user alice."""
    await Users(database).create("alice")
    return (await ApiKeys(database).create("alice"))[0]


def auth(**settings: Any) -> AuthSettings:
    return AuthSettings(**settings)


def bearer(key: str) -> CIMultiDict[str]:
    return CIMultiDict({"Authorization": f"Bearer {key}"})


@asynccontextmanager
async def process(
    database: Database,
    listen: str | None = None,
    heard: Callable[[], None] = lambda: None,
    clock: Clock | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[Callers, Listener]]:
    """What one gateway process has: a cache of callers with a listener of its own."""

    def on_change(kind: str, changed: str) -> None:
        callers.on_change(kind, changed)
        heard()

    clock = clock or Clock()
    listener = Listener(listen or database.url, on_change, lambda: callers.on_reset())
    callers: Callers = Callers(database, auth(**settings), listener, TOKENS, now=clock.now, monotonic=clock.monotonic)
    async with listener.running(), callers.running():
        yield callers, listener


async def until(condition: Callable[[], Awaitable[bool]] | Callable[[], bool]) -> None:
    deadline = time.monotonic() + CEILING_S
    while True:
        result = condition()
        if result if isinstance(result, bool) else await result:
            return
        assert time.monotonic() < deadline, "it never happened"
        await asyncio.sleep(0.01)


async def refused(callers: Callers, key: str) -> bool:
    try:
        await callers.identify(bearer(key))
    except NotAuthenticated:
        return True
    return False


def without_waiting(callers: Callers, key: str) -> Caller:
    """Identify without an event loop: fails when anything is awaited."""
    with pytest.raises(StopIteration) as stop:
        callers.identify(bearer(key)).send(None)
    caller: Caller = stop.value.value
    return caller


async def write(database: Database, sql: str, *arguments: Any) -> None:
    """Change rows as somebody with psql would."""
    async with database.connection() as one:
        await one.execute(sql, *arguments)


async def session_of(database: Database, name: str, *, lasts_s: float = 86400) -> tuple[UUID, UUID]:
    """A new login of the user: its id, and the user's."""
    insert = (
        "INSERT INTO sessions (user_id, created_at, last_used_at, expires_at)"
        " SELECT id, now(), now(), now() + $2 FROM users WHERE username = $1 RETURNING id, user_id"
    )
    async with database.connection() as one:
        row = await one.fetchrow(insert, name, timedelta(seconds=lasts_s))
    assert row is not None
    return row["id"], row["user_id"]


async def token_of(database: Database, name: str, **settings: Any) -> tuple[str, UUID]:
    """An access token of a new login of the user, and that login's id."""
    session_id, user_id = await session_of(database, name, **settings)
    return TOKENS.issue(user_id, session_id, 0), session_id
