"""One connection of the load generator: sends a request, checks the answer to its last byte, tells how long it took.

An answer that is not exactly what the fake node says is a Wrong, and ends the load.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import httptools

from bench.dialects import Answer


class Wrong(Exception):
    """An answer that is not whole, or not the node's."""


@dataclass(slots=True)
class Seen:
    """What all connections have seen since it was last cleared; spans in nanoseconds."""

    answers: int = 0
    chunks: int = 0
    first_ns: list[int] = field(default_factory=list)
    """From the request to the first byte of the body, an entry an answer."""
    age_ns: list[int] = field(default_factory=list)
    """From the node's write to its reading here, an entry a chunk."""

    def clear(self) -> None:
        """Forget everything."""
        self.answers = self.chunks = 0
        self.first_ns.clear()
        self.age_ns.clear()


class Client(asyncio.Protocol):
    """One connection. `on_answer(client)` is called after every whole answer, `on_wrong(error)` at most once."""

    def __init__(
        self,
        expected: Answer,
        seen: Seen,
        on_answer: Callable[[Client], None],
        on_wrong: Callable[[Wrong], None],
    ) -> None:
        self._expected = expected
        self._chunks_from, self._chunks_to = len(expected.begin), len(expected.begin) + expected.chunks
        self._seen = seen
        self._on_answer, self._on_wrong = on_answer, on_wrong
        self._streams = False
        self._closing = False
        self._begun = self._ever_begun = False
        self._rest = b""
        self._number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of no such class
        self._parser = httptools.HttpResponseParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closing:
            self._on_wrong(Wrong(f"the connection was lost: {exc or 'closed'}"))

    def ask(self, request: bytes, *, streams: bool) -> None:
        """Send the request; the answer to the one before must be complete."""
        self._streams = streams
        self._asked_ns = time.monotonic_ns()
        self._transport.write(request)

    def close(self) -> None:
        """Leave, within an answer or after it."""
        self._closing = True
        self._transport.abort()

    @property
    def began(self) -> bool:
        """Whether the first byte of an answer has come since it was made."""
        return self._ever_begun

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (Wrong, ValueError, httptools.HttpParserError) as error:
            cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
            self.close()
            self._on_wrong(Wrong(f"{type(cause).__name__}: {cause}"))

    def on_body(self, data: bytes) -> None:
        if not self._begun:
            self._begun = self._ever_begun = True
            self._seen.first_ns.append(time.monotonic_ns() - self._asked_ns)
        if not self._streams:
            self._rest += data
            return
        data = self._rest + data if self._rest else data
        *events, self._rest = data.split(self._expected.event_end)
        for event in events:
            self._event(event)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() != 200:
            raise Wrong(f"status {self._parser.get_status_code()}: {self._rest[:300]!r}")
        if self._streams:
            if self._number != self._expected.events or self._rest:
                wanted = self._expected.events
                raise Wrong(f"a stream of {self._number} events, not {wanted}; rest {self._rest[:300]!r}")
        elif not self._expected.document.fullmatch(self._rest):
            raise Wrong(f"another document: {self._rest[:300]!r}")
        self._seen.answers += 1
        self._reset()
        self._on_answer(self)

    def _event(self, event: bytes) -> None:
        place, self._number = self._number, self._number + 1
        if self._chunks_from <= place < self._chunks_to:
            self._chunk(event, place - self._chunks_from)
            return
        others = (*self._expected.begin, *self._expected.end)
        place -= self._expected.chunks if place >= self._chunks_to else 0
        if place >= len(others) or not others[place].fullmatch(event):
            raise Wrong(f"event {self._number} of {self._expected.events} is another: {event[:300]!r}")

    def _chunk(self, event: bytes, expected: int) -> None:
        found = self._expected.chunk.fullmatch(event)
        if found is None:
            raise Wrong(f"event {self._number} is no chunk: {event[:300]!r}")
        number, clock_ns = found.groups()
        if int(number) != expected:
            raise Wrong(f"chunk {int(number)} came where chunk {expected} should be")
        self._seen.chunks += 1
        self._seen.age_ns.append(time.monotonic_ns() - int(clock_ns))

    def _reset(self) -> None:
        self._begun = False
        self._rest = b""
        self._number = 0
