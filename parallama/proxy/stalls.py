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
CLOSED = (OSError, ValueError, AttributeError)
"""What asking the socket of a transport raises that has just been closed; uvloop's has none then."""
_LOOKS = 8
"""So often a stalled client is looked at before it is cut off."""


def unsent(transport: asyncio.WriteTransport) -> int:
    """Bytes that wait in the kernel for the client to take them."""
    return _queued(transport, _SIOCOUTQNSD)


def _queued(transport: asyncio.WriteTransport, request: int) -> int:
    if sys.platform != "linux":
        return 0
    try:
        return int(_INT.unpack(ioctl(transport.get_extra_info("socket").fileno(), request, bytes(4)))[0])
    except CLOSED:
        return 0


def acked(transport: asyncio.WriteTransport) -> int:
    """Bytes that the client's kernel has taken, ever; 0 where that is not known."""
    if sys.platform != "linux":
        return 0
    try:
        info = transport.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_AT + _ACKED.size
        )
    except CLOSED:
        return 0
    return int(_ACKED.unpack_from(info, _ACKED_AT)[0])


@dataclass(slots=True, eq=False)
class Watched:
    """One answer on its way to a client."""

    transport: asyncio.WriteTransport
    backlog: Callable[[], int]
    """Bytes that this process holds for the client."""
    on_stall: Callable[[], None]
    over: bool = False
    """The answer is complete: it is watched only until the transport has got rid of it."""
    waiting: int = 0
    """Bytes that waited when it was last asked."""
    taken: tuple[int, int] = (0, 0)
    since: float = field(default_factory=time.monotonic)

    def look(self, now: float, stall_s: float) -> bool:
        """Whether to look again. Calls `on_stall` when the client has taken nothing for `stall_s` seconds."""
        transport = self.transport
        ours = self.backlog()
        if not ours and (self.over or transport.is_closing()):
            return False  # a client that has half-closed is closing too, and may take no more all the same
        taken = (ours, acked(transport))
        waits = ours or _queued(transport, _SIOCOUTQ)
        if not waits or taken != self.taken:
            self.taken, self.since = taken, now
        elif now - self.since >= stall_s:
            self.on_stall()
            return False
        return True


class Stalls:
    """Looks at every answer on its way several times in `stall_s` seconds, and keeps what waits for all of them within
    `backlog` bytes."""

    def __init__(self, stall_s: float, backlog: int) -> None:
        """`stall_s`: seconds without a byte taken; `backlog`: bytes for all clients together."""
        self._stall_s = stall_s
        self._backlog = backlog
        self._waiting = 0
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

    def watch(
        self, transport: asyncio.WriteTransport, on_stall: Callable[[], None], backlog: Callable[[], int] | None = None
    ) -> Watched:
        """Call `on_stall` once the client takes nothing for too long; `over` ends it.

        `backlog`: bytes that are held for the client; None: those that the transport holds.
        """
        watched = Watched(transport, backlog or transport.get_write_buffer_size, on_stall)
        self._watched.add(watched)
        return watched

    def before_answer(self, request: web.Request) -> None:
        """Watch a client that has not taken its earlier answers."""
        transport = request.transport
        if transport is not None and transport.get_write_buffer_size():
            self.over(self.watch(transport, transport.abort))

    def over(self, watched: Watched) -> None:
        """Its answer is complete: it is watched only until the client has it."""
        watched.over = True
        if not watched.backlog():
            self._waiting -= watched.waiting
            self._watched.discard(watched)

    def behind(self, watched: Watched, waiting: int) -> None:
        """So many bytes wait for this client. When all together are too many, who has most is cut off."""
        self._waiting += waiting - watched.waiting
        watched.waiting = waiting
        if self._waiting > self._backlog:
            self._relieve()

    def _relieve(self) -> None:
        for watched in self._watched:  # some have taken theirs meanwhile
            watched.waiting = watched.backlog()
        most = sorted(self._watched, key=lambda watched: watched.waiting)
        self._waiting = sum(watched.waiting for watched in most)
        while self._waiting > self._backlog:
            watched = most.pop()
            self._waiting -= watched.waiting
            self._watched.discard(watched)
            watched.on_stall()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._stall_s / _LOOKS)
            self._sweep(time.monotonic())

    def _sweep(self, now: float) -> None:
        self._watched = {watched for watched in self._watched if watched.look(now, self._stall_s)}
