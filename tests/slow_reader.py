"""A client that takes no more of its answer than it is told to: no buffers but the kernel's, and these small."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

_RECEIVED = 8 * 1024
"""Bytes that the client's kernel takes."""
_SEGMENT = 1400
"""Bytes: an Ethernet's, not those of the loopback, for which the gateway's kernel would buffer megabytes."""


class SlowReader:
    """One connection on which a request has been sent."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._port = sock.getsockname()[1]

    async def take(self, size: int) -> bytes:
        """The next bytes, at most `size`; none at the end."""
        return await asyncio.get_running_loop().sock_recv(self._sock, size)

    async def rest(self) -> bytes:
        """What still comes before the answer or the connection ends."""
        taken = bytearray()
        with suppress(ConnectionError):
            while not taken.endswith(b"0\r\n\r\n") and (piece := await self.take(1 << 16)):
                taken += piece
        return bytes(taken)

    def connected(self) -> bool:
        """Whether the gateway has its end of the connection open; what its kernel still sends does not count."""
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        return any(line[2].endswith(f":{self._port:04X}") and line[9] != "0" for line in lines)


@asynccontextmanager
async def slow_reader(port: int, request: bytes) -> AsyncIterator[SlowReader]:
    """A connection to 127.0.0.1 on which `request` has been sent; closed with the block."""
    with closing(socket.socket()) as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVED)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", port))
        await loop.sock_sendall(sock, request)
        yield SlowReader(sock)
