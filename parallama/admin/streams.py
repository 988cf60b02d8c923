"""Answers that are sent while they are made. Who reads too slowly is cut off: a stream would hold up the end of the
process.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

from aiohttp import web

from parallama.admin.api import Streamed
from parallama.errors import ApiError
from parallama.nodes.connection import reset_on_close

_WRITE_S = 30.0
"""In which a part must be taken."""

_log = logging.getLogger("parallama.api")


async def stream(request: web.Request, answer: Streamed) -> web.StreamResponse:
    """Send it. Raises what its first part raises; what fails later breaks the connection, so that nobody takes what
    they have for the whole."""
    async with aclosing(answer.parts) as parts:
        first = await anext(parts)
        response = _head(answer)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        try:
            await _write(response, first)
            async for part in parts:
                await _write(response, part)
        except (ApiError, TimeoutError, ConnectionError) as error:
            _log.warning("stream cut off", extra={"fields": {"path": request.path, "error": type(error).__name__}})
            _break_off(request)
        except BaseException:
            _break_off(request)
            raise
    return response


def _break_off(request: web.Request) -> None:
    """Reset the connection: to a client of HTTP/1.0 an orderly end would say that this was all."""
    transport = request.transport
    if transport is not None and not transport.is_closing():
        reset_on_close(transport)
        transport.abort()


def _head(answer: Streamed) -> web.StreamResponse:
    named = f'attachment; filename="{answer.name}"'
    response = web.StreamResponse(headers={"Cache-Control": "no-store", "Content-Disposition": named})
    response.content_type = answer.media
    if answer.media.startswith("text/"):
        response.charset = "utf-8"
    return response


async def _write(response: web.StreamResponse, part: bytes) -> None:
    async with asyncio.timeout(_WRITE_S):
        await response.write(part)
