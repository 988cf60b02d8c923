"""The one HTTP client: sends a request to a node and gives its answer back as a head and a body that comes.

Whatever goes wrong with the node is an UpstreamFailed or a TimedOut.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from math import inf
from urllib.parse import quote, urlsplit

from parallama.config import NodeSettings
from parallama.errors import TimedOut, UpstreamFailed
from parallama.nodes.answer import NodeAnswer
from parallama.nodes.connection import Connection
from parallama.nodes.source import Limits
from parallama.version import __version__

_visible = re.compile("[!-~]*").fullmatch
_forbidden = re.compile("[\0\r\n]").search
_RESERVED = "!#$%&'()*+,/:;=?@[]~"
"""What a path may hold beside letters, digits and `-._` (RFC 3986 section 2)."""
_LOOK_S = 0.5
"""Most seconds by which a timeout is late."""
_KEEPALIVE_S = 75.0
"""An idle connection is used again for so long."""


class Upstream:
    """A pool of connections to one node. Usable inside `running()`."""

    def __init__(self, settings: NodeSettings) -> None:
        url = urlsplit(settings.url)
        self._settings = settings
        self._host = url.hostname or ""
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._prefix = quote(url.path, safe=_RESERVED)
        self._common = f" HTTP/1.1\r\nHost: {url.netloc}\r\nUser-Agent: parallama/{__version__}\r\n"
        self._limits = Limits(settings.first_byte_s, settings.idle_s, settings.total_s or None)
        self._free = asyncio.Semaphore(settings.max_connections) if settings.max_connections else None
        self._idle: deque[Connection] = deque()
        self._connections: set[Connection] = set()
        self._running = False
        self._stopped: Exception | None = None
        self._loop: asyncio.AbstractEventLoop

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Allow requests; close every connection on leaving."""
        self._loop = asyncio.get_running_loop()
        self._running, self._stopped = True, None
        watch = self._loop.create_task(self._watch(), name=f"timeouts of {self._settings.name}")
        try:
            yield
        finally:
            self._running = False
            watch.cancel()
            for connection in tuple(self._connections):
                connection.close()
            await asyncio.wait([watch])
        if not watch.cancelled():
            watch.result()

    def stop(self, error: Exception) -> None:
        """End every exchange under way with `error`, also those that wait for a connection."""
        self._stopped = error
        for connection in tuple(self._connections):
            connection.fail(error)

    async def _watch(self) -> None:
        """End the exchanges for which the node takes too long, and connections that nobody needs: a timer for each
        of them would cost more."""
        shortest = min(self._limits.first_byte_s, self._limits.idle_s, self._limits.total_s or inf)
        while True:
            await asyncio.sleep(min(_LOOK_S, shortest / 8))
            now = self._loop.time()
            for connection in tuple(self._connections):
                connection.look(now)
            while self._idle and self._idle[0].idle_since < now - _KEEPALIVE_S:
                self._idle.popleft().close()

    async def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | AsyncIterable[bytes] | None = None,
        *,
        await_continue: bool = False,
        limit_s: float | None = None,
        beside: bool = False,
        asking: Callable[[], None] | None = None,
    ) -> NodeAnswer:
        """Send one request; the answer, its head known, is to be left as a context (`with`) when it is done with.

        `path` is percent-encoded and begins with a slash; a body that is piped has its Content-Length in `headers`, or
        is chunked. With `await_continue` the body is asked for only when the node says 100 Continue (RFC 9110 section
        10.1.1); its final answer may come instead. `limit_s` bounds the whole. With `beside` it does not count among
        `max_connections`: a node whose connections are all in use can still be looked at. `asking` is called
        once there is a connection, just before the node gets anything. Leaving the context before the body's end closes
        the connection, which is how a node is told to stop.
        """
        if not self._running:
            raise RuntimeError("the upstream is not running")
        limits = self._limits if limit_s is None else replace(self._limits, total_s=limit_s)
        whole, piped = (body or b"", None) if body is None or isinstance(body, bytes) else (None, body)
        chunked = piped is not None and "Content-Length" not in headers
        head = self._head(method, path, headers, _framing(method, whole, chunked, await_continue))
        started = self._loop.time()
        connection = await self._acquire(started + (limits.total_s or inf), None if beside else self._free)
        if asking is not None:
            try:
                asking()
            except BaseException:  # nothing went out on it
                self._take_back(connection, usable=True)
                raise
        answer = connection.ask(method, head, whole, limits, started)
        try:
            if piped is not None:
                connection.upload(piped, chunked=chunked, limits=limits, await_continue=await_continue)
            await answer.begin()
            if 300 <= answer.head.status < 400:
                raise UpstreamFailed("the node answered a redirect")
        except BaseException:
            answer.close()
            raise
        return answer

    def _head(self, method: str, path: str, headers: Mapping[str, str], framing: str) -> bytes:
        if _forbidden("".join([*headers, *headers.values()])):
            raise ValueError("a header holds what no header may hold")
        lines = ""
        for name, value in headers.items():
            lines += f"{name}: {value}\r\n"
        if not _visible(path):
            path = quote(path, safe=_RESERVED, errors="surrogateescape")
        # header values come in as latin-1 with surrogates for what was not (PEP 383), and leave as the same bytes
        return f"{method} {self._prefix}{path}{self._common}{lines}{framing}\r\n".encode("utf-8", "surrogateescape")

    async def _acquire(self, deadline: float, free: asyncio.Semaphore | None) -> Connection:
        """A connection that is nobody else's; given back by `_take_back`. `deadline` is the event loop's time."""
        if free is not None:
            await self._turn(free, min(deadline, self._loop.time() + self._limits.first_byte_s))
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                connection.counted = free is not None
                return connection
        try:
            connection = await self._connect(min(deadline, self._loop.time() + self._settings.connect_s))
        except BaseException:
            if free is not None:
                free.release()
            raise
        connection.counted = free is not None
        return connection

    async def _turn(self, free: asyncio.Semaphore, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await free.acquire()
        except TimeoutError:
            raise TimedOut("every connection to the node is in use") from None
        if self._stopped is not None:  # who was served has just given it back
            free.release()
            raise self._stopped

    async def _connect(self, deadline: float) -> Connection:
        try:
            async with asyncio.timeout_at(deadline):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self._take_back, self._forget), self._host, self._port, ssl=self._tls
                )
        except TimeoutError as error:
            raise TimedOut("the node did not accept a connection in time") from error
        except ssl.SSLCertVerificationError as error:
            raise UpstreamFailed("the node's certificate is not trusted") from error
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that the resolver does not take
            raise UpstreamFailed("the node refused the connection") from error
        if not connection.open:  # it would never hear again that it is closed
            raise UpstreamFailed("the node closed the connection without an answer")
        self._connections.add(connection)
        return connection

    def _take_back(self, connection: Connection, *, usable: bool) -> None:
        if self._free is not None and connection.counted:
            self._free.release()
        if not usable:
            return
        connection.idle_since = self._loop.time()
        self._idle.append(connection)

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)


def _framing(method: str, whole: bytes | None, chunked: bool, await_continue: bool) -> str:
    """The headers that say how the request's body comes."""
    if whole is not None:
        return f"Content-Length: {len(whole)}\r\n" if whole or method == "POST" else ""
    expect = "Expect: 100-continue\r\n" if await_continue else ""
    return expect + ("Transfer-Encoding: chunked\r\n" if chunked else "")
