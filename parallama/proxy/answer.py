"""The client's side of an exchange: a head held back as long as it can still change, then bytes.

A stream's head goes out with its first byte, and from then on nobody waits for the client: one that lags too far
behind, or takes nothing for too long, is cut off. One document is held whole, up to a size, so that a node that breaks
within it can still become an error status; a larger one goes out as fast as the client takes it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import cast

from aiohttp import web
from aiohttp.hdrs import CONTENT_LENGTH
from aiohttp.http import StreamWriter

from parallama.errors import ClientLeft
from parallama.exchange import Exchange
from parallama.gateway.api import Head
from parallama.nodes.connection import reset_on_close
from parallama.proxy.headers import for_client
from parallama.proxy.node_response import NodeResponse
from parallama.proxy.stalls import CLOSED, Stalls, Watched, acked, unsent

_LAG = 512 * 1024
"""Bytes of a stream that may wait for its client, beside its longest line."""
_MOMENT_S = 0.5
"""A client that takes nothing of a long line for so long has stopped reading."""
_MOST = 16 * 1024 * 1024
"""Bytes that may wait however long a line is."""
_LARGE = 256 * 1024
"""Bytes of a piece that is weighed, whoever it is for."""
_SMALL = 16 * 1024
"""Bytes that a connection takes at once, unless its client has stopped reading long ago."""


class Answer:
    """Writes the answer of one exchange."""

    # as they are at first: kept here, they cost an answer nothing until they change
    committed = False
    """Whether the head has gone out."""
    streams = False
    """Whether it is a stream."""
    _response: NodeResponse | None = None
    _whole = _chunked = False
    _watched: Watched | None = None
    _catching_up: asyncio.Task[None] | None = None
    _suspected: asyncio.TimerHandle | None = None
    _open_line = _longest_line = 0
    _head: Head
    _extra: Mapping[str, str]

    def __init__(self, request: web.Request, exchange: Exchange, stalls: Stalls, hold_bytes: int) -> None:
        self._request = request
        self._exchange = exchange
        self._stalls = stalls
        self._hold_bytes = hold_bytes
        self._held = bytearray()
        self._transport = request.transport
        self._late = bytearray()

    @property
    def held(self) -> int:
        """Bytes of the body that are held back."""
        return len(self._held)

    @property
    def flowing(self) -> bool:
        """Whether it is a stream of which more than heartbeats has gone out."""
        return self.streams and self.committed and self._exchange.first_byte is not None

    def begin(self, head: Head, extra: Mapping[str, str], *, streams: bool) -> None:
        """Take the head; nothing is sent yet. `extra` are headers of ours beside it."""
        self._head, self._extra, self.streams = head, extra, streams

    def put(self, extra: Mapping[str, str]) -> None:
        """Further headers of ours, if the head has not gone out."""
        if not self.committed:
            self._extra = {**self._extra, **extra}

    async def beat(self, data: bytes) -> None:
        """Send `data` in a stream that waits for its node. Raises ClientLeft."""
        if self.committed:
            self.push(data)
            return
        self._held += data
        self._watch()
        await self._commit()
        self._exchange.first_byte = None  # the node has said nothing yet

    async def write(self, data: bytes) -> None:
        """Send or hold the next bytes of the body; a document waits for its client here. Raises ClientLeft."""
        if not data:
            return
        if self.committed:
            self._exchange.first_byte = self._exchange.first_byte or time.monotonic()
            self.push(data)
            if not self.streams and self._transport is not None:
                self._weigh(self._transport)
                await self._drain()
            return
        self._held += data
        if self.streams or len(self._held) > self._hold_bytes:
            self._watch()
            await self._commit()
            if not self.streams:
                await self._drain()

    def push(self, data: bytes) -> None:
        """Send the next bytes of a committed answer without waiting for the client. Raises ClientLeft, also for the
        client of a stream for which too much waits."""
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ClientLeft
        if not data:
            return
        framed = b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data
        self._exchange.response_bytes += len(data)
        behind = self._catching_up is not None or transport.get_write_buffer_size() > _SMALL or len(framed) > _LARGE
        if self.streams and behind:
            self._fall_behind(transport, data, framed)
        else:
            transport.write(framed)

    async def end(self) -> None:
        """The body is complete. Raises ClientLeft."""
        if self._watched is None and len(self._held) > _SMALL:
            self._watch()
        if not self.committed:
            self._whole = not self.streams
            if await self._commit():
                return
            await self._drain()
        self._flush()
        try:
            await self.response.write_eof()
        except ConnectionError as error:
            raise ClientLeft from error

    def close(self) -> None:
        """Nothing more is written; what waits is watched until the client has it."""
        if self._suspected is not None:
            self._suspected.cancel()
            self._suspected = None
        if self._watched is not None:
            self._stalls.over(self._watched)
            self._watched = None  # it refers to this answer

    def abort(self) -> None:
        """Close the connection short of the announced end: the one way to say that the body is not whole."""
        if self._transport is None:
            return
        if self._response is not None and not self._chunked and CONTENT_LENGTH not in self._response.headers:
            # the end of the connection would be the end of the body (RFC 9112 section 6.3): reset it
            with suppress(*CLOSED):
                reset_on_close(self._transport)
        self._transport.abort()  # also one that is closing, for which its client's bytes wait

    @property
    def response(self) -> web.StreamResponse:
        """What the handler returns to aiohttp; committed by then."""
        assert self._response is not None
        return self._response

    async def _commit(self) -> bool:
        """Send the head and what is held; whether that was all of a small document, which has its end then."""
        request, exchange = self._request, self._exchange
        self._response = response = self._make_response()
        self.committed = True
        writer = cast(StreamWriter, request.writer)
        exchange.streamed = self.streams
        try:
            await response.prepare(request)
            held, self._held = bytes(self._held), bytearray()
            if held:
                exchange.first_byte = time.monotonic()
                exchange.response_bytes += len(held)
                if self._whole and writer.length == len(held) <= _SMALL:
                    await response.write_eof(held)
                    return True
                await writer.write(held, drain=False)
        except ConnectionError as error:
            raise ClientLeft from error
        if len(held) > _SMALL and self._transport is not None:
            self._measure_lines(held)
            self._weigh(self._transport)
        return False

    def _make_response(self) -> NodeResponse:
        headers = for_client(self._head.headers)
        headers.update(self._extra)
        if self.streams:  # a stream may get an error line that its announced length has no room for
            headers.popall(CONTENT_LENGTH, None)
        response = NodeResponse(status=self._head.status, reason=self._head.reason, headers=headers)
        if CONTENT_LENGTH in headers or self._request.method == "HEAD":
            return response
        was_chunked = self._head.header("transfer-encoding").lower() == "chunked"
        if self._whole and not was_chunked:
            response.content_length = len(self._held)
        elif self._request.version >= (1, 1):
            response.enable_chunked_encoding()
            self._chunked = True
        return response

    async def _drain(self) -> None:
        try:
            await self._request.writer.drain()
        except ConnectionError as error:
            raise ClientLeft from error

    def _fall_behind(self, transport: asyncio.WriteTransport, data: bytes, framed: bytes) -> None:
        """Keep what the client does not take yet: in one piece, since a transport's own cost several times as much."""
        self._late += framed
        self._measure_lines(data)
        if self._catching_up is None:
            transport.set_write_buffer_limits(high=_SMALL)
            self._catching_up = asyncio.get_running_loop().create_task(self._catch_up(), name="slow client")
        self._weigh(transport)
        if transport.is_closing():
            raise ClientLeft

    def _weigh(self, transport: asyncio.WriteTransport) -> None:
        """Is what waits for the client too much? A document makes its node wait, a stream does not."""
        waiting = self._backlog()
        if self._watched is not None:
            self._stalls.behind(self._watched, waiting)
        if not self.streams or transport.is_closing():
            return
        waiting += unsent(transport)
        if waiting > min(_LAG + self._longest_line, _MOST):
            self._cut_off()
        elif waiting > _LAG and self._suspected is None:
            loop = asyncio.get_running_loop()
            self._suspected = loop.call_later(_MOMENT_S, self._look, transport, acked(transport))

    def _measure_lines(self, data: bytes) -> None:
        """One long line is no reason to cut anybody off, however fast the node writes it."""
        first = data.find(b"\n")
        if first < 0:
            self._open_line += len(data)
            self._longest_line = max(self._longest_line, self._open_line)
        else:
            self._longest_line = max(self._longest_line, self._open_line + first)
            self._open_line = len(data) - data.rfind(b"\n") - 1
        if len(data) > _LARGE:  # of a dialect that says the same more than once: as good as one line
            self._longest_line = max(self._longest_line, len(data))

    def _look(self, transport: asyncio.WriteTransport, taken: int) -> None:
        """Cut the client off if it has taken nothing for a moment; else it reads a long line, only slowly."""
        self._suspected = None
        if transport.is_closing() or self._backlog() + unsent(transport) <= _LAG:
            return
        if acked(transport) == taken:
            self._cut_off()
        else:
            self._weigh(transport)

    async def _catch_up(self) -> None:
        try:
            while self._late:
                await self._request.writer.drain()
                self._flush()
        except ConnectionError:  # whoever writes next sees it too
            self._late.clear()
        finally:
            self._catching_up = None
            if self._transport is not None and not self._transport.is_closing():
                self._transport.set_write_buffer_limits()

    def _flush(self) -> None:
        transport = self._transport
        if self._late and transport is not None and not transport.is_closing():
            transport.write(bytes(self._late))
        self._late.clear()

    def _backlog(self) -> int:
        transport = self._transport
        if transport is None:
            return 0
        return transport.get_write_buffer_size() + (0 if transport.is_closing() else len(self._late))

    def _watch(self) -> None:
        transport = self._transport
        if transport is not None:
            self._watched = self._stalls.watch(transport, self._cut_off, self._backlog)

    def _cut_off(self) -> None:
        """The client does not take its answer."""
        self._exchange.stalled = True
        self.abort()
