"""The client's side of an exchange: a head held back as long as it can still change, then bytes.

A stream's head goes out with its first byte. One document is held whole, up to a size, so that a node that breaks
within it can still become an error status.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from aiohttp import web

from parallama.errors import ClientLeft
from parallama.exchange import Exchange
from parallama.gateway.api import Head
from parallama.proxy.headers import for_client


class NodeResponse(web.StreamResponse):
    """An answer whose head is a node's or a codec's: nothing is added that they did not say."""


class Answer:
    """Writes the answer of one exchange."""

    def __init__(self, request: web.Request, exchange: Exchange, hold_bytes: int) -> None:
        self._request = request
        self._exchange = exchange
        self._hold_bytes = hold_bytes
        self._head = Head(200)
        self._extra: Mapping[str, str] = {}
        self._streams = False
        self._held = bytearray()
        self._response: NodeResponse | None = None

    @property
    def committed(self) -> bool:
        """Whether the head has gone out."""
        return self._response is not None

    def begin(self, head: Head, extra: Mapping[str, str], *, streams: bool) -> None:
        """Take the head; nothing is sent yet. `extra` are headers of ours beside it."""
        self._head, self._extra, self._streams = head, extra, streams

    async def write(self, data: bytes) -> None:
        """Send or hold the next bytes of the body. Raises ClientLeft."""
        if not data:
            return
        if self._response is not None:
            await self._send(data)
            return
        self._held += data
        if self._streams or len(self._held) > self._hold_bytes:
            await self._commit(whole=False)

    async def end(self) -> None:
        """The body is complete. Raises ClientLeft."""
        if self._response is None:
            await self._commit(whole=True)
        assert self._response is not None
        try:
            await self._response.write_eof()
        except ConnectionError as error:
            raise ClientLeft from error

    def abort(self) -> None:
        """Close the connection short of the announced end: the one way to say that the body is not whole."""
        if self._request.transport is not None:
            self._request.transport.abort()

    @property
    def response(self) -> web.StreamResponse:
        """What the handler returns to aiohttp; committed by then."""
        assert self._response is not None
        return self._response

    async def _commit(self, *, whole: bool) -> None:
        headers = for_client(self._head.headers)
        headers.update(self._extra)
        if self._streams:  # a stream may get an error line that its announced length has no room for
            headers.popall("Content-Length", None)
        response = NodeResponse(status=self._head.status, reason=self._head.reason, headers=headers)
        was_chunked = self._head.header("transfer-encoding").lower() == "chunked"
        if "Content-Length" not in headers and self._request.method != "HEAD":
            if whole and not was_chunked and not self._streams:
                response.content_length = len(self._held)
            elif self._request.version >= (1, 1):
                response.enable_chunked_encoding()
        self._response = response
        self._exchange.streamed = self._streams
        try:
            await response.prepare(self._request)
        except ConnectionError as error:
            raise ClientLeft from error
        if self._held:
            await self._send(bytes(self._held))
            self._held.clear()

    async def _send(self, data: bytes) -> None:
        assert self._response is not None
        exchange = self._exchange
        if exchange.first_byte is None:
            exchange.first_byte = time.monotonic()
        try:
            await self._response.write(data)
        except ConnectionError as error:
            raise ClientLeft from error
        exchange.response_bytes += len(data)
