"""The client of a node for tests: a running one, ways to read with it, bare nodes, answers as bytes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from running import eventually

from parallama.config import NodeSettings
from parallama.gateway.api import Head
from parallama.nodes.answer import NodeAnswer
from parallama.nodes.upstream import Upstream
from parallama.simulated.server import HttpServer
from parallama.testing import CEILING_S

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LINE = b'{"done":false}\n'
CHUNK = b"%x\r\n%b\r\n" % (len(LINE), LINE)
PATH = "/api/chat"


@asynccontextmanager
async def client(url: str, **settings: Any) -> AsyncIterator[Upstream]:
    """A running client of the node at `url`; nothing of it may be left behind."""
    before = asyncio.all_tasks()
    upstream = Upstream(NodeSettings.model_validate({"name": "node-1", "url": url, **settings}))
    async with asyncio.timeout(CEILING_S), upstream.running():
        yield upstream
    mine = ("timeouts of", "upload to")
    await eventually(lambda: not [t for t in asyncio.all_tasks() - before if t.get_name().startswith(mine)])


async def read(upstream: Upstream, method: str = "POST", path: str = PATH, **how: Any) -> tuple[Head, bytes]:
    """One exchange, its body read whole."""
    with await upstream.send(method, path, {}, **how) as answer:
        return answer.head, await answer.read(1 << 30)


async def pipe(upstream: Upstream, method: str = "POST", path: str = PATH, **how: Any) -> tuple[Head, bytes]:
    """One exchange, its body piped."""
    body = bytearray()
    with await upstream.send(method, path, {}, **how) as answer:
        await answer.pipe(body.extend)
        return answer.head, bytes(body)


def accepted(node: HttpServer) -> list[asyncio.Task[None]]:
    """Fills up with the connections that the node accepts from now on."""
    found: list[asyncio.Task[None]] = []
    adopt = node.adopt

    def counted(task: asyncio.Task[None]) -> None:
        found.append(task)
        adopt(task)

    node.adopt = counted  # type: ignore[method-assign]
    return found


async def is_right(upstream: Upstream) -> None:
    """The next request gets its own answer."""
    head, body = await read(upstream, "GET", "/api/version")
    assert (head.status, b'"version"' in body) == (200, True)


async def drain(answer: NodeAnswer, got: bytearray) -> None:
    """Read into `got` until the end or a failure."""
    while some := await answer.some():
        got += some


def close(writer: asyncio.StreamWriter) -> None:
    writer.close()


def reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


@asynccontextmanager
async def bare(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], **how: Any
) -> AsyncIterator[str]:
    """The URL of a node that serves every connection so."""
    writers = []

    async def each(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await serve(reader, writer)

    server = await asyncio.start_server(each, "127.0.0.1", 0, **how)
    try:
        yield f"http{'s' if 'ssl' in how else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
        await server.wait_closed()


@asynccontextmanager
async def full(port: int = 0) -> AsyncIterator[str]:
    """The URL of a node (on `port`) whose queue of connections is full: another SYN is not answered (listen(2))."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(0)
        name = listening.getsockname()
        waiting = []
        try:
            for _ in range(4):
                waiting.append(socket.socket())
                waiting[-1].setblocking(False)
                waiting[-1].connect_ex(name)
            yield f"http://127.0.0.1:{name[1]}"
        finally:
            for one in waiting:
                one.close()


WHOLE = {
    "a length": (OK + b"Content-Length: 2\r\n\r\n{}", 200, b"{}"),
    "no body": (OK + b"Content-Length: 0\r\n\r\n", 200, b""),
    "chunks": (CHUNKED + b"2\r\n{}\r\n0\r\n\r\n", 200, b"{}"),
    "an error": (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}", 404, b"{}"),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "close": (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}"),
}
