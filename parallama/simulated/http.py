"""HTTP/1.1 as Go's net/http speaks it under Ollama: one request and its answer, byte for byte.

Raw, because the heads, the framing and every fault must be exact. It knows nothing of models.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from parallama.simulated.go import encode

MAX_HEAD = 1 << 20
PIECE = 1 << 16
UNREAD = 256 << 10
"""Bytes of an unread request body that Go still takes in before it gives the connection up."""
BUFFERED = 2048
"""Longer documents go out chunked (net/http's bufferBeforeChunkingSize)."""

Headers = Sequence[tuple[str, str]]


class Reader(asyncio.StreamReader):
    """A stream that tells at once when the peer has left, also while nobody reads. A half-close counts (Go's rule)."""

    def __init__(self, left: Callable[[], None]) -> None:
        super().__init__(limit=MAX_HEAD)
        self._left = left

    def feed_eof(self) -> None:
        super().feed_eof()
        self._left()

    def set_exception(self, exc: BaseException) -> None:
        super().set_exception(exc)  # type: ignore[arg-type]
        self._left()


class Wire:
    """The two directions of a connection."""

    reader: Reader
    writer: asyncio.StreamWriter
    left = False
    """The peer has closed, or shut down its sending side."""

    async def write(self, data: bytes) -> None:
        """Hands `data` to the kernel. Raises ConnectionError when the peer has gone."""
        self.writer.write(data)
        await self.writer.drain()


class Request:
    """A request whose body is still on the wire."""

    def __init__(self, method: str, target: str, version: str, headers: Headers, wire: Wire) -> None:
        self.method, self.target, self.version = method, target, version
        self.path = target.partition("?")[0]
        self.headers = list(headers)
        """Names and values in order, in the client's spelling."""
        self._wire = wire
        self._chunked = self.header("transfer-encoding").lower() == "chunked"
        self._left = 0 if self._chunked else int(self.header("content-length") or 0)
        self.expects = self.header("expect").lower() == "100-continue"
        """Whether the client still waits for `100 Continue`."""
        self.complete = not self._chunked and not self._left

    def header(self, name: str) -> str:
        """The first value of `name`, which must be lower-case; empty when there is none."""
        return next((value for key, value in self.headers if key.lower() == name), "")

    async def read(self) -> bytes:
        """The whole body."""
        return b"".join([piece async for piece in self.pieces()])

    async def take(self, size: int | None) -> None:
        """Reads the body until `size` bytes or more have come; None: all of it."""
        if size == 0:
            return
        taken = 0
        async for piece in self.pieces():
            taken += len(piece)
            if size is not None and taken >= size:
                return

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. The first call sends `100 Continue` to a client that waits for it."""
        if self.complete:
            return
        if self.expects:
            self.expects = False
            await self._wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        async for piece in self._chunks() if self._chunked else self._exactly():
            yield piece
        self.complete = True

    async def discard(self) -> bool:
        """Takes in a body that nobody read, as far as Go does. False: the connection cannot be used again."""
        if self.complete:
            return True
        if self.expects or self._left > UNREAD:
            return False
        total = 0
        async for piece in self.pieces():
            total += len(piece)
            if total > UNREAD:
                return False
        return True

    async def _exactly(self) -> AsyncIterator[bytes]:
        while self._left:
            piece = await self._wire.reader.read(min(PIECE, self._left))
            if not piece:
                raise asyncio.IncompleteReadError(b"", self._left)
            self._left -= len(piece)
            yield piece

    async def _chunks(self) -> AsyncIterator[bytes]:
        reader = self._wire.reader
        while size := _chunk_size(await reader.readuntil(b"\n")):
            self._left = size
            async for piece in self._exactly():
                yield piece
            await reader.readexactly(2)
        while (await reader.readuntil(b"\n")).strip():
            pass  # trailers


def _chunk_size(line: bytes) -> int:
    try:
        return int(line.split(b";")[0], 16)
    except ValueError as error:
        raise ConnectionError("a chunk of the request has no length") from error


class Responder:
    """Writes one answer: `start`, `send` for every piece of the body, `finish`; or a whole one at once."""

    def __init__(self, request: Request, wire: Wire, marks: Headers = ()) -> None:
        self.request = request
        self.wire = wire
        self._marks = marks
        self.keep = "close" not in request.header("connection").lower() and request.version == "HTTP/1.1"
        """Whether the connection serves another request."""
        self.may_chunk = request.version == "HTTP/1.1"
        """Whether a body of unknown length is chunked; otherwise it ends with the connection."""
        self._bodiless = request.method == "HEAD"
        self._chunked = False

    async def start(self, status: int, headers: Headers = (), length: int | None = None) -> None:
        """The head. `length` None: the body is chunked, or for HTTP/1.0 ends with the connection."""
        self.keep = await self.request_is_over() and self.keep
        await self._write_head(self._head(status, headers, length))

    async def request_is_over(self) -> bool:
        """Takes in what is left of the request. False: it is too much, the connection cannot be used again."""
        return await self.request.discard()

    async def send(self, data: bytes) -> None:
        """A piece of the body: one HTTP chunk where the body is chunked."""
        if not self._bodiless:
            await self._write_body(*self._framed(data))

    async def finish(self) -> None:
        """The end of the body."""
        if self._chunked and not self._bodiless:
            await self.wire.write(b"0\r\n\r\n")

    async def document(self, status: int, data: bytes, headers: Headers) -> None:
        """A whole answer."""
        long = len(data) > BUFFERED
        await self.start(status, headers, None if long else len(data))
        if data:
            await self.send(data)
        await self.finish()

    async def json(self, value: Any, status: int = 200) -> None:
        """`value` as gin's c.JSON sends it."""
        await self.document(status, encode(value), [("Content-Type", "application/json; charset=utf-8")])

    async def text(self, text: str, status: int = 200, mime: str = "text/plain", *more: tuple[str, str]) -> None:
        """A text answer, such as that of the router."""
        await self.document(status, text.encode(), [("Content-Type", mime), *more])

    def _head(self, status: int, headers: Headers, length: int | None) -> bytes:
        modern = self.request.version == "HTTP/1.1"
        self._chunked = length is None and self.may_chunk
        self.keep = self.keep and modern
        lines = [f"{self.request.version} {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in sorted([*headers, *self._marks])]
        lines.append(f"Date: {formatdate(usegmt=True)}")
        if length is not None and (length or not self._bodiless):
            lines.append(f"Content-Length: {length}")
        if modern and not self.keep:
            lines.append("Connection: close")
        if self._chunked and not self._bodiless:
            lines.append("Transfer-Encoding: chunked")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def _framed(self, data: bytes) -> tuple[bytes, bytes, bytes]:
        """What goes before `data`, the data, and what goes after."""
        return (f"{len(data):x}\r\n".encode(), data, b"\r\n") if self._chunked else (b"", data, b"")

    async def _write_head(self, head: bytes) -> None:
        await self.wire.write(head)

    async def _write_body(self, before: bytes, data: bytes, after: bytes) -> None:
        await self.wire.write(before + data + after)
