"""Clients that do not take their answers: a stream is cut off and never slows its node, a document makes it wait."""

from __future__ import annotations

import asyncio
import itertools
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Literal, cast

import pytest
from asking import CHAT, EMBED, STREAMS, asked, at_rest, bearer, node_path
from kept_gateway import alone as alone
from kept_gateway import gateway as gateway
from kept_gateway import gateway_settings as gateway_settings
from kept_gateway import in_one_loop
from kept_gateway import kept_gateways as kept_gateways
from kept_gateway import node as node
from kept_gateway import served as served
from raw_http import RawClient, raw_client, request_bytes
from running import CEILING_S, RunningGateway, eventually, running_gateway
from slow_reader import SlowReader, slow_reader

from parallama.app import POOL
from parallama.testing import Answer, FakeOllama, Fault, SeenRequest

pytestmark = in_one_loop

KB = 1 << 10
MB = 1 << 20
GB = 1 << 30
TEXT = "x" * (8 * KB)
LINE = b'{"message":{"role":"assistant","content":"%b"},"response":"%b","done":false}\n' % ((TEXT.encode(),) * 2)
LAST = b'{"message":{"role":"assistant","content":""},"done":true,"prompt_eval_count":7,"eval_count":41}\n'
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECE = b"10000\r\n" + b" " * (64 * KB) + b"\r\n"
PIECES = 512
"""32 MB: more than all buffers on the way."""
COUNTS = b'"prompt_eval_count":7}'
END = b"%x\r\n%b\r\n0\r\n\r\n" % (len(COUNTS), COUNTS)
ENDLESS = {"relay": {"stall_s": 2 * CEILING_S}}
"""Nobody is cut for the time that he takes."""
HASTY = {"relay": {"stall_s": 0.5}}

DOCUMENTS = pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/embed", EMBED),
        ("GET", "/api/tags", None),
        ("POST", "/ollama/api/show", {"model": "llama3.2:1b", "verbose": True}),
    ],
)


@asynccontextmanager
async def slow(gateway: RunningGateway, path: str, body: Any, method: str = "POST") -> AsyncIterator[SlowReader]:
    """A client that has sent a request of alice's, and reads no more of the answer than it is told to."""
    async with asyncio.timeout(CEILING_S):
        async with slow_reader(gateway.port, request_bytes(method, path, body, bearer(gateway.key))) as client:
            yield client


class Pace(asyncio.Event):
    """An open gate that counts who comes through."""

    pieces = 0

    async def wait(self) -> Literal[True]:
        self.pieces += 1
        return True

    async def stopped(self) -> int:
        """Nothing has come through for a while. Too early a "while" would only make for an easier test."""
        before = -1
        while before != self.pieces or not before:
            before = self.pieces
            await asyncio.sleep(0.2)
        return before


async def cut(gateway: RunningGateway, seen: SeenRequest) -> dict[str, Any]:
    """The one row, once the node's connection is closed and nothing is held."""
    async with asyncio.timeout(CEILING_S):
        await seen.client_left.wait()
    await at_rest(gateway)
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["error"]) == (499, "cancelled", "client_stalled")
    return row


@pytest.mark.parametrize("gateway_settings", [ENDLESS])
@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_a_streams_reader_that_stops_is_cut_when_512_kib_wait_for_it(
    gateway: RunningGateway, node: FakeOllama, path: str, body: Any
) -> None:
    node.cue(Answer(lines=itertools.repeat(LINE)))
    async with slow(gateway, path, body):
        row = await cut(gateway, await node.request_for(node_path(path)))
    assert 512 * KB < row["response_bytes"] < MB
    assert row["streamed"] is True
    assert row["estimated"] is True
    assert row["output_tokens"] > row["response_bytes"] / 10


@pytest.mark.parametrize("gateway_settings", [ENDLESS])
async def test_a_reader_that_stops_slows_neither_the_node_nor_other_readers(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    flood, pace = asyncio.Event(), asyncio.Semaphore(0)
    node.cue(Answer(lines=itertools.repeat(LINE), hold_chunks=flood))
    async with slow(gateway, "/api/chat", CHAT):
        seen = await node.request_for("/api/chat")
        node.cue(Answer(lines=[LINE] * 20 + [LAST], hold_chunks=pace))
        async with asked(gateway, "/api/chat", CHAT) as other:
            await other.head()
            await other.chunk()
            flood.set()
            for _ in range(19):
                pace.release()
                assert await other.chunk() == LINE
            async with asyncio.timeout(CEILING_S):
                await seen.client_left.wait()
            pace.release()
            assert await other.chunk() == LAST
    await at_rest(gateway)
    assert [row["error"] for row in await gateway.rows(2)] == ["client_stalled", None]


@pytest.mark.parametrize("gateway_settings", [ENDLESS])
@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_a_stream_goes_on_while_less_waits_for_its_reader(
    gateway: RunningGateway, node: FakeOllama, path: str, body: Any
) -> None:
    pace = Pace()
    node.cue(Answer(lines=[LINE] * 20 + [LAST], hold_chunks=pace))
    async with slow(gateway, path, body) as client:
        seen = await node.request_for(node_path(path))
        async with asyncio.timeout(CEILING_S):
            await seen.done.wait()
        assert (pace.pieces, seen.client_left.is_set()) == (20, False), "the node was never slowed"
        assert (await client.rest()).endswith(b"0\r\n\r\n")
    row = await gateway.row()
    assert (row["outcome"], row["output_tokens"], row["estimated"]) == ("ok", 41, False)


@pytest.mark.parametrize("gateway_settings", [HASTY])
@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_a_streams_reader_that_takes_nothing_for_stall_s_is_cut(
    gateway: RunningGateway, node: FakeOllama, path: str, body: Any
) -> None:
    node.cue(Answer(lines=[LINE] * 20, fault=Fault.HANG, after_body=20 * len(LINE)))
    async with slow(gateway, path, body):
        row = await cut(gateway, await node.request_for(node_path(path)))
    assert 160 * KB < row["response_bytes"] < 512 * KB
    assert row["estimated"] is True
    assert row["output_tokens"] >= 20 * len(TEXT) / 4


@pytest.mark.parametrize("gateway_settings", [{"relay": {"stall_s": 2}}])
async def test_a_reader_that_is_slow_but_takes_bytes_is_not_cut(gateway: RunningGateway, node: FakeOllama) -> None:
    lines = [LINE] * 20 + [LAST]
    node.cue(Answer(lines=lines))
    async with slow(gateway, "/api/chat", CHAT) as client:
        for _ in range(10):  # twice the limit, and half of the answer
            await asyncio.sleep(0.4)
            assert await client.take(16 * KB)
        assert (await client.rest()).endswith(b"0\r\n\r\n")
    row = await gateway.row()
    assert (row["outcome"], row["error"], row["output_tokens"]) == ("ok", None, 41)


@pytest.mark.parametrize("gateway_settings", [HASTY])
async def test_a_stream_that_nobody_interrupts_may_be_silent_for_longer(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    pace = asyncio.Semaphore(0)
    node.cue(Answer(lines=[LINE, LINE, LAST], hold_chunks=pace))
    async with asked(gateway, "/api/chat", CHAT) as client:
        await client.head()
        assert await client.chunk() == LINE
        await asyncio.sleep(1.5)  # it is the node that is slow
        pace.release()
        assert await client.chunk() == LINE
        pace.release()
        assert await client.chunk() == LAST
    assert (await gateway.row())["outcome"] == "ok"


@pytest.mark.parametrize("gateway_settings", [HASTY])
@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_a_reader_that_stops_on_a_complete_stream_is_cut_too_and_the_row_stays_ok(
    gateway: RunningGateway, node: FakeOllama, path: str, body: Any
) -> None:
    node.cue(Answer(lines=[LINE] * 20 + [LAST]))
    async with slow(gateway, path, body) as client:
        seen = await node.request_for(node_path(path))
        async with asyncio.timeout(CEILING_S):
            await seen.done.wait()
        row = await gateway.row()
        await eventually(lambda: not client.connected())
        assert not (await client.rest()).endswith(b"0\r\n\r\n")
    assert (row["status"], row["outcome"], row["error"]) == (200, "ok", None)
    assert (row["prompt_tokens"], row["output_tokens"], row["estimated"]) == (7, 41, False)
    assert not seen.client_left.is_set()


@pytest.mark.parametrize("gateway_settings", [HASTY])
async def test_a_reader_that_stops_on_a_document_that_is_held_whole_is_cut_after_stall_s(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    body = b'{"embeddings":[%b],"prompt_eval_count":7}' % (b" " * 900 * KB)
    node.cue(Answer(raw=[b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body]))
    async with slow(gateway, "/api/embed", EMBED) as client:
        seen = await node.request_for("/api/embed")
        await eventually(lambda: gateway.app[POOL].nodes[0].in_flight == 0)  # the node is free for others
        row = await gateway.row()
        await eventually(lambda: not client.connected())
        assert len(await client.rest()) < len(body)
    assert not seen.client_left.is_set()
    assert (row["status"], row["outcome"], row["error"]) == (200, "ok", None)
    assert (row["prompt_tokens"], row["estimated"], row["response_bytes"]) == (7, False, len(body))


def large(pace: Pace) -> Answer:
    """A document of 32 MB."""
    return Answer(raw=[CHUNKED, *[PIECE] * PIECES, END], hold_chunks=pace)


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit


@DOCUMENTS
@pytest.mark.parametrize("gateway_settings", [ENDLESS])
async def test_a_large_document_waits_in_the_node_for_a_slow_reader_that_gets_it_whole(
    gateway: RunningGateway, node: FakeOllama, method: str, path: str, body: Any
) -> None:
    await eventually(lambda: gateway.app[POOL].catalog.heard)  # the health check does not take the cue
    node.cue(large(pace := Pace()), node_path(path))
    async with asked(gateway, path, body, method=method) as client:
        transport(client).pause_reading()
        with memory_below(8 * MB):
            assert await pace.stopped() < PIECES, "the node was slowed"
            transport(client).resume_reading()
            await client.head()
            size = 0
            while piece := await client.chunk():
                size += len(piece)
                await asyncio.sleep(0)
    assert size == PIECES * 64 * KB + len(COUNTS)
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["response_bytes"]) == (200, "ok", size)


@DOCUMENTS
@pytest.mark.parametrize("gateway_settings", [HASTY])
async def test_a_reader_that_stops_on_a_large_document_is_cut_after_stall_s(
    gateway: RunningGateway, node: FakeOllama, method: str, path: str, body: Any
) -> None:
    await eventually(lambda: gateway.app[POOL].catalog.heard)
    earlier = len(node.seen(node_path(path)))
    node.cue(large(Pace()), node_path(path))
    async with slow(gateway, path, body, method) as client:
        seen = await node.request_for(node_path(path), earlier)
        row = await cut(gateway, seen)
        await eventually(lambda: not client.connected())
    assert row["streamed"] is False
    assert row["response_bytes"] < PIECES * 64 * KB
    assert row["output_tokens"] is None


async def test_a_blob_waits_in_the_client_for_a_slow_node(database_url: str, node: FakeOllama) -> None:
    path, sent = "/api/blobs/sha256:" + "0" * 64, 0
    node.cue(Answer(reads=1), path)
    nodes = [{"name": "node-1", "url": node.url, "idle_s": 2}]
    async with running_gateway(database_url, node.url, {"nodes": nodes}) as gateway, raw_client(gateway.port) as client:
        client.writer.transport.set_write_buffer_limits(0)
        await client.send(request_bytes("POST", path, None, bearer(gateway.admin_key), f"Content-Length: {GB}"))
        with memory_below(8 * MB), suppress(ConnectionError):
            while True:  # until the gateway gives the node up
                await client.send(bytes(64 * KB))
                sent += 64 * KB
        row = await gateway.row()
    assert sent < 64 * MB, "the buffers on the way"
    assert (row["status"], row["outcome"], row["error"]) == (504, "failed", "timed_out")


def transport(client: RawClient) -> asyncio.Transport:
    return cast(asyncio.Transport, client.writer.transport)
