"""Clients that do not take their answers: how much waits for one, and who has taken nothing for too long.

What the kernel has not sent yet waits as much as what it has not taken from us yet; only it knows (Linux; elsewhere
our own buffer alone counts).
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fcntl import ioctl

from aiohttp import web

_SIOCOUTQ, _SIOCOUTQNSD = 0x5411, 0x894B
"""Bytes that the peer has not acknowledged; of these those that are not sent yet (linux/sockios.h)."""
_INT = struct.Struct("i")
_ACKED = struct.Struct("=Q")
_ACKED_AT = 120
"""Where `tcpi_bytes_acked` stands in `struct tcp_info` (linux/tcp.h, since Linux 4.1)."""
_LOOKS = 8
"""So often a stalled client is looked at before it is cut off."""


def unsent(transport: asyncio.WriteTransport) -> int:
    """Bytes that wait for the client to take them: in the transport, and in the kernel before the wire."""
    return transport.get_write_buffer_size() + _queued(transport, _SIOCOUTQNSD)


def _queued(transport: asyncio.WriteTransport, request: int) -> int:
    if sys.platform != "linux":
        return 0
    try:
        return int(_INT.unpack(ioctl(transport.get_extra_info("socket").fileno(), request, bytes(4)))[0])
    except OSError:  # it is just being closed
        return 0


def _acked(transport: asyncio.WriteTransport) -> int:
    """Bytes that the client's kernel has taken, ever; 0 where that is not known."""
    if sys.platform != "linux":
        return 0
    try:
        info = transport.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_AT + _ACKED.size
        )
    except OSError:
        return 0
    return int(_ACKED.unpack_from(info, _ACKED_AT)[0])


@dataclass(slots=True, eq=False)
class Watched:
    """One answer on its way to a client."""

    transport: asyncio.WriteTransport
    on_stall: Callable[[], None]
    over: bool = False
    """The answer is complete: it is watched only until the transport has got rid of it."""
    taken: tuple[int, int] = (0, 0)
    since: float = field(default_factory=time.monotonic)

    def look(self, now: float, stall_s: float) -> bool:
        """Whether to look again. Calls `on_stall` when the client has taken nothing for `stall_s` seconds."""
        transport = self.transport
        ours = transport.get_write_buffer_size()
        if transport.is_closing() or (self.over and not ours):
            return False
        taken = (ours, _acked(transport))
        waits = ours or _queued(transport, _SIOCOUTQ)
        if not waits or taken != self.taken:
            self.taken, self.since = taken, now
        elif now - self.since >= stall_s:
            self.on_stall()
            return False
        return True


class Stalls:
    """Looks at every answer on its way several times in `stall_s` seconds."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._watched: set[Watched] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look as long as the block lasts."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._look(), name="stalled clients")
            try:
                yield
            finally:
                task.cancel()

    def watch(self, transport: asyncio.WriteTransport, on_stall: Callable[[], None]) -> Watched:
        """Call `on_stall` once the client takes nothing for too long. To end it, set `over` on what is returned."""
        watched = Watched(transport, on_stall)
        self._watched.add(watched)
        return watched

    def before_answer(self, request: web.Request) -> None:
        """Watch a client that has not taken its earlier answers."""
        transport = request.transport
        if transport is not None and transport.get_write_buffer_size():
            self.watch(transport, transport.abort).over = True

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._stall_s / _LOOKS)
            now = time.monotonic()
            for watched in tuple(self._watched):
                if not watched.look(now, self._stall_s):
                    self._watched.discard(watched)
