"""`fake_ollama`: a node on a real socket that records what it is asked and fails on cue.

A simulator (parallama.simulator) whose answers can be bent; simulated.faults says how.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from parallama.simulated.faults import Answer, Broken, CuedResponder, perform
from parallama.simulated.http import Headers, Request, Responder, Wire
from parallama.simulated.models import DEFAULT_MODELS, Model
from parallama.simulated.recordings import Recording
from parallama.simulator import Simulator

BUSY = "server busy, please try again.  maximum pending requests exceeded"
"""What a node with a full queue says (503). The two spaces are Ollama's."""
KEPT = 16 << 20
"""Bytes of a request's body that are kept for the test to look at."""
CEILING_S = 30.0
"""How long the kit waits for what a test says will happen."""


class SeenRequest(Request):
    """A request that the node has had. `method`, `target`, `path` and `headers` are those of Request."""

    def __init__(self, method: str, target: str, version: str, headers: Headers, wire: Wire) -> None:
        super().__init__(method, target, version, headers, wire)
        self._kept: list[bytes] = []
        self.arrived = asyncio.Event()
        """The body has been read whole, or as far as the cue reads it (`Answer.reads`)."""
        self.client_left = asyncio.Event()
        """The peer closed, reset or half-closed before the answer was complete."""
        self.done = asyncio.Event()
        """The answer is complete, or was given up."""
        if self.complete:
            self.arrived.set()

    @property
    def probe(self) -> bool:
        """Whether a gateway asks for a model on its own account, and no client through it."""
        return bool(self.header("x-parallama-probe"))

    @property
    def body(self) -> bytes:
        """The body so far, without its framing; of a longer one the first 16 MiB."""
        return b"".join(self._kept)

    async def pieces(self) -> AsyncIterator[bytes]:
        size = 0
        async for piece in super().pieces():
            if size < KEPT:
                self._kept.append(piece)
            size += len(piece)
            yield piece
        self.arrived.set()

    async def take(self, size: int | None) -> None:
        await super().take(size)
        self.arrived.set()


@dataclass(slots=True)
class _Cue:
    answer: Answer
    path: str | None
    left: int | None
    probes: bool

    def takes(self, request: SeenRequest) -> bool:
        """Health checks send GETs; a cue without a path is not meant for them."""
        if request.probe != self.probes:
            return False
        return request.path == self.path if self.path else request.method in ("POST", "DELETE")


class FakeOllama(Simulator):
    """A simulated node that records every request and answers on cue. It is fast, its heads are a real Ollama's."""

    def __init__(self, models: Iterable[Model | str] = DEFAULT_MODELS, **options: Any) -> None:
        """`options`: those of Simulator."""
        super().__init__(models, **options)
        self.requests: list[SeenRequest] = []
        """In the order of their heads; without `probes`."""
        self.probes: list[SeenRequest] = []
        """What gateways ask of models on their own account, whenever they come to it."""
        self._cues: list[_Cue] = []
        self._news = asyncio.Condition()

    def cue(self, answer: Answer, path: str | None = None, times: int | None = 1, *, probes: bool = False) -> None:
        """Answers the next request so. Cues are used in the order in which they were given.

        `path` None: the next POST or DELETE, whatever its path. `times` None: every one until `clear`. `probes`: one
        of the `probes` alone, which no other cue is meant for.
        """
        self._cues.append(_Cue(answer, path, times, probes))

    def replay(self, recording: Recording, path: str | None = None) -> None:
        """Answers the next request with the bytes of a real Ollama."""
        self.cue(Answer.of(recording), path)

    def clear(self) -> None:
        """Forgets every cue; requests in flight keep theirs."""
        self._cues.clear()

    def seen(self, path: str) -> list[SeenRequest]:
        """The requests for `path` so far."""
        return [request for request in self.requests if request.path == path]

    async def request_for(self, path: str, number: int = 0) -> SeenRequest:
        """The request for `path` with this number (0: the first), once it has `arrived`.

        Raises TimeoutError after 30 s.
        """
        async with asyncio.timeout(CEILING_S):
            async with self._news:
                await self._news.wait_for(lambda: len(self.seen(path)) > number)
            found = self.seen(path)[number]
            await found.arrived.wait()
        return found

    def request(self, method: str, target: str, version: str, headers: Headers, of: Wire) -> SeenRequest:
        return SeenRequest(method, target, version, headers, of)

    def responder(self, request: Request, of: Wire) -> CuedResponder:
        return CuedResponder(request, of, self.marks)

    async def answer(self, request: Request, responder: Responder) -> None:
        assert isinstance(request, SeenRequest)
        assert isinstance(responder, CuedResponder)
        (self.probes if request.probe else self.requests).append(request)
        try:
            async with self._news:
                self._news.notify_all()
            responder.cue = self._next_cue(request)
            if not await perform(responder):
                await super().answer(request, responder)
        except Broken:
            pass
        except (asyncio.CancelledError, ConnectionError):
            if responder.wire.left:
                request.client_left.set()
            raise
        finally:
            request.done.set()

    def _next_cue(self, request: SeenRequest) -> Answer:
        cue = next((cue for cue in self._cues if cue.takes(request)), None)
        if cue is None:
            return Answer()
        if cue.left is not None:
            cue.left -= 1
            self._cues = [cue for cue in self._cues if cue.left != 0]
        return cue.answer


@asynccontextmanager
async def fake_ollama(models: Iterable[Model | str] = DEFAULT_MODELS, **options: Any) -> AsyncIterator[FakeOllama]:
    """A node on a free port of 127.0.0.1 for the length of the block; `options` are those of Simulator."""
    async with FakeOllama(models, **options) as node:
        yield node
