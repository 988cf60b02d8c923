"""The orderly stop: whoever was accepted is answered, newcomers are turned away.

First the kernel takes no new connection and what it has accepted is read; then requests end and their answers go out;
at last connections that nobody uses are closed. How long all of this may take is the server's to say.
"""

from __future__ import annotations

import asyncio
import ctypes
import select
import socket
import struct
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress

from aiohttp import web
from aiohttp.typedefs import Handler

_HANDSHAKE_S = 0.2
"""For handshakes that have begun when the stop is asked for; a client counts itself as connected before we do."""
QUIET_S = 1.0
"""A connection without a request for so long is closed. Clients that have only just connected, or been answered, send
their next request within it and learn from its answer that the connection closes."""
_LOOK_S = 0.02
_CUT_S = 1.0
"""For requests that are cut off to tell their clients and to note it."""

_SO_ATTACH_FILTER = 26
"""socket(7); Python does not name it."""
_NO_NEW_HANDSHAKE = (
    (0x30, 0, 0, 13),  # load the byte of TCP flags
    (0x54, 0, 0, 0x12),  # of these SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone opens a connection:
    (0x06, 0, 0, 0),  # drop it
    (0x06, 0, 0, 0xFFFFFFFF),  # and take everything else whole
)
"""Classic BPF: code, jump if true, jump if false, operand."""


class InFlight:
    """The requests that are being answered, of every path."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        """Those of the connections, while a request is answered on them."""

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._tasks)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """An aiohttp middleware; to be the outermost."""
        task = request.task
        self._tasks.add(task)
        try:
            return await handler(request)
        finally:
            self._tasks.discard(task)

    async def cut(self, tell: Callable[[], None]) -> int:
        """End them all; how many there were. Returns when they have ended, or after two seconds.

        `tell` ends those that can still tell their clients; the others are cancelled.
        """
        count = self.count
        for end in (tell, self._cancel):
            end()
            with suppress(TimeoutError):
                async with asyncio.timeout(_CUT_S):
                    while self._tasks:  # noqa: ASYNC110 (a connection may go on after its request)
                        await asyncio.sleep(_LOOK_S)
        return count

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()


async def drain(
    site: web.SockSite, listening: socket.socket, server: web.Server, requests: InFlight, quiet_s: float = QUIET_S
) -> None:
    """Turn newcomers away, and return when everybody who was accepted is answered and every connection is closed.

    Sets itself no limit: a request that does not end, or a client that does not read its answer, holds it up.
    """
    turn_away(listening)
    await asyncio.sleep(_HANDSHAKE_S)
    while _readable([listening]):  # noqa: ASYNC110 (the end of the socket would reset who is in its queue)
        await asyncio.sleep(_LOOK_S)
    await site.stop()
    await _lull(server, requests, quiet_s)
    while not await close_idle(server, requests):
        await _lull(server, requests, quiet_s)


def turn_away(listening: socket.socket) -> None:
    """Have the kernel ignore who wants to connect, while handshakes that have begun are completed and queued.

    Without it a client that connects between the last accept and the close is reset. The ignored client asks again
    after a second and is refused. The socket must be this process's alone: everybody who listens on it is cut off.
    Where there is no such filter (it is Linux's) nothing happens, and that short moment remains.
    """
    if sys.platform == "linux":
        program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_NEW_HANDSHAKE))
        described = struct.pack("HP", len(_NO_NEW_HANDSHAKE), ctypes.addressof(program))
        with suppress(OSError):  # a sandbox may forbid it
            listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)


async def _lull(server: web.Server, requests: InFlight, quiet_s: float) -> None:
    """Wait until nobody is connected, or for `quiet_s` seconds nobody has asked anything and every answer is out."""
    now = asyncio.get_running_loop().time
    begun, since = server.requests_count, now()
    while True:
        await asyncio.sleep(_LOOK_S)
        if not server.connections and not requests.count:
            return
        if requests.count or server.requests_count != begun or any(map(_unsent, server.connections)):
            begun, since = server.requests_count, now()
        elif now() - since >= quiet_s:
            return


def _unsent(connection: web.RequestHandler) -> bool:
    """Whether a part of its answer waits for the client to read."""
    return connection.transport is not None and connection.transport.get_write_buffer_size() > 0


async def close_idle(server: web.Server, requests: InFlight) -> bool:
    """Close every connection, unless a request has come on one of them: then none, and False.

    A request counts as come with its first byte in the kernel, before anybody has read it: closing a socket with
    unread bytes resets the connection.
    """
    begun, idle = server.requests_count, _open(server)
    for transport in idle:
        transport.pause_reading()
    for _ in range(2):  # what has been read by now becomes a request
        await asyncio.sleep(0)
    if not requests.count and server.requests_count == begun and not _readable(_sockets(idle)):
        for connection in server.connections:
            connection.force_close()
        return True
    for transport in idle:
        transport.resume_reading()
    return False


def _open(server: web.Server) -> list[asyncio.Transport]:
    transports = (connection.transport for connection in server.connections)
    return [transport for transport in transports if transport is not None and not transport.is_closing()]


def _sockets(transports: Iterable[asyncio.Transport]) -> list[socket.socket]:
    return [transport.get_extra_info("socket") for transport in transports if not transport.is_closing()]


def _readable(sockets: Iterable[socket.socket]) -> bool:
    """Whether one of them has something unread: bytes, an end, or a connection to accept."""
    looked = select.poll()
    for each in sockets:
        looked.register(each, select.POLLIN)
    return bool(looked.poll(0))
