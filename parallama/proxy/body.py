"""The request's body on its way in: read whole within bounds, or piped on as it comes.

A client has to bring it in time: no silence is longer than `relay.body_s`, and on the whole the body keeps up with
`relay.body_min_kb_s`. Only the time that is spent waiting for the client counts, not what a node takes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

from aiohttp import web

from parallama.arrival import ask_for_body, awaits_continue
from parallama.errors import BadRequest, BodyTooLarge, ClientLeft
from parallama.exchange import Exchange


class Patience(NamedTuple):
    """How long a body may take, as the settings have it."""

    silence_s: float
    """`relay.body_s`."""
    min_kb_s: float
    """`relay.body_min_kb_s`."""
    total_s: float
    """`relay.body_total_s`, for one that is read whole."""


class InboundBody:
    """The body of one request; read at most once."""

    def __init__(self, request: web.Request, exchange: Exchange, patience: Patience) -> None:
        self._request = request
        self._exchange = exchange
        self._patience = patience
        self._waited_s = 0.0

    @property
    def length(self) -> int | None:
        """The announced length in bytes; None for a chunked body."""
        return self._request.content_length

    @property
    def awaits_continue(self) -> bool:
        """Whether the client waits to be asked for the body."""
        return awaits_continue(self._request)

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises BodyTooLarge over `limit` bytes (at once when it is announced so), BadRequest when
        it comes too slowly or its framing is broken."""
        if (self.length or 0) > limit:
            raise _too_large(limit)
        if self._request.content.is_eof():
            return self._take(limit)
        parts, size = [], 0
        await self._ask()
        while chunk := await self._next(self._patience.total_s):
            parts.append(chunk)
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
        return b"".join(parts)

    def _take(self, limit: int) -> bytes:
        """All of it: it is here already."""
        body = self._request.content.read_nowait()
        self._exchange.request_bytes += len(body)
        if len(body) > limit:
            raise _too_large(limit)
        return body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The bytes as they come, for as long as it takes; asks for them first where the client waits for that."""
        await self._ask()
        while chunk := await self._next(total_s=0.0):
            yield chunk

    async def _next(self, total_s: float) -> bytes:
        begun = time.monotonic()
        try:
            async with asyncio.timeout(self._patience_s(total_s)):
                chunk = await self._request.content.readany()
        except TimeoutError:
            raise BadRequest("the request body did not arrive in time") from None
        except web.RequestPayloadError:
            raise BadRequest("the request body is not framed as its head says") from None
        except ConnectionError as error:
            raise ClientLeft from error
        finally:
            self._waited_s += time.monotonic() - begun
        self._exchange.request_bytes += len(chunk)
        return chunk

    def _patience_s(self, total_s: float) -> float:
        """How many seconds the next bytes may take; at most 0 when it has been slow for too long."""
        patience_s = silence_s = self._patience.silence_s
        if min_kb_s := self._patience.min_kb_s:
            earned_s = self._exchange.request_bytes / (min_kb_s * 1024)
            patience_s = min(patience_s, silence_s + earned_s - self._waited_s)
        return min(patience_s, total_s - self._waited_s) if total_s else patience_s

    async def _ask(self) -> None:
        try:
            await ask_for_body(self._request)
        except ConnectionError as error:
            raise ClientLeft from error


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the request body is larger than {limit // (1024 * 1024)} MB")
