"""Answers on cue: what a fake node says instead of, or does to, the answer of the simulator.

`Answer` is the cue, `CuedResponder` carries it out on the wire. testing.FakeOllama decides which request gets it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Self

from parallama.simulated.go import encode
from parallama.simulated.http import Headers, Responder
from parallama.simulated.recordings import Framing, Recording, cut_at

EVERY_BYTE = range(1 << 30)
"""As `Answer.cuts`: each byte is a write of its own."""
NDJSON = ("Content-Type", "application/x-ndjson")
JSON = ("Content-Type", "application/json; charset=utf-8")

Hold = asyncio.Event | asyncio.Semaphore | float | None
"""What to wait for: a gate that the test opens (a semaphore lets one piece pass at a time), or seconds."""


class Fault(Enum):
    """What goes wrong.

    CLOSE, RESET and HANG strike at `after_head`, `after_body` or before the head; ERROR_LINE and BAD_JSON once
    `after_lines` lines of a stream are out.
    """

    CLOSE = "the connection is closed, without the terminator of the body"
    RESET = "the connection is reset (RST)"
    HANG = "the connection stays open and nothing more comes"
    ERROR_LINE = 'a line {"error": ...}, then a clean end: what Ollama does when a runner dies'
    BAD_JSON = "a line that is no JSON in place of one, then the rest"
    NO_DONE = "a clean end without the last line"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How one request is answered; without `error`, `lines` or `raw`: as the simulator answers it."""

    status: int = 200
    """Of an answer with content of its own."""
    error: str | None = None
    """The answer is the document `{"error": ...}`; with Fault.ERROR_LINE: the text of that line."""
    headers: Headers = ()
    """Further headers of an answer with content of its own."""
    lines: Iterable[bytes] | None = None
    """The answer is this NDJSON stream, each line (newline included) one HTTP chunk. May be endless: a flood."""
    raw: Iterable[bytes] | None = None
    """The answer is these very bytes, head and all; cuts apply, `after_*` do not. `raw_ends` says what follows.
    May be endless, such as a head without end."""
    raw_ends: Fault | None = None
    """CLOSE, RESET or HANG after `raw`; None: the connection serves the next request."""
    reads: int | None = None
    """The node takes in about so many bytes of the request's body and no more; None: all of it. Without content of
    its own it then never answers; with some, that is its final answer while the body is still coming."""
    interim: Sequence[int] = ()
    """Statuses 1xx, each a head of its own, sent at once, before `hold_head`. Without effect on `raw`."""
    hold_head: Hold = None
    """Before the head."""
    hold_body: Hold = None
    """Between the head and the first byte of the body."""
    hold_chunks: Hold = None
    """Before every further chunk. A gate once open stays open."""
    hold_writes: Hold = None
    """Before every write but the first; with `cuts` a slow drip."""
    cuts: Sequence[int] = ()
    """Offsets in the whole answer, head and framing included, before which a new write starts."""
    length_off: int = 0
    """Added to Content-Length. Positive: the body ends short and the connection is closed; negative: too many bytes
    follow. Without effect on a chunked answer."""
    until_close: bool = False
    """Neither a length nor chunks: the body ends with the connection."""
    extra: bytes = b""
    """Bytes after the end of the answer, which belong to nothing: a second answer, or garbage."""
    fault: Fault | None = None
    after_head: int | None = None
    """Bytes of the head before CLOSE, RESET or HANG."""
    after_body: int | None = None
    """Bytes of the body, its framing not counted, before CLOSE, RESET or HANG. More than it has: at its end, before
    the terminator."""
    after_lines: int = 1
    """Lines before ERROR_LINE or BAD_JSON."""

    @classmethod
    def of(cls, recording: Recording) -> Self:
        """The bytes of a real Ollama."""
        closes = recording.framing is Framing.CLOSE or b"connection: close" in (recording.head or b"").lower()
        ends = {
            "complete": Fault.CLOSE if closes else None,
            "client left": Fault.HANG,
            "silent without an answer": Fault.HANG,
        }
        return cls(raw=recording.pieces(), raw_ends=ends.get(recording.end, Fault.CLOSE))


class Broken(Exception):
    """The answer ended as its cue said."""


class CuedResponder(Responder):
    """Writes what it is given as the cue says."""

    cue: Answer = Answer()
    _written = 0
    _body = 0
    _lines = 0

    async def start(self, status: int, headers: Headers = (), length: int | None = None) -> None:
        for number in self.cue.interim:
            await self.wire.write(f"HTTP/1.1 {number} {HTTPStatus(number).phrase}\r\n\r\n".encode())
        await _wait(self.cue.hold_head)
        if self.cue.until_close:
            self.may_chunk = self.keep = False
            await super().start(status, headers)
        elif length is not None and self.cue.length_off:
            await super().start(status, headers, max(0, length + self.cue.length_off))
            self.keep = False
        else:
            await super().start(status, headers, length)
        await _wait(self.cue.hold_body)

    async def request_is_over(self) -> bool:
        return await super().request_is_over() if self.cue.reads is None else self.request.complete

    async def send(self, data: bytes) -> None:
        cue = self.cue
        if self._lines:
            await _wait(cue.hold_chunks)
        if cue.fault is Fault.NO_DONE and (b'"done":true' in data or b'"status":"success"' in data):
            return
        if self._lines == cue.after_lines and cue.fault in (Fault.ERROR_LINE, Fault.BAD_JSON):
            data = await self._bad_line(data)
        self._lines += 1
        await super().send(data)

    async def _bad_line(self, data: bytes) -> bytes:
        """What takes the place of the line `data`. An error line ends the answer."""
        if self.cue.fault is Fault.BAD_JSON:
            return data.replace(b'"', b"'", 1)  # of the same length, for Content-Length
        text = self.cue.error or "an error was encountered while running the model: unexpected EOF"
        await super().send(encode({"error": text}) + b"\n")
        await self.finish()
        raise Broken

    async def _write_head(self, head: bytes) -> None:
        if self._strikes and self.cue.after_body is None:
            await self.put(head[: self.cue.after_head or 0])
            await self.strike(self.cue.fault)
        await self.put(head)
        if self._strikes and self.cue.after_body == 0:
            await self.strike(self.cue.fault)

    async def _write_body(self, before: bytes, data: bytes, after: bytes) -> None:
        left = (self.cue.after_body or 0) - self._body
        if self._strikes and left <= len(data):
            await self.put(before + data[:left])
            await self.strike(self.cue.fault)
        self._body += len(data)
        await self.put(before + data + after)

    @property
    def _strikes(self) -> bool:
        return self.cue.fault in (Fault.CLOSE, Fault.RESET, Fault.HANG)

    async def finish(self) -> None:
        if self._strikes:
            await self.strike(self.cue.fault)  # the body was shorter than `after_body`
        await super().finish()
        if self.cue.extra:
            await self.wire.write(self.cue.extra)

    async def put(self, data: bytes) -> None:
        """Writes `data` in the pieces that the cue asks for."""
        start, self._written = self._written, self._written + len(data)
        cuts = range(len(data)) if self.cue.cuts is EVERY_BYTE else [place - start for place in self.cue.cuts]
        for number, piece in enumerate(cut_at(data, cuts)):
            if start or number:
                await _wait(self.cue.hold_writes)
            await self.wire.write(piece)
            await asyncio.sleep(0)

    async def strike(self, fault: Fault | None) -> None:
        """Ends the answer. CLOSE and RESET raise Broken; HANG waits for the client to leave."""
        self.keep = False
        if fault is Fault.HANG:
            await asyncio.Event().wait()
        if fault is Fault.RESET:
            sock = self.wire.writer.get_extra_info("socket")
            # a lingering time of 0 turns close() into RST (SO_LINGER in socket(7))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.wire.writer.transport.abort()
        raise Broken


async def perform(responder: CuedResponder) -> bool:
    """Answers with the content that the cue brings; False: it brings none."""
    cue = responder.cue
    says_error = cue.error is not None and cue.fault is not Fault.ERROR_LINE
    if cue.raw is None and cue.lines is None and not says_error and cue.reads is None:
        return False
    await responder.request.take(cue.reads)
    if cue.raw is not None:
        await _play(cue.raw, responder)
    elif cue.lines is not None:
        await _stream(cue.lines, responder)
    elif says_error:
        await responder.document(cue.status, encode({"error": cue.error}), [JSON, *cue.headers])
    else:
        await responder.strike(Fault.HANG)
    return True


async def _stream(lines: Iterable[bytes], responder: CuedResponder) -> None:
    await responder.start(responder.cue.status, [NDJSON, *responder.cue.headers])
    for line in lines:
        await responder.send(line)
    await responder.finish()


async def _play(pieces: Iterable[bytes], responder: CuedResponder) -> None:
    """Very bytes, the head first."""
    cue = responder.cue
    for number, piece in enumerate(pieces):
        await _wait((cue.hold_head, cue.hold_body)[number] if number < 2 else cue.hold_chunks)
        await responder.put(piece)
    if cue.raw_ends:
        await responder.strike(cue.raw_ends)


async def _wait(hold: Hold) -> None:
    if isinstance(hold, asyncio.Event):
        await hold.wait()
    elif isinstance(hold, asyncio.Semaphore):
        await hold.acquire()
    elif hold:
        await asyncio.sleep(hold)
