"""The HTTP server around the application: aiohttp's, with a strict parser, and answers of our own to what is malformed.

A head has to be complete in bounded time. A malformed request is counted, logged without a byte of it, answered in the
dialect of its path where that could be read, and its connection is closed. So is the connection of a request that is
answered before its body was read: what has not arrived of it is left unread.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any

from aiohttp import HttpVersion11, StreamReader, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage
from multidict import CIMultiDictProxy

from parallama.arrival import AWAITS_CONTINUE
from parallama.errors import ApiError, BadRequest
from parallama.exchange import IdGenerator
from parallama.gateway.api import Reply
from parallama.gateway.families import Mounted
from parallama.http_parser import Malformed, StrictParser
from parallama.proxy.middlewares import edge_reply
from parallama.proxy.mounts import METRICS, MOUNTED
from parallama.proxy.security import SECURITY

_log = logging.getLogger("parallama.error")

_MAX_LINE = 64 * 1024
"""Bytes of one header, or of the request line: a cookie or token may be longer than aiohttp's 8 KB."""
_QUIET_S = 1.0
"""Between two lines of the log about malformed requests."""
_LINGER_S = 1.0
"""How long a connection stays half open after an answer that came before the request had ended: closed at once, it
would be reset, and a client that is still sending might lose the answer."""


class _Refused(BadRequest):
    """What the client of a malformed request is told."""

    def __init__(self, fault: Malformed) -> None:
        super().__init__(fault.message)
        self.status = fault.code


class _Answer(web.Response):
    """An answer outside the application: its signals do not see it."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        self.headers.pop(hdrs.SERVER, None)


class Faults:
    """Counts, logs and answers malformed requests, for all connections of a server."""

    def __init__(self, app: web.Application) -> None:
        self._counter = app[METRICS].malformed
        self._mounted = _mounted(app)
        self._ids = IdGenerator()
        self._unsaid: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def count(self, kind: str) -> None:
        """Note one; the first is logged at once, then one line a second says how many of each kind there were."""
        self._counter.labels(kind).inc()
        self._unsaid[kind] += 1
        if self._timer is None:
            self._say()

    def _say(self) -> None:
        self._timer = None
        if self._unsaid:
            self._log_unsaid()
            self._timer = asyncio.get_running_loop().call_later(_QUIET_S, self._say)

    def _log_unsaid(self) -> None:
        if self._unsaid:
            _log.warning("malformed requests", extra={"fields": {"kinds": dict(self._unsaid)}})
            self._unsaid.clear()

    def close(self) -> None:
        """Log what has not been logged, and no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._log_unsaid()

    def answer(self, error: ApiError, path: str) -> web.Response:
        """The last answer of a connection, in the dialect of `path`."""
        reply = self._render(error, path)
        headers = {**reply.headers, **SECURITY, "x-request-id": str(self._ids()), hdrs.CONNECTION: "close"}
        answer = _Answer(status=reply.status, headers=headers, body=reply.body)
        answer.force_close()
        return answer

    def _render(self, error: ApiError, path: str) -> Reply:
        for mount, mounted in self._mounted:
            if path == mount or path.startswith(f"{mount}/"):
                return mounted.serving.gateway.render_error(error)
        return edge_reply(error)


def _mounted(app: web.Application) -> list[tuple[str, Mounted]]:
    """Every mount, the longest first; those that need a header are left out, since a malformed head has none."""
    found = []
    for resource in app.router.resources():
        info = resource.get_info()
        if "app" in info and (mounted := info["app"].get(MOUNTED)) and not mounted.serving.gateway.required_header:
            found.append((info["prefix"], mounted))
    return sorted(found, key=lambda one: len(one[0]), reverse=True)


class Connection(web.RequestHandler):
    """One client connection."""

    __slots__ = ("_faults", "_head_s", "_head_timer", "all_parsed")

    def __init__(self, server: Server, *, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(server, loop=loop, **options)
        self._faults, self._head_s = server.faults, server.head_s
        self._head_timer: asyncio.TimerHandle | None = None
        self.all_parsed = False
        self._parser = StrictParser(
            self,
            loop,
            self._read_bufsize,
            max_line_size=self.max_line_size,
            max_field_size=self.max_field_size,
            max_headers=self.max_headers,
            payload_exception=web.RequestPayloadError,
            auto_decompress=False,
            max_msg_queue_size=self._max_msg_queue_size,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; a client that says nothing gets as long as an idle one, if that is bounded by anything."""
        super().connection_made(transport)
        if not self._keepalive_timeout:
            self.head_begins()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End it."""
        self.head_ends()
        super().connection_lost(exc)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on reading; whoever takes a body asks for it, also where nobody has paused.

        The parser may hold something all the same: having been paused, it stops at the next piece of any body (aiohttp
        3.14), long after reading was resumed.
        """
        if self._reading_paused or self._buffer_paused or (resume_parser and not self.all_parsed):
            super().resume_reading(resume_parser)

    def head_begins(self) -> None:
        """The parser has a part of a head: the rest has to come in time."""
        if self._head_timer is None:
            self._head_timer = self._loop.call_later(self._head_s, self._head_late)

    def head_ends(self) -> None:
        """The parser has a whole head."""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        self._head_timer = None
        if self._waiter is None or self._waiter.done():  # it came behind a request that is still being answered
            self.head_begins()
            return
        self._faults.count("slow_head")
        self.force_close()

    def malformed(self, kind: str) -> None:
        """The parser takes nothing any more."""
        self._faults.count(kind)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a malformed request, or to a bug so far outside that no middleware has seen it.

        Raises ConnectionError when there has been an answer already.
        """
        if not isinstance(exc, Malformed):
            self.log_exception("bug", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("a part of another answer is out")
        if isinstance(exc, Malformed):
            return self._faults.answer(_Refused(exc), exc.path)
        return self._faults.answer(ApiError("internal error"), "")

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer; where the client may still be sending, close our side and give it a moment to read."""
        resp, reset = await super().finish_response(request, resp, start_time)
        unread = not request.content.is_eof() or isinstance(resp, _Answer)
        if unread and not reset and self.transport is not None:
            self.transport.write_eof()
            await asyncio.sleep(_LINGER_S)
        return resp, reset


class Server(web.Server):
    """Makes the connections."""

    def __init__(self, plain: web.Server, faults: Faults, head_s: float) -> None:
        self.faults, self.head_s = faults, head_s
        self._make_plain_request = plain.request_factory
        super().__init__(
            plain.request_handler,
            request_factory=self._make_request,
            handler_cancellation=plain.handler_cancellation,
            loop=plain._loop,
            **plain._kwargs,
        )

    def __call__(self) -> Connection:
        """A connection that a client has opened."""
        return Connection(self, loop=self._loop, **self._kwargs)

    def _make_request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        """A request; an expectation is taken out of its head, for aiohttp would meet it before anybody is asked, on
        paths that do not exist too."""
        if hdrs.EXPECT not in message.headers:
            return self._make_plain_request(message, payload, protocol, writer, task)
        headers = message.headers.copy()
        del headers[hdrs.EXPECT]
        message = message._replace(headers=CIMultiDictProxy(headers))
        request = self._make_plain_request(message, payload, protocol, writer, task)
        request[AWAITS_CONTINUE] = message.version == HttpVersion11
        return request


class Runner(web.AppRunner):
    """Runs the application on such a server."""

    def __init__(self, app: web.Application, *, head_s: float, keepalive_s: float, shutdown_s: float) -> None:
        super().__init__(
            app,
            handler_cancellation=True,  # off by default: a client that leaves would not stop its node
            shutdown_timeout=shutdown_s,
            keepalive_timeout=keepalive_s,
            lingering_time=0,  # aiohttp would read meanwhile: 192 MB after a 401 with its default of 10 s
            auto_decompress=False,
            max_line_size=_MAX_LINE,
            max_field_size=_MAX_LINE,
            access_log=None,
            logger=_log,
        )
        self._head_s = head_s
        self._faults: Faults | None = None

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()
        self._faults = Faults(self.app)
        return Server(plain, self._faults, self._head_s)

    async def setup(self) -> None:
        """Start the application; its server must be ours, though `_make_server` is a private name of aiohttp's."""
        await super().setup()
        assert isinstance(self.server, Server), "aiohttp makes its server in another way now"

    async def cleanup(self) -> None:
        """Close every connection and end the application."""
        await super().cleanup()
        if self._faults is not None:
            self._faults.close()
