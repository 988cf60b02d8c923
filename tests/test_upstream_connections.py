"""The client of a node and its connections: time, bounds, uploads, addresses, TLS."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any

import pytest
import uvloop
from running import eventually
from upstream_client import (
    CHUNK,
    CHUNKED,
    LINE,
    OK,
    PATH,
    WHOLE,
    accepted,
    bare,
    client,
    close,
    drain,
    full,
    is_right,
    pipe,
    read,
    reset,
)

import parallama.nodes.upstream
from parallama.errors import Stopped, TimedOut, UpstreamFailed
from parallama.gateway.api import Head
from parallama.testing import BAD_CHUNKS, BAD_HEADS, CEILING_S, Answer, FakeOllama, Fault

Way = Callable[..., Awaitable[tuple[Head, bytes]]]
WAYS = pytest.mark.parametrize("way", [read, pipe])


def asking_task(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(work, name="asking")


# connections that wait for their next request


async def test_a_connection_that_has_been_idle_for_long_is_closed(
    node: FakeOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall may have forgotten it: what is sent on it would vanish, and nobody would answer."""
    monkeypatch.setattr(parallama.nodes.upstream, "_KEEPALIVE_S", 0.0)
    connections = accepted(node)
    async with client(node.url) as upstream:
        await is_right(upstream)
        await eventually(lambda: connections[0].done())
        await is_right(upstream)
    assert len(connections) == 2


class Closing:
    """A bare node: closes each connection at its second request, having read it, without a word."""

    def __init__(self, how: Callable[[asyncio.StreamWriter], None]) -> None:
        self.asked: list[int] = []
        self._numbers = count()
        self._how = how

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(self._numbers)
        for turn in range(2):
            try:
                await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            self.asked.append(number)
            if turn == 0:
                writer.write(WHOLE["a length"][0])
        self._how(writer)


@pytest.mark.parametrize("how", [close, reset])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_is_never_sent_twice_also_when_an_idle_connection_closes_under_it(
    how: Callable[[asyncio.StreamWriter], None], method: str
) -> None:
    closing = Closing(how)
    async with bare(closing.serve) as url, client(url) as upstream:
        assert await read(upstream, method) == (Head(200, (("Content-Length", "2"),), "OK"), b"{}")
        with pytest.raises(UpstreamFailed, match="without an answer"):
            await read(upstream, method)
        assert closing.asked == [0, 0]
        assert (await read(upstream, method))[1] == b"{}"
    assert closing.asked == [0, 0, 1]


# time

LATE: dict[str, tuple[Answer, dict[str, float], str]] = {
    "head, first_byte_s": (Answer(fault=Fault.HANG), {"first_byte_s": 0.2}, "answer in time"),
    "head, total_s": (Answer(fault=Fault.HANG), {"total_s": 0.2}, "answer in time"),
    "half a head": (Answer(fault=Fault.HANG, after_head=20), {"first_byte_s": 0.2}, "answer in time"),
    "body, idle_s": (Answer(fault=Fault.HANG, after_body=0), {"idle_s": 0.2}, "go on"),
    "body, total_s": (Answer(fault=Fault.HANG, after_body=0), {"total_s": 0.2}, "go on"),
    "end of the body": (Answer(raw=[CHUNKED + CHUNK], raw_ends=Fault.HANG), {"idle_s": 0.2}, "go on"),
}


@WAYS
@pytest.mark.parametrize("kind", LATE)
async def test_a_node_that_is_silent_for_too_long_is_given_up(node: FakeOllama, way: Way, kind: str) -> None:
    cue, limits, message = LATE[kind]
    node.cue(cue)
    async with client(node.url, **limits) as upstream:
        with pytest.raises(TimedOut, match=message):
            await way(upstream)
        await node.seen(PATH)[0].client_left.wait()


@pytest.mark.parametrize("what", ["body", "head", "interim"])
async def test_total_s_ends_an_answer_that_never_stops_dripping(node: FakeOllama, what: str) -> None:
    drip = {"body": repeat(LINE), "head": repeat(b"X: 1\r\n"), "interim": repeat(b"HTTP/1.1 102 P\r\n\r\n")}[what]
    raw = {"body": CHUNKED, "head": OK, "interim": b"HTTP/1.1 102 P\r\n\r\n"}[what]
    pieces = (b"%x\r\n%b\r\n" % (len(piece), piece) if what == "body" else piece for piece in drip)
    node.cue(Answer(raw=chain([raw], pieces), hold_writes=0.02))
    async with client(node.url, total_s=0.5, idle_s=10, first_byte_s=10) as upstream:
        with pytest.raises(TimedOut):
            await read(upstream)
        await node.seen(PATH)[0].client_left.wait()


async def test_interim_answers_do_not_put_first_byte_s_off(node: FakeOllama) -> None:
    node.cue(Answer(raw=repeat(b"HTTP/1.1 102 P\r\n\r\n"), hold_writes=0.05))
    async with client(node.url, first_byte_s=0.5) as upstream:
        with pytest.raises(TimedOut, match="answer in time"):
            await read(upstream)


async def test_silence_is_measured_from_the_last_piece(node: FakeOllama) -> None:
    gate = asyncio.Semaphore(0)
    node.cue(Answer(lines=[LINE] * 12, hold_chunks=gate))
    async with client(node.url, idle_s=1) as upstream:
        with await upstream.send("POST", PATH, {}) as answer:
            for _ in range(11):
                assert await answer.some()
                await asyncio.sleep(0.12)
                gate.release()
            assert await answer.some() == LINE
            assert await answer.some() == b""


async def test_a_reader_that_takes_its_time_is_not_held_against_the_node(node: FakeOllama) -> None:
    node.cue(Answer(lines=[b"x" * 50_000] * 200))  # 10 MB: more than all buffers on the way
    async with client(node.url, idle_s=0.2) as upstream:
        with await upstream.send("POST", PATH, {}) as answer:
            size = len(await answer.some())
            await asyncio.sleep(0.6)  # three times what a node may be silent
            size += len(await answer.read(1 << 30))
        assert size == 10_000_000


@pytest.mark.parametrize("limits", [{"connect_s": 0.2}, {"total_s": 0.2, "connect_s": 600}])
async def test_a_node_that_does_not_accept_in_time_is_given_up(limits: dict[str, float]) -> None:
    async with full() as url, client(url, **limits) as upstream:
        with pytest.raises(TimedOut, match="accept"):
            await read(upstream)


async def test_a_caller_that_leaves_while_connecting_leaves_nothing() -> None:
    async with full() as url, client(url, max_connections=1, connect_s=0.2) as upstream:
        for _ in range(3):
            asking = asking_task(read(upstream))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
            assert asking.cancelled()
        with pytest.raises(TimedOut, match="accept"):  # and not: every connection is in use
            await read(upstream)


async def test_a_node_that_refuses_is_a_failure(node: FakeOllama) -> None:
    await node.close()
    async with client(node.url, max_connections=1) as upstream:
        for _ in range(3):  # the place among the connections is free again
            with pytest.raises(UpstreamFailed, match="refused"):
                await read(upstream)


# a bound on connections


@pytest.mark.parametrize("limits", [{"first_byte_s": 0.2}, {"total_s": 0.2}])
async def test_who_waits_too_long_for_a_connection_is_told(node: FakeOllama, limits: dict[str, float]) -> None:
    node.cue(Answer(lines=repeat(LINE), hold_chunks=0.05))
    async with client(node.url, max_connections=1, **limits) as upstream:
        with await upstream.send("POST", PATH, {}, limit_s=CEILING_S):
            with pytest.raises(TimedOut, match="in use"):
                await read(upstream)
    assert len(node.requests) == 1


@pytest.mark.parametrize(
    "cue",
    [
        Answer(fault=Fault.RESET),
        Answer(fault=Fault.HANG),
        Answer(status=307, error=""),
        BAD_HEADS["two lengths"],
        BAD_CHUNKS["no size"],
        Answer(lines=[LINE], extra=b"more"),
        Answer(status=404, error="no"),
    ],
)
async def test_a_failure_gives_its_place_among_the_connections_back(node: FakeOllama, cue: Answer) -> None:
    async with client(node.url, max_connections=1, first_byte_s=0.3) as upstream:
        for _ in range(3):
            node.cue(cue)
            with suppress(UpstreamFailed, TimedOut):
                await read(upstream)
            await is_right(upstream)  # and does not wait for a connection in vain


async def test_who_leaves_while_waiting_for_a_connection_takes_none(node: FakeOllama) -> None:
    node.cue(Answer(lines=[LINE, LINE], hold_chunks=(gate := asyncio.Event())))
    async with client(node.url, max_connections=1) as upstream:
        with await upstream.send("POST", PATH, {}) as answer:
            waiting = [asking_task(read(upstream, "GET", "/api/version")) for _ in range(3)]
            await asyncio.sleep(0)
            waiting[0].cancel()
            gate.set()
            assert await answer.read(1000) == LINE * 2
        done = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(done[0], asyncio.CancelledError)
        assert [one[0].status for one in done[1:] if isinstance(one, tuple)] == [200, 200]
    assert len(node.requests) == 3


async def test_a_stop_ends_who_is_served_and_who_waits_for_a_connection(node: FakeOllama) -> None:
    node.cue(Answer(fault=Fault.HANG), times=None)
    async with client(node.url, max_connections=1) as upstream:
        asking = [asking_task(read(upstream)) for _ in range(3)]
        await node.request_for(PATH)
        upstream.stop(Stopped("the gateway is stopping"))
        done = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(one) for one in done] == [Stopped] * 3
    assert len(node.requests) == 1


# uploads


async def pieces(number: int, size: int = 1000, then: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    for _ in range(number):
        yield bytes(size)
    if then is not None:
        await then.wait()


class Source:
    """An endless body that tells when nobody takes it any more."""

    def __init__(self) -> None:
        self.given = 0
        self.over = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while True:
                self.given += 1
                yield bytes(50_000)
                await asyncio.sleep(0)
        finally:
            self.over.set()


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "5000"}])
async def test_a_piped_body_arrives_whole_and_the_connection_is_used_again(
    node: FakeOllama, headers: dict[str, str]
) -> None:
    node.cue(Answer(raw=WHOLE["a length"][:1]), times=None)
    connections = accepted(node)
    async with client(node.url) as upstream:
        for number in range(3):
            with await upstream.send("POST", PATH, headers, pieces(5)) as answer:
                assert await answer.read(10) == b"{}"
            assert node.requests[number].body == bytes(5000)
    assert len(connections) == 1


@pytest.mark.parametrize(
    "cue", [Answer(reads=10_000, status=413, error="enough"), Answer(reads=10_000, raw=[CHUNKED, CHUNK + b"0\r\n\r\n"])]
)
async def test_an_early_answer_stops_the_upload_and_costs_the_connection(node: FakeOllama, cue: Answer) -> None:
    node.cue(replace(cue, hold_body=(gate := asyncio.Event())))
    connections = accepted(node)
    source = Source()
    async with client(node.url) as upstream:
        with await upstream.send("POST", PATH, {}, source) as answer:
            assert answer.head.status == cue.status
            await source.over.wait()
            gate.set()
            assert await answer.read(1000) in (LINE, b'{"error":"enough"}')
        await is_right(upstream)
    assert len(connections) == 2


async def test_a_node_that_stops_reading_an_upload_is_given_up(node: FakeOllama) -> None:
    node.cue(Answer(reads=1000))
    source = Source()
    async with client(node.url, idle_s=0.3) as upstream:
        with pytest.raises(TimedOut, match="take the request"):
            await upstream.send("POST", PATH, {}, source)
        await source.over.wait()


@pytest.mark.parametrize("fault", [Fault.CLOSE, Fault.RESET])
async def test_a_node_that_breaks_during_an_upload_stops_it(node: FakeOllama, fault: Fault) -> None:
    node.cue(Answer(reads=1000, raw=[], raw_ends=fault))
    source = Source()
    async with client(node.url) as upstream:
        with pytest.raises(UpstreamFailed, match="without an answer"):
            await upstream.send("POST", PATH, {}, source)
        await source.over.wait()


async def test_total_s_ends_an_upload(node: FakeOllama) -> None:
    async with client(node.url, total_s=0.3) as upstream:
        with pytest.raises(TimedOut):
            await upstream.send("POST", PATH, {}, pieces(1, then=asyncio.Event()))
        await node.seen(PATH)[0].done.wait()


async def test_what_the_source_of_an_upload_raises_is_raised(node: FakeOllama) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"some"
        raise KeyError("mine")

    async with client(node.url) as upstream:
        with pytest.raises(KeyError, match="mine"):
            await upstream.send("POST", PATH, {}, broken())
        await is_right(upstream)


@pytest.mark.parametrize("cue", [Answer(), Answer(reads=0, status=400, error="not now"), Answer(fault=Fault.RESET)])
async def test_a_body_that_is_to_be_asked_for_waits_for_the_node(node: FakeOllama, cue: Answer) -> None:
    node.cue(cue)
    asked = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal asked
        asked += 1
        yield b'{"model":"llama3.2:1b","messages":[]}'

    async with client(node.url) as upstream:
        try:
            with await upstream.send("POST", PATH, {}, body(), await_continue=True) as answer:
                assert answer.head.status == cue.status
        except UpstreamFailed:
            assert cue.fault
    assert asked == (1 if cue.status == 200 else 0)


# where it goes


async def test_a_prefix_of_the_url_stays_before_every_path(node: FakeOllama) -> None:
    async with client(f"{node.url}/ä/%2f") as upstream:
        await read(upstream, "GET", "/api/version")
        await read(upstream, "GET", "/x?y=z")
    assert [seen.target for seen in node.requests] == ["/%C3%A4/%2f/api/version", "/%C3%A4/%2f/x?y=z"]


async def test_a_node_may_have_an_address_of_ipv6() -> None:
    node = FakeOllama()
    await node.start("::1")
    async with node, client(node.url) as upstream:
        await is_right(upstream)
        assert node.requests[0].header("host") == f"[::1]:{node.port}"


@pytest.mark.parametrize(
    "path", ["/x\r\nX-Bad: 1\r\n\r\n", "/x y HTTP/1.0\r\n", "/\x00", "/ä", "/\udcff", "/%0d%0aX: 1"]
)
async def test_nothing_can_be_smuggled_in_through_a_path(node: FakeOllama, path: str) -> None:
    async with client(node.url) as upstream:
        await read(upstream, "GET", path)
    (seen,) = node.requests
    assert seen.target.isascii()
    assert not set(seen.target) & set(" \r\n\x00")
    assert {name.lower() for name, _ in seen.headers} == {"host", "user-agent"}


@pytest.mark.parametrize("value", ["a\r\nX-Bad: 1", "a\nX-Bad: 1", "a\rX-Bad: 1", "a\x00b"])
async def test_a_header_with_a_line_end_in_it_is_never_sent(node: FakeOllama, value: str) -> None:
    async with client(node.url) as upstream:
        with pytest.raises(ValueError, match="header"):
            await upstream.send("GET", "/api/version", {"X-Odd": value})
    assert node.requests == []


async def test_odd_bytes_of_a_header_arrive_as_they_were(node: FakeOllama) -> None:
    odd = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])
    async with client(node.url) as upstream:
        with await upstream.send("GET", "/api/version", {"X-Odd": "a" + odd.decode("utf-8", "surrogateescape") + "z"}):
            pass
    assert node.requests[0].header("x-odd").encode("latin-1") == b"a" + odd + b"z"


# connections that are hardly there


async def test_a_node_that_closes_each_connection_at_once_is_a_failure() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reset(writer)

    async with bare(hang_up) as url, client(url) as upstream:
        for _ in range(20):
            with pytest.raises(UpstreamFailed):
                await read(upstream)


async def test_a_connection_that_closes_before_it_is_used_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    connect = loop.create_connection

    async def late(*args: Any, **how: Any) -> Any:
        made = await connect(*args, **how)
        await eventually(made[0].is_closing)
        return made

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        close(writer)

    async with bare(hang_up) as url, client(url) as upstream:
        monkeypatch.setattr(loop, "create_connection", late)
        with pytest.raises(UpstreamFailed, match="without an answer"):
            await read(upstream)
        monkeypatch.undo()


def test_a_reader_may_take_what_is_left_of_an_answer_whose_connection_is_gone() -> None:
    """On uvloop, as the program runs: there a closed connection cannot be paused or resumed."""

    async def take() -> int:
        async with FakeOllama() as node, client(node.url) as upstream:
            node.cue(Answer(lines=[b"x" * 50_000] * 200))
            with await upstream.send("POST", PATH, {}) as answer:
                await answer.some()
                await asyncio.sleep(0.2)
                upstream.stop(Stopped("the gateway is stopping"))
                await asyncio.sleep(0)
                got = bytearray()
                with pytest.raises(Stopped):
                    await drain(answer, got)
                return len(got)

    for factory in (uvloop.new_event_loop, asyncio.new_event_loop):
        with asyncio.Runner(loop_factory=factory) as runner:
            assert runner.run(take()) > 0


# TLS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate of its own for 127.0.0.1, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    command = [
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
        *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
    ]
    subprocess.run(command, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_text((folder / "key.pem").read_text() + (folder / "cert.pem").read_text())
    return both


@asynccontextmanager
async def secure(certificate: Path) -> AsyncIterator[str]:
    """The URL of a node that speaks TLS, one answer a connection."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(WHOLE["a length"][0])

    async with bare(serve, ssl=context) as url:
        yield url


async def test_a_node_with_a_certificate_that_nobody_trusts_is_refused(certificate: Path) -> None:
    async with secure(certificate) as url, client(url) as upstream:
        with pytest.raises(UpstreamFailed, match="certificate"):
            await read(upstream)


async def test_a_node_with_a_trusted_certificate_is_asked(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with secure(certificate) as url, client(url) as upstream:
        for _ in range(3):
            assert (await read(upstream))[1] == b"{}"


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_node_that_speaks_the_other_of_http_and_https_is_a_failure(
    certificate: Path, node: FakeOllama, scheme: str
) -> None:
    async with secure(certificate) as url:
        theirs = url.replace("https", "http") if scheme == "http" else node.url.replace("http", "https")
        async with client(theirs, connect_s=1) as upstream:
            with pytest.raises((UpstreamFailed, TimedOut)):
                await read(upstream)
