"""One connection to a node: a request goes out, its answer comes back, then the next (HTTP/1.1, RFC 9112)."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterable, Callable
from typing import Protocol, cast

from parallama.errors import TimedOut
from parallama.nodes.answer import NodeAnswer
from parallama.nodes.source import Limits

_JOINED = 64 * 1024
"""Bytes of a request body up to which it leaves in one write with its head."""

_NO_LINGER = struct.pack("ii", 1, 0)


def reset_on_close(transport: asyncio.BaseTransport) -> None:
    """Turn the close of its socket, which must still be open, into a reset (SO_LINGER in socket(7))."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)


class Done(Protocol):
    """Told when an exchange is over; `usable`: another may follow."""

    def __call__(self, connection: Connection, *, usable: bool) -> None: ...


class Connection(asyncio.Protocol):
    """The socket; carries one exchange at a time."""

    counted = True
    """Whether it takes one of the places that `max_connections` gives."""
    idle_since = 0.0
    """Since when it waits for its next request, by the event loop's time."""

    def __init__(self, on_done: Done, on_lost: Callable[[Connection], None]) -> None:
        self.paused = False
        self._loop = asyncio.get_running_loop()
        self._on_done, self._on_lost = on_done, on_lost
        self._answer: NodeAnswer | None = None
        self._transport: asyncio.Transport
        self._unblocked: asyncio.Event | None = None
        self._uploading: asyncio.Task[None] | None = None
        self._whole = True

    @property
    def open(self) -> bool:
        """Whether it can still be written to."""
        return not self._transport.is_closing()

    def ask(self, method: str, head: bytes, body: bytes | None, limits: Limits, started: float) -> NodeAnswer:
        """Send a request; what will be its answer. With `body` None the rest is sent by `upload`.

        `started`: since when `limits.total_s` counts, by the event loop's time.
        """
        self._answer = answer = NodeAnswer(self, method, limits, started, self._loop)
        if body is None:
            self._transport.write(head)
            return answer
        if len(body) <= _JOINED:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)
        answer.sent()
        return answer

    def look(self, now: float) -> None:
        """Has the node taken too long? `now` is the event loop's time."""
        if self._answer is not None:
            self._answer.look(now)

    def fail(self, error: Exception) -> None:
        """End the exchange on it with `error`."""
        if self._answer is not None:
            self._answer.fail(error)

    def upload(self, pieces: AsyncIterable[bytes], *, chunked: bool, limits: Limits, await_continue: bool) -> None:
        """Send the body of the request asked last, as it comes; with `await_continue` once the node wants it.

        What goes wrong is told to the reader of the answer; the answer's head ends it.
        """
        assert self._answer is not None
        work = self._upload(self._answer, pieces, chunked, limits.idle_s, await_continue)
        self._uploading = self._loop.create_task(work, name="upload to a node")

    async def _upload(
        self, answer: NodeAnswer, pieces: AsyncIterable[bytes], chunked: bool, idle_s: float, await_continue: bool
    ) -> None:
        try:
            if await_continue and not await answer.continued():
                return
            async for piece in pieces:
                await self._send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece, idle_s)
            await self._send(b"0\r\n\r\n" if chunked else b"", idle_s)
        except Exception as error:  # noqa: BLE001 - whoever waits for the answer gets it
            answer.fail(error)
        else:
            answer.sent()

    # what NodeAnswer asks for

    def begun(self) -> None:
        """The answer has begun: nothing more of the request is sent."""
        if self._uploading is not None and not self._uploading.done():
            self._uploading.cancel()
            self._whole = False

    def done(self, *, reusable: bool) -> None:
        """Nobody reads the answer any more; unless another may follow it the connection is closed."""
        self._answer = None
        if self._uploading is not None:
            self._uploading.cancel()
            self._uploading = None
        usable = reusable and self._whole and self.open and not self._transport.get_write_buffer_size()
        if not usable:
            self.close()
        self._on_done(self, usable=usable)

    def pause(self) -> None:
        """Make the node wait."""
        self.paused = True
        self._transport.pause_reading()

    def resume(self) -> None:
        """Let the node go on."""
        self.paused = False
        self._transport.resume_reading()

    def close(self) -> None:
        """At once, and for good: that is how a node is told to stop."""
        if self.open and self._transport.get_write_buffer_size():
            # the kernel too holds what the node does not take, and would tell it the end only behind that
            reset_on_close(self._transport)
        self._transport.abort()

    # what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            self.close()  # nobody has asked
        else:
            self._answer.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.resume_writing()
        self._on_lost(self)
        if self._answer is not None:
            self._answer.lost(exc)

    def pause_writing(self) -> None:
        self._unblocked = asyncio.Event()

    def resume_writing(self) -> None:
        if self._unblocked is not None:
            self._unblocked.set()
            self._unblocked = None

    async def _send(self, data: bytes, limit_s: float) -> None:
        if data and self.open:
            self._transport.write(data)
        if self._unblocked is None:
            return
        try:
            async with asyncio.timeout(limit_s):
                await self._unblocked.wait()
        except TimeoutError:
            raise TimedOut("the node did not take the request in time") from None
