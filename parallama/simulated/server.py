"""The HTTP server of the simulator: connections, their requests in turn, and what net/http says to a bad head.

`HttpServer.answer` is what a server does; simulated.http holds the request and the answer.
"""

from __future__ import annotations

import asyncio
from typing import Self

from parallama.simulated.http import PIECE, Headers, Reader, Request, Responder, Wire

LINGER_S = 0.5
"""How long a closed connection still takes in what the peer sends."""


class BadHead(Exception):
    """The head of a request cannot be understood; args are the status line's rest."""


class Connection(Wire):
    """One client's connection: requests in turn, each answered whole before the next is read."""

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.reader = Reader(self._on_left)
        self._answering: asyncio.Task[None] | None = None

    def made(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        writer.transport.set_write_buffer_limits(0)  # drain() then waits until the kernel has taken everything
        self.server.adopt(asyncio.get_running_loop().create_task(self._serve(), name="simulator-connection"))

    async def _serve(self) -> None:
        try:
            while await self._exchange():
                pass
            await self._linger()
        except (OSError, asyncio.IncompleteReadError):  # the peer is gone: ENOTCONN is no ConnectionError
            pass
        except asyncio.CancelledError:
            self.writer.transport.abort()  # the peer has left, or the server is gone: nothing is flushed
            raise
        finally:
            self.writer.close()

    async def _exchange(self) -> bool:
        """One request and its answer; whether another may follow."""
        try:
            request = await self._read_head()
        except BadHead as bad:
            await self.write(bad_head(*bad.args))
            return False
        responder = self.server.responder(request, self)
        self._answering = asyncio.current_task()
        try:
            await self.server.answer(request, responder)
        finally:
            self._answering = None
        return responder.keep

    async def _read_head(self) -> Request:
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError as error:
            raise BadHead("431 Request Header Fields Too Large", "") from error
        first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        parts = first.split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            raise BadHead("400 Bad Request", "")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        names = [name.lower() for name, _ in headers]
        if parts[2] == "HTTP/1.1" and "host" not in names:
            raise BadHead("400 Bad Request", ": missing required Host header")
        lengths = [value for name, value in headers if name.lower() == "content-length"]
        if len(lengths) > 1 or not all(value.isdecimal() for value in lengths):
            raise BadHead("400 Bad Request", "")
        return self.server.request(parts[0], parts[1], parts[2], headers, self)

    async def _linger(self) -> None:
        """Closes so that the peer still gets the answer: unread bytes would turn the close into a reset."""
        if self.writer.can_write_eof() and not self.left:
            self.writer.write_eof()
            async with asyncio.timeout(LINGER_S):
                while await self.reader.read(PIECE):
                    pass

    def _on_left(self) -> None:
        self.left = True
        if self._answering:
            self._answering.cancel()


def bad_head(status: str, why: str) -> bytes:
    """What net/http says to a request that it cannot read."""
    head = f"HTTP/1.1 {status}{why}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    return f"{head}{status}{why}".encode()


class HttpServer:
    """Listens, and answers each request with `answer`. Can be started again after `close`."""

    marks: Headers = ()
    """Further headers of every answer."""

    def __init__(self) -> None:
        self.port = 0
        self.host = ""
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Such as `http://127.0.0.1:11434`."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> Self:
        """Listens on `port`; 0: one that is free. Raises OSError when it is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, host, port, backlog=1024)
        self.host, self.port = host, self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        """Stops listening and drops every connection, as a killed server does."""
        if self._server:
            self._server.close()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None

    async def __aenter__(self) -> Self:
        return self if self._server else await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def request(self, method: str, target: str, version: str, headers: Headers, of: Wire) -> Request:
        """Called when a head has been read."""
        return Request(method, target, version, headers, of)

    def responder(self, request: Request, of: Wire) -> Responder:
        """What writes the answer to `request`."""
        return Responder(request, of, self.marks)

    async def answer(self, request: Request, responder: Responder) -> None:
        """Answers `request`. Cancelled at once when the client leaves."""
        raise NotImplementedError

    def adopt(self, task: asyncio.Task[None]) -> None:
        """Owns the task of a connection."""
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    def _accept(self) -> asyncio.StreamReaderProtocol:
        connection = Connection(self)
        return asyncio.StreamReaderProtocol(connection.reader, connection.made)
