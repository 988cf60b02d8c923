"""Redis: whether it answers, and a connection that sends together what is asked together.

All that is asked within one turn of the event loop leaves in one write. Answers come in the order of the questions.
Nothing is sent twice: who has lost a connection knows best what to ask again.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any, cast

from hiredis import HiredisError, Reader, pack_command
from redis.asyncio import Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from parallama.errors import ConfigError, Unavailable

_LIMIT_S = 1.0
_OPTIONS = {"connection_class", "db", "host", "password", "path", "port", "ssl_ca_certs", "username"}

Word = str | bytes | int | float
Options = Mapping[str, Any]
"""Of a connection."""


def script(*names: str) -> str:
    """The Lua of `scripts/<name>.lua`, one after the other."""
    files = resources.files("parallama.db.scripts")
    return "\n".join(files.joinpath(f"{name}.lua").read_text("utf-8") for name in names)


def packed(*words: Word) -> bytes:
    """A command in the form of the protocol: `*`, the number of its words, and each as `$`, its length, and itself."""
    return pack_command(words)  # type: ignore[no-any-return, arg-type]  # it takes numbers too


async def ping(url: str) -> None:
    """Ask the Redis at `url` for a sign of life. Raises Unavailable after a second, ConfigError for a bad URL."""
    try:
        # redis-py's own limits and retries wait 30 s and more for a server that hangs
        retry = Retry(NoBackoff(), 0)
        client = Redis.from_url(url, socket_timeout=_LIMIT_S, socket_connect_timeout=_LIMIT_S, retry=retry)
    except ValueError as error:
        raise _bad_url() from error
    try:
        async with asyncio.timeout(_LIMIT_S):
            await client.ping()
    except TimeoutError as error:
        raise Unavailable(f"Redis does not answer within {_LIMIT_S:g} s") from error
    except (RedisError, OSError) as error:
        raise Unavailable(f"Redis does not answer: {error}") from error
    finally:
        await client.aclose()


class Connection(asyncio.Protocol):
    """One connection, in RESP2. Made by `connected`."""

    def __init__(self) -> None:
        self._reader = Reader()
        self._asked: deque[asyncio.Future[Any]] = deque()
        self._out: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None

    def ask(self, *words: Word) -> asyncio.Future[Any]:
        """Send a command. Its answer, or Unavailable for an error and for a connection that breaks off; who does not
        want it any more cancels it. Never raises itself."""
        return self.send(packed(*words))

    def send(self, command: bytes) -> asyncio.Future[Any]:
        """As `ask`, for a command that is packed."""
        answer = self._loop.create_future()
        if self._transport is None:
            answer.set_exception(Unavailable("Redis is not connected"))
            return answer
        out = self._out
        if not out:
            self._loop.call_soon(self._flush)
        out.append(command)
        self._asked.append(answer)
        return answer

    def abort(self) -> None:
        """Close it at once; what was asked has no answer."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio.Protocol says."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has other bases

    def data_received(self, data: bytes) -> None:
        """As asyncio.Protocol says."""
        reader = self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                self._answer(reply)
        except (HiredisError, IndexError):  # nonsense, or answers that nobody asked for
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio.Protocol says."""
        self._transport = None
        while self._asked:
            self._answer(Unavailable("Redis has closed the connection"))

    def _answer(self, reply: object) -> None:
        answer = self._asked.popleft()
        if answer.done():
            return
        if isinstance(reply, Exception):
            answer.set_exception(Unavailable(f"Redis: {reply}"))
        else:
            answer.set_result(reply)

    def _flush(self) -> None:
        if self._transport is not None:
            self._transport.write(b"".join(self._out))
        self._out.clear()


@asynccontextmanager
async def connected(options: Options) -> AsyncIterator[Connection]:
    """A connection, logged in. Raises Unavailable after a second."""
    connection: Connection | None = None
    try:
        try:
            async with asyncio.timeout(_LIMIT_S):
                connection = await _connect(options)
                await _log_in(connection, options)
        except TimeoutError as error:
            raise Unavailable(f"Redis does not answer within {_LIMIT_S:g} s") from error
        except OSError as error:
            raise Unavailable(f"Redis does not answer: {error}") from error
        yield connection
    finally:
        if connection is not None:
            connection.abort()


async def _connect(options: Options) -> Connection:
    loop = asyncio.get_running_loop()
    if (path := options.get("path")) is not None:
        _, connection = await loop.create_unix_connection(Connection, path)
    else:
        host, port = options.get("host", "localhost"), options.get("port", 6379)
        _, connection = await loop.create_connection(Connection, host, port, ssl=_tls(options))
    return connection


async def _log_in(connection: Connection, options: Options) -> None:
    if password := options.get("password"):
        await connection.ask("AUTH", options.get("username") or "default", password)
    await connection.ask("SELECT", options.get("db", 0))


def _tls(options: Options) -> ssl.SSLContext | None:
    if not options["connection_class"].__name__.startswith("SSL"):
        return None
    return ssl.create_default_context(cafile=options.get("ssl_ca_certs"))


def options_of(url: str) -> Options:
    """How to connect, as redis-py reads it. Raises ConfigError."""
    try:
        options: Options = {"connection_class": type(None), **parse_url(url)}
    except ValueError as error:
        raise _bad_url() from error
    if unknown := options.keys() - _OPTIONS:
        raise ConfigError(f"`redis.url` has options that are not known here: {', '.join(sorted(unknown))}")
    return options


def _bad_url() -> ConfigError:
    return ConfigError("`redis.url` cannot be used: it must be redis://, rediss:// or unix://")
