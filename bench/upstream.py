"""The fake node: answers chats with bytes made beforehand, and the questions of a health check.

It parses no more than it must, so that the CPU it takes is a fraction of any proxy's. `python -m bench.upstream` prints
the port it listens on and runs until it is killed.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import re
import sys
import time
from collections.abc import Iterator
from typing import cast

import uvloop

from bench import chat
from bench.metronome import Metronome

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_DATE = b"Date: Sat, 21 Nov 2026 01:55:54 GMT\r\n"
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n%sTransfer-Encoding: chunked\r\n\r\n" % _DATE
_EXACT_NS = 1_000_000
"""Shorter intervals are left to uvloop, which counts milliseconds: so many chunks come one right after another."""
_MODELS = {
    "models": [
        {
            "name": "bench:latest",
            "model": "bench:latest",
            "modified_at": "2026-11-21T01:55:54.061365998Z",
            "size": 1321098329,
            "digest": "ba" * 32,
            "details": {"format": "gguf", "family": "llama", "parameter_size": "1.2B", "quantization_level": "Q8_0"},
        }
    ]
}


class Node(asyncio.Protocol):
    """One connection; answers one request after another."""

    def __init__(self, metronome: Metronome, phases: Iterator[float]) -> None:
        self._metronome = metronome
        self._phases = phases
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of no such class

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        body_bytes = int(length[1]) if length else 0
        if found and len(rest) >= body_bytes:
            self._buffer = rest[body_bytes:]
            self._answer(head, rest[:body_bytes])

    def _answer(self, head: bytes, body: bytes) -> None:
        target = head.split(b" ", 2)[1]
        if target != chat.PATH.encode():
            self._transport.write(_probed(target))
            return
        named, chunks, interval_us = chat.asked(body)
        if b'"stream":false' in body:
            self._transport.write(_once(named, chunks))
        else:
            Stream(self._transport, self._metronome, named, chunks, interval_us).begin(next(self._phases))


class Stream:
    """One answer in chunks. Each is a write of its own, as a real node's tokens are."""

    def __init__(
        self, transport: asyncio.Transport, metronome: Metronome, named: bytes, chunks: int, interval_us: int
    ) -> None:
        self._transport = transport
        self._metronome = metronome
        self._named, self._chunks = named, chunks
        self._interval_ns = interval_us * 1000
        self._number = 0

    def begin(self, phase: float) -> None:
        """Send the head and the first chunk; the second one comes after the interval and `phase` of another one."""
        self._transport.write(_HEAD)
        self._started_ns = time.monotonic_ns() + int(phase * self._interval_ns)
        self._step()

    def _step(self) -> None:
        if self._transport.is_closing():
            return
        if self._number == self._chunks:
            self._transport.write(_chunk(chat.last_line(self._named, self._chunks)) + b"0\r\n\r\n")
            return
        self._transport.write(_chunk(chat.line(self._named, self._number, time.monotonic_ns())))
        self._number += 1
        due_ns = self._started_ns + self._number * self._interval_ns
        if self._interval_ns >= _EXACT_NS:
            self._metronome.call_at(due_ns, self._step)
        else:
            loop = asyncio.get_running_loop()
            loop.call_later((due_ns - time.monotonic_ns()) / 1e9, self._step)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@functools.cache
def _once(named: bytes, chunks: int) -> bytes:
    return _framed(chat.document(named, chunks))


@functools.cache
def _probed(target: bytes) -> bytes:
    return _framed(json.dumps({"version": "0.32.5"} if target == b"/api/version" else _MODELS).encode())


def _framed(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n%sContent-Length: %d\r\n\r\n"
    return head % (_DATE, len(body)) + body


async def _main() -> None:
    metronome = Metronome()
    # multiples of the golden ratio: however many streams there are, their chunks lie evenly in time
    phases = (number * 0.618034 % 1 for number in itertools.count())
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Node(metronome, phases), "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main())
