"""A bare HTTP client on asyncio streams, for tests that look at bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

CEILING_S = 30.0
"""Only a hang reaches it."""


@dataclass
class Got:
    """An answer as it came."""

    head: str
    chunks: list[bytes] = field(default_factory=list)
    """HTTP chunks without their framing, or the whole body as one."""
    framing: str = "none"
    """As in the recordings."""

    @property
    def status_line(self) -> str:
        return self.head.split("\r\n")[0]

    @property
    def status(self) -> int:
        return int(self.head.split(" ")[1])

    @property
    def headers(self) -> list[tuple[str, str]]:
        lines = [line for line in self.head.split("\r\n")[1:] if line]
        return [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def json(self) -> Any:
        return json.loads(self.body)

    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]


class RawClient:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, method: str, path: str, body: Any = None, *headers: str) -> Got:
        """Sends a request (`body`: JSON, bytes, or None) and reads the answer."""
        await self.send(request_bytes(method, path, body, *headers))
        return await self.answer(method)

    async def head(self) -> str:
        return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    async def answer(self, method: str = "GET", head: str | None = None) -> Got:
        """Reads one answer whole; `head` if that is read. Raises IncompleteReadError or ConnectionError when it breaks
        off."""
        got = Got(head or await self.head())
        names = {name.lower(): value for name, value in got.headers}
        if method == "HEAD":
            return got
        if "transfer-encoding" in names:
            got.framing = "chunked"
            while chunk := await self.chunk():
                got.chunks.append(chunk)
        elif "content-length" in names:
            got.framing = "length"
            got.chunks = [await self.reader.readexactly(int(names["content-length"]))]
        elif got.status not in (204, 304):
            got.framing = "close"
            got.chunks = [await self.reader.read()]
        return got

    async def chunk(self) -> bytes:
        """The next HTTP chunk; empty: the terminator."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]


def request_bytes(method: str, path: str, body: Any = None, *headers: str) -> bytes:
    """A request, its body (JSON, bytes, or None) with Content-Length."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    length = [] if body is None else [f"Content-Length: {len(data)}"]
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, *length, "", ""]).encode() + data


@asynccontextmanager
async def raw_client(port: int) -> AsyncIterator[RawClient]:
    """A connection to 127.0.0.1, closed with the block; nothing in it may take longer than the ceiling."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(CEILING_S):
            yield RawClient(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
