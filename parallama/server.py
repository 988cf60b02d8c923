"""Runs the application: the listening socket, signals, readiness, the orderly stop.

A stop lets accepted requests finish: readiness falls, the socket closes, connections already accepted get a moment to
be read (aiohttp drops them otherwise), requests have `server.drain_s` to end, then records are flushed. Until they have
ended, connections that are kept alive are answered once more and then closed.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from parallama.admin.state import Readiness
from parallama.app import READINESS, RECORDER, build_app
from parallama.config import Settings
from parallama.errors import ConfigError

_log = logging.getLogger("parallama.gateway")
_error = logging.getLogger("parallama.error")

_BACKLOG = 4096
_MAX_HEADER = 64 * 1024
"""Bytes of one header, or of the request line: a cookie or token may be longer than aiohttp's 8 KB."""
_ACCEPTED_S = 0.2
"""For connections that the kernel has accepted and nobody has read."""
_CUT_S = 0.1
"""aiohttp waits so long twice for what the drain has not ended, then cancels it; 0 would wait for ever."""

STATE_FILE = "server.json"
"""In the state directory while a server runs there: its pid, URL and nodes."""


class ServerLog(logging.LoggerAdapter[logging.Logger]):
    """What aiohttp has to say: one line for a malformed request, without a byte of it."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        fault = kwargs.get("exc_info")
        if isinstance(fault, HttpProcessingError):
            self.logger.warning("malformed request", extra={"fields": {"kind": type(fault).__name__}})
        else:
            self.logger.log(level, msg, *args, **kwargs)


class InFlight:
    """The requests that are being answered, of every path."""

    def __init__(self) -> None:
        self.count = 0
        self._none = asyncio.Event()
        self._none.set()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """An aiohttp middleware; to be the outermost."""
        self.count += 1
        self._none.clear()
        try:
            return await handler(request)
        finally:
            self.count -= 1
            if not self.count:
                self._none.set()

    async def end(self, limit_s: float) -> None:
        """Wait until there are none, at most `limit_s` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._none.wait()


def bind(host: str, port: int, remedy: str = "{}") -> socket.socket:
    """A listening socket. Raises ConfigError, one line, for an address that cannot be had.

    `remedy` is the command that takes the option in place of its `{}`.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port} on {host} is taken; choose another: {remedy.format('--port N')}") from None
        option = "--port N" if error.errno == errno.EACCES else "--host ADDRESS"
        why = error.strerror or str(error)
    except ValueError:  # a name that the codec of host names refuses
        option, why = "--host ADDRESS", "no address"
    raise ConfigError(f"cannot listen on port {port} of {host!r} ({why}); choose another: {remedy.format(option)}")


def url_of(listening: socket.socket) -> str:
    """Where a client on this machine finds the socket."""
    host, port = listening.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{port}"


def make_runner(app: web.Application, settings: Settings) -> web.AppRunner:
    """The aiohttp server around the application."""
    return web.AppRunner(
        app,
        handler_cancellation=True,  # off by default: a client that leaves would not stop its node
        shutdown_timeout=_CUT_S,
        keepalive_timeout=settings.server.keepalive_s,
        lingering_time=1,  # the default of 10 s swallowed 192 MB after a 401
        auto_decompress=False,
        max_line_size=_MAX_HEADER,
        max_field_size=_MAX_HEADER,
        access_log=None,
        logger=ServerLog(_error, {}),
    )


async def run(settings: Settings, database_url: str, listening: socket.socket, state: Path) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    app = build_app(settings, database_url)
    readiness, requests, stop = app[READINESS], InFlight(), asyncio.Event()
    app.middlewares.insert(0, requests.middleware)
    app.on_response_prepare.append(_closing(readiness))
    runner = make_runner(app, settings)
    _on_signals(stop, lambda: (requests.count, app[RECORDER].pending))
    try:
        await runner.setup()
        site = web.SockSite(runner, listening, backlog=_BACKLOG)
        with _announced(state / STATE_FILE, _facts(settings, listening)):
            await site.start()
            _log.info("listening", extra={"fields": {"url": url_of(listening)}})
            await stop.wait()
            readiness.draining = True
            _log.info("draining", extra={"fields": {"requests": requests.count, "drain_s": settings.server.drain_s}})
            await site.stop()
            await asyncio.sleep(_ACCEPTED_S)
            await requests.end(settings.server.drain_s)
            readiness.over = True
    finally:
        await runner.cleanup()
        _log.info("stopped")


def _closing(readiness: Readiness) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """An aiohttp `on_response_prepare` signal: while draining, each answer is the last one of its connection."""

    async def close(_request: web.Request, response: web.StreamResponse) -> None:
        if readiness.draining:
            response.force_close()
            response.headers["Connection"] = "close"

    return close


def _on_signals(stop: asyncio.Event, unfinished: Callable[[], tuple[int, int]]) -> None:
    """The first signal asks for the orderly stop, the second ends the process at once.

    `unfinished` counts the requests under way and the usage records not yet written.
    """

    def received(name: str) -> None:
        if stop.is_set():
            requests, records = unfinished()
            line = f"stopped at once by {name}: {requests} requests cut off, {records} usage records lost\n"
            os.write(2, line.encode())
            os._exit(1)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received, number.name)


def _facts(settings: Settings, listening: socket.socket) -> Mapping[str, object]:
    nodes = [{"name": node.name, "url": node.url} for node in settings.nodes]
    return {"pid": os.getpid(), "url": url_of(listening), "nodes": nodes}


@contextmanager
def _announced(path: Path, facts: Mapping[str, object]) -> Iterator[None]:
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(facts), "utf-8")
    draft.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
