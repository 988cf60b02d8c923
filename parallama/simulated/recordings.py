"""Recordings of a real Ollama: one JSON file an exchange, read into the bytes that went over the wire.

For tests: `testing.FakeOllama.replay` plays one as the answer of a node.
"""

from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any


class Framing(StrEnum):
    """How the end of the body is told."""

    CHUNKED = "chunked"
    LENGTH = "length"
    CLOSE = "close"
    """The body ends with the connection."""
    NONE = "none"
    """There is no body: an answer to HEAD, a 204."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One exchange with a real Ollama."""

    name: str
    note: str
    request_head: bytes
    """With the blank line."""
    request_body: bytes | None
    """As it went over the wire, with the framing of a chunked one; None: none was sent, or it was too long to keep."""
    head: bytes | None
    """Of the answer, with the blank line; None: no answer came."""
    framing: Framing | None
    """None: no answer came."""
    chunks: tuple[bytes, ...]
    """The answer's body: the HTTP chunks without their framing, or all of it as one; never an empty piece."""
    end: str
    """`complete`, `client left`, `closed inside`, `closed without an answer`, `silent without an answer`."""

    @property
    def complete(self) -> bool:
        """Whether the answer came to its end."""
        return self.end == "complete"

    @property
    def status(self) -> int | None:
        """Of the answer; None: no answer came."""
        return int(self.head.split(b" ", 2)[1]) if self.head else None

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Of the answer, in order."""
        lines = (self.head or b"").decode("latin-1").split("\r\n")[1:]
        return [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines if line)]

    @property
    def body(self) -> bytes:
        """The answer's body as its reader sees it."""
        return b"".join(self.chunks)

    def request_bytes(self) -> bytes:
        """The request as it was sent."""
        return self.request_head + (self.request_body or b"")

    def pieces(self) -> list[bytes]:
        """The answer as it was written: the head, every chunk with its framing, the terminator if it came."""
        chunked = self.framing is Framing.CHUNKED
        body = [f"{len(c):x}\r\n".encode() + c + b"\r\n" for c in self.chunks] if chunked else list(self.chunks)
        end = [b"0\r\n\r\n"] if chunked and self.complete else []
        return [self.head, *body, *end] if self.head else []

    def response_bytes(self) -> bytes:
        """The whole answer with its framing; empty when none came."""
        return b"".join(self.pieces())


def load_recording(path: str | Path) -> Recording:
    """The recording in the JSON file `path`. Raises OSError, ValueError or KeyError for what is none."""
    found = json.loads(Path(path).read_text(encoding="utf-8"))
    request, response = found["request"], found["response"]
    return Recording(
        name=found["name"],
        note=found["note"],
        request_head=_bytes(request["head"]) or b"",
        request_body=None if _unkept(request["body"]) else _bytes(request["body"]),
        head=_bytes(response["head"]),
        framing=Framing(response["framing"]) if response["framing"] else None,
        chunks=tuple(data for _, text in response["chunks"] if (data := _bytes(text))),
        end=response["end"],
    )


def fragmentations(data: bytes, seed: int, rounds: int = 8) -> Iterator[list[bytes]]:
    """Ways in which a network may cut `data`: whole, byte by byte, inside UTF-8 sequences, then `rounds` at random.

    The pieces of each are never empty and join to `data` again.
    """
    dice = random.Random(seed)  # noqa: S311
    yield cut_at(data, [])
    yield cut_at(data, range(len(data)))
    yield cut_at(data, [at for at, byte in enumerate(data) if byte & 0xC0 == 0x80])
    for _ in range(rounds):
        yield cut_at(data, dice.sample(range(len(data)), dice.randint(0, min(len(data), 40))))


def cut_at(data: bytes, places: Iterable[int]) -> list[bytes]:
    """`data` cut before the bytes at `places`; places outside it do nothing."""
    edges = sorted({0, len(data), *(place for place in places if 0 < place < len(data))})
    return [data[start:end] for start, end in pairwise(edges)]


def _bytes(text: Any) -> bytes | None:
    if text is None:
        return None
    return base64.b64decode(text["base64"]) if isinstance(text, dict) else str(text).encode()


def _unkept(body: Any) -> bool:
    return isinstance(body, str) and re.fullmatch(r"\d+ bytes", body) is not None
