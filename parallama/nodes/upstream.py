"""The one HTTP client: sends a request to a node and gives its answer back as a head and chunks.

Foreign exceptions end here: whatever goes wrong with the node is an UpstreamFailed or a TimedOut.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import aiohttp
from yarl import URL

from parallama.config import NodeSettings
from parallama.errors import ApiError, ClientLeft, TimedOut, UpstreamFailed
from parallama.gateway.api import Head
from parallama.version import __version__

_USER_AGENT = f"parallama/{__version__}"
_READ_BUFFER = 32 * 1024
"""Bytes per connection; decides what a reader that stops costs in memory."""
_PIECE = 64 * 1024
"""Bytes of a request body that are handed on at once."""


class NodeAnswer:
    """A node's answer: its head, and its body as it comes."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.head = Head(
            response.status,
            tuple((k.decode("latin-1"), v.decode("latin-1")) for k, v in response.raw_headers),
            response.reason,
        )

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body's bytes as they arrive, transfer coding removed; content codings stay."""
        with _translated():
            async for chunk in self._response.content.iter_any():
                yield chunk

    async def read(self, limit: int) -> bytes:
        """The whole body; an UpstreamFailed when it is over `limit` bytes."""
        parts = bytearray()
        async for chunk in self.chunks():
            parts += chunk
            if len(parts) > limit:
                raise UpstreamFailed("the node's answer is too large")
        return bytes(parts)


class Upstream:
    """A pool of connections to one node. Usable inside `running()`."""

    def __init__(self, settings: NodeSettings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._whole_s = settings.connect_s + settings.silence_s
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_s, sock_read=settings.silence_s)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open the session, close every connection on leaving."""
        settings = self._settings
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=settings.max_connections, keepalive_timeout=75, ttl_dns_cache=60),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": _USER_AGENT},
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type"),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=_READ_BUFFER,
        ) as self._session:
            yield
        self._session = None

    @asynccontextmanager
    async def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | AsyncIterable[bytes] | None = None,
        *,
        await_continue: bool = False,
        limit_s: float | None = None,
    ) -> AsyncIterator[NodeAnswer]:
        """Send one request; the answer is usable inside the block.

        `path` is percent-encoded and begins with a slash. With `await_continue` the body is asked for only when the
        node says 100 Continue (RFC 9110 section 10.1.1); its final answer may come instead. `limit_s` bounds the whole.
        Leaving the block before the body's end closes the connection, which is how a node is told to stop.
        """
        if self._session is None:
            raise RuntimeError("the upstream is not running")
        with _translated():
            # aiohttp's own limit of silence begins when the body has been written
            async with asyncio.timeout(self._whole_s if body is None or isinstance(body, bytes) else None):
                response = await self._session.request(
                    method,
                    URL(self._settings.url + path, encoded=True),
                    headers=_framed(headers, body),
                    data=_pieces(body) if body else None,
                    expect100=await_continue,
                    allow_redirects=False,
                    timeout=self._timeout if limit_s is None else aiohttp.ClientTimeout(total=limit_s),
                )
        try:
            if response.status < 200:
                raise UpstreamFailed("the node changed the protocol")
            if 300 <= response.status < 400:
                raise UpstreamFailed("the node answered a redirect")
            with _failing_with_its_connection(response):
                yield NodeAnswer(response)
        finally:
            # a body read to its end has given the connection back already: then this does nothing
            response.close()


@contextmanager
def _failing_with_its_connection(response: aiohttp.ClientResponse) -> Iterator[None]:
    """Let the body fail when its connection closes early: aiohttp 3.14 tells a chunk that is framed wrongly, in a later
    read than the head, to nobody who waits for the body."""
    connection = response.connection
    protocol = None if connection is None else connection.protocol
    closed = None if protocol is None else protocol.closed

    def fail(closed: asyncio.Future[None] | None) -> None:
        if closed is not None and not closed.cancelled():
            closed.exception()  # it counts as seen
        content = response.content
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection closed within the body"))

    if protocol is not None and closed is None:
        fail(None)
    if closed is not None:
        closed.add_done_callback(fail)
    try:
        yield
    finally:
        if closed is not None:
            closed.remove_done_callback(fail)
            closed.remove_done_callback(_seen)  # one a connection, however many requests it carries
            closed.add_done_callback(_seen)


def _seen(closed: asyncio.Future[None]) -> None:
    """Take notice of how a connection ended, which asyncio would otherwise complain about."""
    if not closed.cancelled():
        closed.exception()


def _framed(headers: Mapping[str, str], body: bytes | AsyncIterable[bytes] | None) -> Mapping[str, str]:
    return {**headers, "Content-Length": str(len(body))} if isinstance(body, bytes) else headers


async def _pieces(body: bytes | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The body as aiohttp is to write it.

    It keeps a head back until the first piece, which an empty one lets go at once; and it writes bytes in one go,
    however many they are.
    """
    if isinstance(body, bytes):
        for start in range(0, len(body), _PIECE):
            yield body[start : start + _PIECE]
        return
    yield b""
    async for piece in body:
        yield piece


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what the client library raises about the node into an ApiError."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise TimedOut("the node did not accept a connection in time") from error
    except TimeoutError as error:
        raise TimedOut("the node did not answer in time") from error
    except aiohttp.ClientConnectorError as error:
        raise UpstreamFailed("the node refused the connection") from error
    except aiohttp.ClientPayloadError as error:
        raise UpstreamFailed("the node broke off its answer") from error
    except aiohttp.ServerDisconnectedError as error:
        raise UpstreamFailed("the node closed the connection without an answer") from error
    except (aiohttp.ClientError, OSError) as error:
        if isinstance(error.__cause__, ApiError | ClientLeft):  # raised by the request's own body
            raise error.__cause__ from None
        raise UpstreamFailed("the connection to the node broke") from error
