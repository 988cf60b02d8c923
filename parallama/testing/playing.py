"""A codec on its way through a node's answer, driven as the relay drives it; and ears for what it does beside.

`check_codec` plays one answer in many ways and compares what came of it (Played).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache

from parallama.errors import ApiError, UpstreamFailed
from parallama.exchange import Usage
from parallama.gateway.api import Codec, Head
from parallama.testing.transcripts import Transcript

_IO = ("open", "socket.", "subprocess.", "os.system", "os.posix_spawn")
_AROUND = 16
"""Bytes shown before and after a difference."""


@dataclass(frozen=True, slots=True)
class Played:
    """What a client and the accounts got of one exchange."""

    out: bytes
    head: Head
    streams: bool
    error: str | None
    """Raised by the codec, or what ended an answer that the node broke off."""
    lost: bool
    """The error was raised by `feed`, which takes the output of that chunk with it."""
    failed: str | None
    usage: Usage
    context_full: bool | None


class Playing:
    """One codec and what it has said so far. An ApiError of the codec ends it, as in the relay."""

    def __init__(self, codec: Codec, head: Head) -> None:
        self.codec = codec
        self.head = codec.begin(head)
        self.out = bytearray()
        self.error: ApiError | None = None
        self.lost = False

    def feed(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            if self.error is None:
                self._say(lambda piece=piece: self.codec.feed(piece), "feed")  # type: ignore[misc]

    def end(self, *, complete: bool) -> Played:
        """The body has ended, cleanly or not; all that came of the exchange."""
        if self.error is None:
            if complete:
                self._say(self.codec.finish, "finish")
            else:
                self.fail()
        codec = self.codec
        return Played(
            out=bytes(self.out),
            head=self.head,
            streams=codec.streams,
            error=_told(self.error),
            lost=self.lost,
            failed=_told(codec.failed),
            usage=replace(codec.usage),
            context_full=codec.context_full,
        )

    def fail(self, error: ApiError | None = None) -> None:
        """The exchange has broken; a stream gets its last bytes."""
        self.error = error or UpstreamFailed("the node went away")
        if self.codec.streams:
            self.out += _checked(self.codec.fail(self.error), "fail")

    def _say(self, step: Callable[[], bytes], name: str) -> None:
        try:
            self.out += _checked(step(), name)
        except ApiError as error:
            self.lost = name == "feed"
            self.fail(error)


def play(codec: Codec, transcript: Transcript, pieces: Iterable[bytes]) -> Played:
    """What comes of the transcript's body in these pieces."""
    playing = Playing(codec, transcript.head)
    playing.feed(pieces)
    return playing.end(complete=transcript.complete)


def _checked(said: object, name: str) -> bytes:
    if not isinstance(said, bytes | bytearray | memoryview):
        raise AssertionError(f"{name}() returned a {type(said).__name__}, not bytes")
    return bytes(said)


def _told(error: ApiError | None) -> str | None:
    return f"{type(error).__name__} ({error.status}): {error}" if error else None


def difference(got: bytes, expected: bytes) -> str:
    """Where two answers part, with a few bytes around the place."""
    pairs = enumerate(zip(got, expected, strict=False))
    at = next((at for at, (one, other) in pairs if one != other), min(len(got), len(expected)))
    near = slice(max(0, at - _AROUND), at + _AROUND)
    return f"the client's bytes differ at {at}: expected ...{expected[near]!r}, got ...{got[near]!r}"


@contextmanager
def ears() -> Iterator[list[str]]:
    """A list of the I/O that this thread does in the block, by the names of Python's audit events (PEP 578)."""
    _listen()
    heard: list[str] = []
    token = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(token)


_heard: ContextVar[list[str] | None] = ContextVar("parallama-testing-heard", default=None)


@cache
def _listen() -> None:
    """Audit hooks stay for the life of the process, so there is one, and it is deaf outside of `ears`."""

    def hook(event: str, _: object) -> None:
        heard = _heard.get()
        if heard is not None and event.startswith(_IO):
            heard.append(event)

    sys.addaudithook(hook)
