"""The way to PostgreSQL as a TCP port that tests can cut, also between a commit and the news of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qs, urlsplit

from usage_rows import eventually


class Wire:
    """A TCP port that stands before PostgreSQL and can be cut."""

    def __init__(self, database_url: str) -> None:
        self._parts = urlsplit(database_url)
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.down = False
        self.cut_at_commit = False
        self.cuts = 0

    @property
    def url(self) -> str:
        parts = self._parts
        user = f"{parts.username}:{parts.password or ''}"
        return f"postgresql://{user}@127.0.0.1:{self.port}{parts.path}?sslmode=disable"

    def cut(self) -> None:
        """Close every connection, and each new one, until `down` is False again."""
        self.down = True
        for writer in self._open:
            writer.transport.abort()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Wire]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut()
            await eventually(lambda: not self._open)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            if not self.down:
                await self._join(reader, writer)
        finally:
            writer.transport.abort()
            self._open.discard(writer)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await self._connect()
        try:
            up = asyncio.gather(self._pipe(reader, up_writer, writer), self._pipe(up_reader, writer, None))
            with suppress(ConnectionError):
                await up
        finally:
            up_writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        options = parse_qs(self._parts.query)
        host = options.get("host", [self._parts.hostname or "127.0.0.1"])[0]
        port = options.get("port", [str(self._parts.port or 5432)])[0]
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, int(port))

    async def _pipe(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: asyncio.StreamWriter | None
    ) -> None:
        while data := await reader.read(65536):
            if client and self.cut_at_commit and b"COMMIT;" in data:
                # the server commits, the client never hears of it
                self.cut_at_commit = False
                self.cuts += 1
                client.transport.abort()
                writer.write(data)
                await writer.drain()
                return
            writer.write(data)
            await writer.drain()
        writer.transport.abort()
