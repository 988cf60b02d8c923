"""The request's body on its way in: read whole within bounds, or piped on as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from parallama.errors import BadRequest, BodyTooLarge, ClientLeft
from parallama.exchange import Exchange


async def hold_continue(request: web.Request) -> None:
    """An aiohttp `expect_handler` that says nothing: whoever reads the body sends 100 Continue first."""


class InboundBody:
    """The body of one request; read at most once."""

    def __init__(self, request: web.Request, exchange: Exchange, silence_s: float) -> None:
        self._request = request
        self._exchange = exchange
        self._silence_s = silence_s

    @property
    def length(self) -> int | None:
        """The announced length in bytes; None for a chunked body."""
        return self._request.content_length

    @property
    def awaits_continue(self) -> bool:
        """Whether the client sends the body only after a 100 Continue (RFC 9110 section 10.1.1)."""
        expect = self._request.headers.get("Expect", "")
        return expect.lower() == "100-continue" and self._request.version >= (1, 1)

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises BodyTooLarge over `limit` bytes (at once when it is announced so), BadRequest when
        it stalls or its framing is broken."""
        if (self.length or 0) > limit:
            raise _too_large(limit)
        body = bytearray()
        async for chunk in self:
            body += chunk
            if len(body) > limit:
                raise _too_large(limit)
        return bytes(body)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The bytes as they come; asks for them first where the client waits to be asked."""
        if self.awaits_continue:
            await self._continue()
        while chunk := await self._next():
            self._exchange.request_bytes += len(chunk)
            yield chunk

    async def _next(self) -> bytes:
        try:
            async with asyncio.timeout(self._silence_s):
                return await self._request.content.readany()
        except TimeoutError:
            raise BadRequest("the request body did not arrive in time") from None
        except web.RequestPayloadError:
            raise BadRequest("the request body is not framed as its head says") from None
        except ConnectionError as error:
            raise ClientLeft from error

    async def _continue(self) -> None:
        writer = self._request.writer
        try:
            await writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        except ConnectionError as error:
            raise ClientLeft from error
        writer.output_size = 0  # an interim answer is no part of the final one


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the request body is larger than {limit // (1024 * 1024)} MB")
