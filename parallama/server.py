"""Runs the application: the listening socket, the control socket, signals, readiness, the orderly stop.

A stop lets what was accepted finish: readiness falls, `drain` has `server.drain_s`, what is left is cut off, records
are flushed. While it drains, each answer is the last one of its connection.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import SecretStr

from parallama.admin import control
from parallama.admin.state import Readiness
from parallama.app import BOOKS, CONTROL, POOL, READINESS, SHIPPER, build_app
from parallama.config import Settings
from parallama.drain import InFlight, drain
from parallama.errors import ConfigError
from parallama.http_server import Runner
from parallama.identity.signing import signing_secret

_log = logging.getLogger("parallama.gateway")

_BACKLOG = 4096
_CUT_S = 0.1
"""aiohttp waits so long twice for what the drain has not ended, then cancels it; 0 would wait for ever."""

STATE_FILE = "server.json"
"""In the state directory while a server runs there: its pid, URL and nodes."""


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
    """The HTTP server around the application."""
    server = settings.server
    return Runner(app, head_s=server.head_s, keepalive_s=server.keepalive_s, shutdown_s=_CUT_S)


async def run(settings: Settings, database_url: str, listening: socket.socket, state: Path) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Usage that the database does not take then waits in the journal."""
    secret = SecretStr(signing_secret(settings.auth, state))
    settings = settings.model_copy(update={"auth": settings.auth.model_copy(update={"jwt_secret": secret})})
    app = build_app(settings, database_url, state)
    readiness, requests, stop = app[READINESS], InFlight(), asyncio.Event()
    app.middlewares.insert(0, requests.middleware)
    runner = make_runner(app, settings)
    _on_signals(readiness, stop, lambda: _unfinished(app, requests))
    try:
        await runner.setup()
        site = web.SockSite(runner, listening, backlog=_BACKLOG)
        async with _reachable(state, _facts(settings, listening), app[CONTROL]):
            _rarely_collect()
            await site.start()
            _log.info("listening", extra={"fields": {"url": url_of(listening)}})
            await stop.wait()
            drain_s = settings.server.drain_s
            _log.info("draining", extra={"fields": {"requests": requests.count, "drain_s": drain_s}})
            assert runner.server is not None
            await _within(drain_s, drain(site, listening, runner.server, requests))
            readiness.over = True
            if cut := await requests.cut(app[POOL].stop):
                _log.warning("drain over", extra={"fields": {"requests_cut": cut}})
    finally:
        await runner.cleanup()
        _log.info("stopped", extra={"fields": {"records_pending": app[SHIPPER].pending}})


def _unfinished(app: web.Application, requests: InFlight) -> tuple[int, int]:
    app[BOOKS].settle()
    return requests.count, app[SHIPPER].pending


def _rarely_collect() -> None:
    """Leave what the start has made out of garbage collections, and collect less often.

    Nearly all of a request's objects go when their last reference does; looking for cycles among them took 7 % of its
    CPU time with Python's own thresholds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _within(limit_s: float, work: Coroutine[Any, Any, None]) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await work


def _on_signals(readiness: Readiness, stop: asyncio.Event, unfinished: Callable[[], tuple[int, int]]) -> None:
    """The first signal asks for the orderly stop, the second ends the process at once.

    `unfinished` counts the requests under way and the usage records not yet written.
    """

    def received(name: str) -> None:
        if stop.is_set():
            requests, records = unfinished()
            left = f"{requests} requests cut off, {records} usage records wait in the journal"
            line = f"stopped at once by {name}: {left}\n"
            for handler in logging.getLogger().handlers:
                handler.flush()
            os.write(2, line.encode())
            os._exit(1)
        readiness.draining = True
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received, number.name)


def _facts(settings: Settings, listening: socket.socket) -> Mapping[str, object]:
    nodes = [{"name": node.name, "url": node.url} for node in settings.nodes]
    return {"pid": os.getpid(), "url": url_of(listening), "nodes": nodes}


@asynccontextmanager
async def _reachable(state: Path, facts: Mapping[str, object], answers: web.Application) -> AsyncIterator[None]:
    """Tell in the state directory of the server, and let the commands ask it there."""
    with _announced(state / STATE_FILE, facts):
        async with control.serving(answers, state):
            yield


@contextmanager
def _announced(path: Path, facts: Mapping[str, object]) -> Iterator[None]:
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(facts), "utf-8")
    draft.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
