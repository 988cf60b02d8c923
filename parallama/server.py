"""Runs the application: the listening socket, signals, readiness, the orderly stop.

A stop lets accepted requests finish: readiness falls, the socket closes, connections already accepted get a moment to
be read (aiohttp drops them otherwise), streams have `server.drain_s`, then records are flushed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from parallama.app import READINESS, RECORDER, build_app
from parallama.config import Settings
from parallama.errors import ConfigError

_log = logging.getLogger("parallama.gateway")
_error = logging.getLogger("parallama.error")

_BACKLOG = 4096
_ACCEPTED_S = 0.2
"""For connections that the kernel has accepted and nobody has read."""

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


def bind(host: str, port: int, remedy: str = "--port N") -> socket.socket:
    """A listening socket. Raises ConfigError, one line, for an address that cannot be had; `remedy` is what to do."""
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as error:
        why = "is taken" if error.errno == 98 else f"cannot be used ({error.strerror or error})"
        raise ConfigError(f"port {port} on {host} {why}; choose another: {remedy}") from None


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
        shutdown_timeout=settings.server.drain_s,
        keepalive_timeout=settings.server.keepalive_s,
        lingering_time=1,  # the default of 10 s swallowed 192 MB after a 401
        auto_decompress=False,
        access_log=None,
        logger=ServerLog(_error, {}),
    )


async def run(
    settings: Settings,
    database_url: str,
    listening: socket.socket,
    state: Path,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain. `on_ready` is called right before the first request is answered."""
    app = build_app(settings, database_url)
    runner = make_runner(app, settings)
    stop = asyncio.Event()
    _on_signals(stop, lambda: app[RECORDER].pending)
    try:
        await runner.setup()
        site = web.SockSite(runner, listening, backlog=_BACKLOG)
        on_ready()
        with _announced(state / STATE_FILE, _facts(settings, listening)):
            await site.start()
            _log.info("listening", extra={"fields": {"url": url_of(listening)}})
            await stop.wait()
            app[READINESS].draining = True
            _log.info("draining", extra={"fields": {"drain_s": settings.server.drain_s}})
            await site.stop()
            await asyncio.sleep(_ACCEPTED_S)
    finally:
        await runner.cleanup()
        _log.info("stopped")


def _on_signals(stop: asyncio.Event, pending: Callable[[], int]) -> None:
    """The first signal asks for the orderly stop, the second ends the process at once."""

    def received(name: str) -> None:
        if stop.is_set():
            os.write(2, f"stopped at once by {name}: {pending()} usage records lost\n".encode())
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
