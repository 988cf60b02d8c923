"""A node's answer as it is parsed and handed on: its head, then its body, transfer coding removed.

`Connection` gives it the bytes of the socket, its reader waits for `begin`, `some` and `pipe`. Whatever the node does
wrong (RFC 9112) or too slowly becomes an UpstreamFailed or a TimedOut here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from math import inf
from typing import Self

import httptools

from parallama.errors import TimedOut, UpstreamFailed
from parallama.gateway.api import Head
from parallama.nodes.source import Limits, Source

_LONGEST_HEAD = 64 * 1024
"""Bytes of an answer's head; Ollama's have a few hundred."""
_HELD = 64 * 1024
"""Bytes of a body that wait for a reader before the node is made to wait."""
_plain = re.compile(rb"[ -~]*[!-~][ -~]*").fullmatch
_DID_NOT_ANSWER = "the node did not answer in time"
_FELL_SILENT = "the node did not go on with its answer in time"


class NodeAnswer:
    """A node's answer: its head, and its body as it comes, transfer coding removed.

    Before a failure is raised, whatever came before it has been handed out. `complete` tells that nothing is to come.
    """

    head: Head
    """Known once `begin` has returned."""

    # as they are at first: kept here, they cost an answer nothing until they change
    begun = complete = reusable = False
    _head_size = _framing_size = 0
    _reason, _until_close = b"", True
    _consume: Callable[[bytes], None] | None = None
    _error: Exception | None = None
    _waiter: asyncio.Future[None] | None = None
    _continued: asyncio.Event | None = None
    _active = inf  # when the node last did something; inf: it is not its turn

    def __init__(
        self, source: Source, method: str, limits: Limits, started: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._source = source
        self._limits = limits
        self._bodiless = method == "HEAD"
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._waiting = bytearray()
        self._loop = loop
        self._started = started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # what the reader calls

    async def begin(self) -> None:
        """Wait for the head. Raises UpstreamFailed or TimedOut."""
        while not self.begun:
            if self._error is not None:
                raise self._error
            await self._wait()

    async def some(self) -> bytes:
        """What has come of the body, at least a byte; empty at its end. Raises UpstreamFailed or TimedOut."""
        while not self._waiting:
            if self._error is not None:
                raise self._error
            if self.complete:
                return b""
            await self._wait()
        some = bytes(self._waiting)
        self._waiting.clear()
        self._go_on()
        return some

    async def pipe(self, consume: Callable[[bytes], None]) -> None:
        """Hand every further piece to `consume` in the very callback that brings it, until the end.

        The node is never slowed. What `consume` raises ends the connection and is raised here, as are UpstreamFailed
        and TimedOut.
        """
        self._consume = consume
        if self._waiting:
            consume(bytes(self._waiting))
            self._waiting.clear()
        self._go_on()
        while True:
            if self._error is not None:
                raise self._error
            if self.complete:
                return
            await self._wait()

    async def read(self, limit: int) -> bytes:
        """The whole body; an UpstreamFailed when it is over `limit` bytes."""
        body = bytearray()
        while piece := await self.some():
            body += piece
            if len(body) > limit:
                raise UpstreamFailed("the node's answer is too large")
        return bytes(body)

    async def continued(self) -> bool:
        """Wait until the node asks for the request's body (100 Continue); False: its final answer came instead."""
        self._continued = asyncio.Event()
        self.sent()
        await self._continued.wait()
        self._active = inf
        return not self.begun and self._error is None

    def close(self) -> None:
        """Read no further. An answer that is not whole costs the connection: that is how a node is told to stop."""
        self._consume = None
        self._error = None  # its traceback holds this object
        del self._parser  # so does this
        self._source.done(reusable=self.complete and self.reusable)

    # what the connection calls

    def sent(self) -> None:
        """The request is out: from here on the node has to answer."""
        self._active = self._loop.time()

    def look(self, now: float) -> None:
        """Is it too late? To be asked now and then; `now` is the event loop's time."""
        limits = self._limits
        if self._source.paused:
            self._active = now
        due = self._active + (limits.idle_s if self.begun else limits.first_byte_s)
        if now >= due or (limits.total_s is not None and now >= self._started + limits.total_s):
            self.fail(TimedOut(_FELL_SILENT if self.begun else _DID_NOT_ANSWER))

    def received(self, data: bytes) -> None:
        """The next bytes of the node."""
        if self.complete:
            self._source.close()  # nobody asked for more
            return
        had_begun = self.begun
        wrong = self._parse(data)
        if self._pieces:
            self._framing_size = 0
            self._hand_out()
        elif had_begun and wrong is None:
            wrong = self._count_framing(len(data))
        if self.complete:
            self._end()
        elif wrong is not None:
            self.fail(wrong)
        elif self.begun:
            self._active = self._loop.time()
            if not had_begun:
                self._wake()

    def lost(self, error: Exception | None) -> None:
        """The connection is gone; `error`: not by the node's orderly close."""
        if self.complete:
            return
        if self.begun and self._until_close and error is None:
            self.complete = True
            self._end()
        elif self.begun:
            self.fail(UpstreamFailed("the node broke off its answer"))
        else:
            self.fail(UpstreamFailed("the node closed the connection without an answer"))

    def fail(self, error: Exception) -> None:
        """End the exchange and the connection with `error`, unless it has ended already."""
        if self.complete or self._error is not None:
            return
        self._error = error
        self._source.close()
        self._end()

    # what the parser calls

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.begun:  # what comes later are trailers
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self.begun:
            return
        self.reusable = self._parser.should_keep_alive()
        self._until_close = not self.reusable and not any(
            name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self._headers
        )
        headers = [(name.decode("latin-1"), _text(value)) for name, value in self._headers]
        self.head = Head(status, tuple(headers), self._reason.decode() if _plain(self._reason) else None)
        self.begun = True
        self.complete = self._bodiless
        self._source.begun()

    def on_body(self, piece: bytes) -> None:
        if self.complete:  # of an answer that has none, or is not ours
            self.reusable = False
        else:
            self._pieces.append(piece)

    def on_message_begin(self) -> None:
        if self.complete:  # a second answer, to a question that nobody has put
            self.reusable = False

    def on_message_complete(self) -> None:
        if self.begun:
            self.complete = True
        else:  # an interim answer (RFC 9110 section 15.2)
            self._headers.clear()
            self._reason = b""
            if self._continued is not None:
                self._continued.set()

    # within

    def _parse(self, data: bytes) -> UpstreamFailed | None:
        """Feed the parser; what is wrong with the answer, if anything is."""
        if not self.begun:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return UpstreamFailed("the node changed the protocol")
        except httptools.HttpParserError as error:
            wrong = UpstreamFailed("the node's answer is not well-formed HTTP")
            wrong.__cause__ = error
            return wrong
        if self._head_size > _LONGEST_HEAD and (not self.begun or self._size_of_headers() > _LONGEST_HEAD):
            self.begun = self.complete = False  # nobody is to have it
            return UpstreamFailed(f"the head of the node's answer is larger than {_LONGEST_HEAD // 1024} KB")
        return None

    def _size_of_headers(self) -> int:
        self._head_size = 0  # looked at once
        return len(self._reason) + sum(len(name) + len(value) + 4 for name, value in self._headers)

    def _count_framing(self, size: int) -> UpstreamFailed | None:
        """Of bytes that brought nothing of the body: extensions of chunks and trailers might never end."""
        self._framing_size += size
        if self._framing_size > _LONGEST_HEAD:
            return UpstreamFailed("the node sends only framing in place of its answer")
        return None

    def _hand_out(self) -> None:
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        if self._consume is None:
            self._waiting += data
            if len(self._waiting) > _HELD and not self.complete:
                self._source.pause()
            self._wake()
            return
        try:
            self._consume(data)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whoever waits gets it, also with the last piece
            self.complete = False
            self.fail(error if isinstance(error, Exception) else RuntimeError("a gateway wanted to end the process"))

    def _end(self) -> None:
        if self._continued is not None:
            self._continued.set()
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        await self._waiter

    def _go_on(self) -> None:
        if self._source.paused:
            self._active = self._loop.time()
            self._source.resume()


def _text(value: bytes) -> str:
    """A header's value, which leaves for the client as UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
