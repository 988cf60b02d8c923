"""The two sides of a shot: the node that answers as it is told, the client that conducts itself as it is told."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

from asking import bearer
from fire import LINES, Conduct, Ending, Kind, Shot, Way, asks, ending, says
from fire_truth import Sight
from raw_http import CEILING_S, Got, RawClient, request_bytes

from parallama.simulated.faults import JSON, NDJSON, Broken, CuedResponder, perform
from parallama.simulated.http import Request, Responder, Wire
from parallama.simulator import Simulator

NUMBER = "tracestate"
"""A header that reaches the node."""


class FiringNode(Simulator):
    """Answers each shot as its cue says, and everything else as a healthy node."""

    def __init__(self, shots: Sequence[Shot]) -> None:
        super().__init__()
        self._shots = {str(shot.number): shot for shot in shots}
        self.answering = 0
        """Requests under way."""
        self.garbled: list[int] = []
        """Uploads that came in otherwise than they were sent."""

    def responder(self, request: Request, of: Wire) -> CuedResponder:
        return CuedResponder(request, of, self.marks)

    async def answer(self, request: Request, responder: Responder) -> None:
        shot = self._shots.get(request.header(NUMBER))
        if shot is None:
            return await super().answer(request, responder)
        assert isinstance(responder, CuedResponder)
        responder.cue = shot.cue
        self.answering += 1
        shot.reached.set()
        try:
            with suppress(Broken):
                if not await perform(responder):
                    await self._play(shot, responder)
        finally:
            self.answering -= 1
            shot.over.set()

    async def _play(self, shot: Shot, responder: CuedResponder) -> None:
        if shot.takes is not None:
            await responder.request.take(shot.takes)
            await responder.strike(shot.cue.fault)
        body = await responder.request.read()
        if shot.kind is Kind.UPLOAD:
            if body != asks(shot):
                self.garbled.append(shot.number)
            await responder.document(201, b"", [])
        elif shot.kind in LINES:
            await responder.start(200, [NDJSON])
            for line in says(shot):
                await responder.send(line)
            await responder.finish()
        else:
            await responder.document(200, says(shot)[0], [JSON])


@dataclass(slots=True)
class Seen:
    """What the client of a shot saw."""

    request_id: str | None = None
    sight: Sight | None = None
    problem: str | None = None
    """A promise broken before its eyes."""


@dataclass(slots=True)
class Shooter:
    """A client that sends one shot after another, on the same connection where that is possible."""

    port: int
    key: str
    admin_key: str
    seen: dict[int, Seen] = field(default_factory=dict)
    _client: RawClient | None = None

    async def fire(self, shot: Shot) -> None:
        """Send `shot`, do what it says, keep what was seen."""
        seen = self.seen[shot.number] = Seen()
        keep = False
        try:
            async with asyncio.timeout(CEILING_S):
                client = self._client or await self._connect(shot)
                keep = await self._conduct(shot, client, seen)
        except TimeoutError:
            seen.problem = "it hangs"
        finally:
            if not keep:
                await self.close()

    async def close(self) -> None:
        """Close the connection, if there is one."""
        client, self._client = self._client, None
        if client is not None:
            client.writer.transport.abort()
            await asyncio.gather(client.writer.wait_closed(), return_exceptions=True)

    async def _connect(self, shot: Shot) -> RawClient:
        sock = socket.socket()
        sock.setblocking(False)
        if shot.conduct is Conduct.STOPS:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        self._client = RawClient(*await asyncio.open_connection(sock=sock))
        return self._client

    async def _conduct(self, shot: Shot, client: RawClient, seen: Seen) -> bool:
        """Whether the connection can be used again."""
        match shot.conduct:
            case Conduct.READS:
                await self._send(shot, client)
                return await _read(shot, client, seen)
            case Conduct.PAUSES:
                await self._send(shot, client)
                _transport(client).pause_reading()
                await asyncio.sleep(shot.steps / 100)
                _transport(client).resume_reading()
                return await _read(shot, client, seen)
            case Conduct.STOPS:
                await self._send(shot, client)
                _transport(client).pause_reading()
                await shot.over.wait()
            case Conduct.UNSENT | Conduct.HALF_SENT:
                await self._begin_to_ask(shot, client)
                await _leave(shot, client)
            case Conduct.UNANSWERED:
                await self._send(shot, client)
                await shot.reached.wait()
                await _leave(shot, client)
            case Conduct.MIDSTREAM:
                await self._send(shot, client)
                await _read_lines(shot, client)
                await _leave(shot, client)
            case Conduct.ANYTIME:
                await self._send(shot, client)
                for _ in range(shot.steps):
                    await asyncio.sleep(0)
                await _leave(shot, client)
        return False

    def _request(self, shot: Shot, *more: str) -> tuple[bytes, bytes]:
        """Head and body."""
        method, path = shot.kind.value
        body, key = asks(shot), self.key
        if shot.kind is Kind.UPLOAD:
            path, key = f"{path}{shot.number:064x}", self.admin_key
        number = (f"X-Request-ID: {shot.number}", f"{NUMBER}: {shot.number}")
        whole = request_bytes(method, path, body, bearer(key), *number, *more)
        head, _, body = whole.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n", body

    async def _send(self, shot: Shot, client: RawClient) -> None:
        with suppress(ConnectionError):  # an upload that is refused; the answer tells
            await client.send(b"".join(self._request(shot)))

    async def _begin_to_ask(self, shot: Shot, client: RawClient) -> None:
        """Send what comes before the leave, once the gateway reads the body."""
        head, body = self._request(shot, "Expect: 100-continue")
        await client.send(head)
        await client.head()
        if shot.conduct is Conduct.HALF_SENT:
            await client.send(body[: len(body) // 2])


def _transport(client: RawClient) -> asyncio.Transport:
    return cast(asyncio.Transport, client.writer.transport)


async def _read(shot: Shot, client: RawClient, seen: Seen) -> bool:
    try:
        got = await client.answer(shot.kind.value[0])
    except (ConnectionError, asyncio.IncompleteReadError):
        seen.sight = (0, Ending.BROKEN)
        return False
    headers = {name.lower(): value for name, value in got.headers}
    seen.request_id = headers.get("x-request-id")
    seen.sight = (got.status, ending(shot, got.status, got.body))
    if seen.sight[1] is Ending.ODD:
        seen.problem = f"the body is {got.body[:200]!r} ... {got.body[-200:]!r}"
    return got.status < 300 and headers.get("connection", "").lower() != "close"


async def _read_lines(shot: Shot, client: RawClient) -> None:
    """Until every line but the last is here; what the node has said is then with the gateway, no more and no less."""
    got = Got(await client.head())
    while got.body.count(b"\n") < shot.lines:
        got.chunks.append(await client.chunk())


async def _leave(shot: Shot, client: RawClient) -> None:
    """At once; a half-close waits until the gateway closes too, as it must."""
    if shot.way is Way.RESET:
        # a lingering time of 0 turns close() into RST (SO_LINGER in socket(7))
        sock = client.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.writer.transport.abort()
    elif shot.way is Way.CLOSE:
        client.writer.close()
    else:
        with suppress(ConnectionError):
            client.writer.write_eof()
            while await client.reader.read(1 << 16):
                pass
