"""The control socket: where the command line asks a running server what only that server knows.

`control.sock` in the state directory; its mode, 0600, is all that guards it. Whoever asks here is no client: nothing is
counted, and a stop waits for nobody.
"""

from __future__ import annotations

import asyncio
import errno
import http.client
import json
import logging
import os
import socket
import stat
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import web
from prometheus_client.metrics import MetricWrapperBase

from parallama.admin.state import Handler
from parallama.errors import ConfigError, Unavailable
from parallama.exchange import Outcome
from parallama.gateway.families import Families
from parallama.metrics import Metrics
from parallama.traffic import WINDOW_S, Traffic

SOCKET_FILE = "control.sock"

_MODE = 0o600
_CUT_S = 0.1
"""For who is still asking when the server stops."""
_ANSWER_S = 10.0

_log = logging.getLogger("parallama.error")


def control_app(handlers: Mapping[str, Handler]) -> web.Application:
    """What is answered on the socket: each path's handler, for GET."""
    app = web.Application()
    app.add_routes([web.get(path, handler) for path, handler in handlers.items()])
    return app


def figures(metrics: Metrics, traffic: Traffic, settle: Callable[[], None]) -> Callable[[str], dict[str, float | None]]:
    """What there is to tell of a gateway family: counts since the start of the server, rate and latency over the last
    `WINDOW_S` seconds. `settle` counts what has ended and is not counted yet."""

    def figures(gateway: str) -> dict[str, float | None]:
        settle()
        return _figures(gateway, metrics, traffic, time.monotonic())

    return figures


def gateway_metrics(families: Families, metrics: Metrics, traffic: Traffic, settle: Callable[[], None]) -> Handler:
    """`{window_s, gateways: {<family>: figures}}`."""
    told = figures(metrics, traffic, settle)

    async def gateway_metrics(_request: web.Request) -> web.Response:
        report = {family.name: told(family.name) for family in families}
        return web.json_response({"window_s": WINDOW_S, "gateways": report})

    return gateway_metrics


def _figures(gateway: str, metrics: Metrics, traffic: Traffic, now: float) -> dict[str, float | None]:
    outcomes = _totals(metrics.requests, gateway, "outcome")
    tokens = _totals(metrics.tokens, gateway, "kind")
    latency_s = traffic.latency_s(gateway, now)
    return {
        "requests": outcomes.total(),
        **{outcome.value: outcomes[outcome.value] for outcome in Outcome},
        "prompt_tokens": tokens["prompt"],
        "output_tokens": tokens["output"],
        "context_full": _totals(metrics.context_full, gateway, "gateway").total(),
        "in_flight": _totals(metrics.in_flight, gateway, "gateway").total(),
        "requests_per_second": round(traffic.requests_per_second(gateway, now), 3),
        "first_byte_ms": None if latency_s is None else round(latency_s * 1000, 3),
    }


def _totals(instrument: MetricWrapperBase, gateway: str, label: str) -> Counter[str]:
    """What the instrument says of `gateway`, by the values of `label`."""
    totals: Counter[str] = Counter()
    for sample in (sample for family in instrument.collect() for sample in family.samples):
        if sample.labels["gateway"] == gateway and not sample.name.endswith("_created"):
            totals[sample.labels[label]] += int(sample.value)
    return totals


@asynccontextmanager
async def serving(app: web.Application, state: Path) -> AsyncIterator[None]:
    """Answer on the socket in the state directory, which must be this server's alone. Raises ConfigError when the
    socket cannot be made."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CUT_S, logger=_log)
    with _bound(state) as bound:
        await runner.setup()
        try:
            assert runner.server is not None
            server = await asyncio.get_running_loop().create_unix_server(runner.server, sock=bound)
            try:
                yield
            finally:
                server.close()
        finally:
            await runner.cleanup()


@contextmanager
def _bound(state: Path) -> Iterator[socket.socket]:
    """The socket, which does not listen yet, in place of what a killed server has left; removed at the end."""
    directory = os.open(state, os.O_PATH | os.O_DIRECTORY)
    try:
        _remove(directory)
        with socket.socket(socket.AF_UNIX) as bound:
            _bind(bound, directory, state / SOCKET_FILE)
            try:
                _check_mode(directory, state / SOCKET_FILE)
                yield bound
            finally:
                _remove(directory)
    finally:
        os.close(directory)


def _bind(bound: socket.socket, directory: int, path: Path) -> None:
    before = os.umask(0o777 & ~_MODE)
    try:
        bound.bind(f"/proc/self/fd/{directory}/{SOCKET_FILE}")  # the whole path may have more than 107 bytes
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "something that is no socket is in its place; remove it" if taken else error.strerror
        raise ConfigError(f"{path}: the control socket cannot be made: {why}") from None
    finally:
        os.umask(before)


def _check_mode(directory: int, path: Path) -> None:
    mode = stat.S_IMODE(os.stat(SOCKET_FILE, dir_fd=directory, follow_symlinks=False).st_mode)
    if mode != _MODE:
        raise ConfigError(f"{path} has mode {mode:04o}, its file system keeps no modes; choose another: --data DIR")


def _remove(directory: int) -> None:
    """Remove the socket; whatever is none stays where it is."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(SOCKET_FILE, dir_fd=directory, follow_symlinks=False).st_mode):
            os.unlink(SOCKET_FILE, dir_fd=directory)


class NotRunning(Unavailable):
    """No server runs on the state directory."""


def asked(state: Path, path: str) -> Any:
    """The JSON document that the server on this state directory has at `path`. Blocks. Raises NotRunning when there is
    none, and Unavailable when it does not answer."""
    with _connected(state) as connection:
        client = http.client.HTTPConnection("control")
        client.sock = connection
        try:
            client.request("GET", path)
            answer = client.getresponse()
            if answer.status == 200:
                return json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            pass
    raise Unavailable(f"the server on {state} does not answer")


@contextmanager
def _connected(state: Path) -> Iterator[socket.socket]:
    try:
        found = os.open(state / SOCKET_FILE, os.O_PATH | os.O_NOFOLLOW)
    except OSError as error:
        raise _unreachable(state, error) from None
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_S)
        try:
            if not stat.S_ISSOCK(os.fstat(found).st_mode):
                raise Unavailable(f"{state / SOCKET_FILE} is no socket")
            connection.connect(f"/proc/self/fd/{found}")
        except OSError as error:
            raise _unreachable(state, error) from None
        finally:
            os.close(found)
        yield connection


def _unreachable(state: Path, error: OSError) -> Unavailable:
    if isinstance(error, PermissionError):
        return Unavailable(f"{state / SOCKET_FILE} is closed to you: ask as the user whose server it is")
    if isinstance(error, (FileNotFoundError, NotADirectoryError, ConnectionRefusedError)):
        return NotRunning(f"no server runs on {state}: these figures are its own")
    return Unavailable(f"{state / SOCKET_FILE}: {error.strerror or error}")
