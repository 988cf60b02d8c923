"""A client that leaves frees the node at once, in every phase, and is booked as what it is: cancelled."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import pytest
from asking import CHAT, EMBED, MODEL, STREAMS, UNARY, Gate, ask, asked, at_rest, bearer, metric, node_path, under_way
from kept_gateway import ALONE, in_one_loop
from kept_gateway import alone as alone
from kept_gateway import gateway as gateway
from kept_gateway import gateway_settings as gateway_settings
from kept_gateway import kept_gateways as kept_gateways
from kept_gateway import node as node
from kept_gateway import served as served
from raw_http import RawClient, raw_client, request_bytes
from running import RunningGateway, eventually
from upstream_client import full

from parallama.app import POOL
from parallama.testing import CEILING_S, Answer, FakeOllama, Fault, SeenRequest

pytestmark = in_one_loop

LINE = b'{"model":"m","message":{"role":"assistant","content":"four"},"done":false}\n'
BLOB = "/ollama/api/blobs/sha256:" + "0" * 64


def close(client: RawClient) -> None:
    client.writer.close()


def reset(client: RawClient) -> None:
    sock = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


def half_close(client: RawClient) -> None:
    """A client that will send no more counts as one that has left, as it does for Ollama."""
    client.writer.write_eof()


WAYS = pytest.mark.parametrize("leave", [close, reset, half_close])

AT_ONCE_S = 1.0
"""Ten times what is promised: 100 ms from the client's leaving to the end of the node's connection."""


async def freed(gateway: RunningGateway, seen: SeenRequest) -> dict[str, Any]:
    """The one row, once the node's connection is closed and nothing is held."""
    async with asyncio.timeout(AT_ONCE_S):
        await seen.client_left.wait()
    await at_rest(gateway)
    return await cancelled(gateway)


async def cancelled(gateway: RunningGateway) -> dict[str, Any]:
    """The one row, which says that the client has left."""
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["error"]) == (499, "cancelled", "client_left")
    assert row["node"] == "node-1"
    assert await metric(gateway, "parallama_node_errors_total") == 0
    return row


@WAYS
@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_leaving_before_the_nodes_head_frees_the_node(
    gateway: RunningGateway, node: FakeOllama, path: str, body: Any, leave: Any
) -> None:
    node.cue(Answer(hold_head=Gate()))
    async with asked(gateway, path, body) as client:
        seen = await node.request_for(node_path(path))
        leave(client)
        row = await freed(gateway, seen)
    assert (row["prompt_tokens"] >= 1, row["output_tokens"], row["estimated"]) == (True, None, True)
    assert (row["streamed"], row["response_bytes"], row["ttft_ms"]) == (False, 0, None)


@pytest.mark.parametrize("stream", [True, False])
async def test_who_leaves_pays_for_no_more_of_a_prompt_than_the_context_holds(
    gateway: RunningGateway, node: FakeOllama, stream: bool
) -> None:
    node.cue(Answer(hold_head=Gate()))
    body = {"model": MODEL, "prompt": "word " * 4000, "stream": stream, "options": {"num_ctx": 512}}
    async with asked(gateway, "/api/generate", body) as client:
        seen = await node.request_for("/api/generate")
        close(client)
        row = await freed(gateway, seen)
    assert (row["prompt_tokens"], row["estimated"]) == (512, True)


@WAYS
@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_leaving_before_the_first_token_frees_the_node(
    gateway: RunningGateway, node: FakeOllama, path: str, body: Any, leave: Any
) -> None:
    node.cue(Answer(hold_body=(gate := Gate())))
    async with asked(gateway, path, body) as client:
        seen = await node.request_for(node_path(path))
        await gate.reached.wait()
        leave(client)
        row = await freed(gateway, seen)
    assert (row["output_tokens"], row["response_bytes"], row["ttft_ms"]) == (None, 0, None)


@WAYS
@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_leaving_in_the_middle_of_a_stream_frees_the_node_and_estimates_the_tokens(
    gateway: RunningGateway, node: FakeOllama, path: str, body: Any, leave: Any
) -> None:
    node.cue(Answer(hold_chunks=(gate := asyncio.Semaphore(2))))
    async with asked(gateway, path, body) as client:
        seen = await node.request_for(node_path(path))
        assert " 200 " in await client.head()
        received = b"".join([await client.chunk() for _ in range(3)])
        assert gate.locked()
        leave(client)
        row = await freed(gateway, seen)
    assert row["estimated"] is True
    assert row["output_tokens"] == 3
    assert row["prompt_tokens"] >= 1
    assert row["streamed"] is True
    assert row["response_bytes"] == len(received)
    assert row["ttft_ms"] > 0


@WAYS
@pytest.mark.parametrize("path", ["/api/chat", "/ollama/v1/chat"])
async def test_leaving_while_a_document_is_held_frees_the_node(
    gateway: RunningGateway, node: FakeOllama, path: str, leave: Any
) -> None:
    node.cue(Answer(fault=Fault.HANG, after_body=40))
    async with asked(gateway, path, UNARY) as client:
        seen = await node.request_for("/api/chat")
        leave(client)
        row = await freed(gateway, seen)
    assert (row["streamed"], row["response_bytes"]) == (False, 0)


@WAYS
@pytest.mark.parametrize("gateway_settings", [{"relay": {"hold_kb": 0}}])
async def test_leaving_in_the_middle_of_a_document_frees_the_node(
    gateway: RunningGateway, node: FakeOllama, leave: Any
) -> None:
    node.cue(Answer(fault=Fault.HANG, after_body=40))
    async with asked(gateway, "/api/chat", UNARY) as client:
        seen = await node.request_for("/api/chat")
        assert " 200 " in await client.head()
        assert len(await client.reader.readexactly(40)) == 40
        leave(client)
        row = await freed(gateway, seen)
    assert (row["streamed"], row["response_bytes"]) == (False, 40)
    assert row["prompt_tokens"] >= 1
    assert row["estimated"] is True


FRAMINGS = pytest.mark.parametrize("framing", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
KB64 = 1 << 16


@asynccontextmanager
async def uploading(
    gateway: RunningGateway, node: FakeOllama, framing: str
) -> AsyncIterator[tuple[RawClient, SeenRequest]]:
    """A blob of which the node has 64 KB."""
    async with raw_client(gateway.port) as client:
        head = request_bytes("POST", BLOB, None, bearer(gateway.admin_key), framing)
        await client.send(head + (b"10000\r\n" + bytes(KB64) + b"\r\n" if "chunked" in framing else bytes(KB64)))
        await eventually(lambda: node.requests and len(node.requests[-1].body) == KB64)
        yield client, node.requests[-1]


@WAYS
@FRAMINGS
async def test_leaving_half_way_through_an_upload_frees_the_node(
    gateway: RunningGateway, node: FakeOllama, leave: Any, framing: str
) -> None:
    async with uploading(gateway, node, framing) as (client, seen):
        assert seen.path.startswith("/api/blobs/")
        leave(client)
        row = await freed(gateway, seen)
    assert not seen.arrived.is_set()
    assert (row["operation"], row["request_bytes"], row["response_bytes"]) == ("manage", KB64, 0)


@WAYS
@FRAMINGS
async def test_leaving_after_an_upload_frees_the_node(
    gateway: RunningGateway, node: FakeOllama, leave: Any, framing: str
) -> None:
    node.cue(Answer(hold_head=Gate(), reads=KB64, status=201, error=""))
    async with uploading(gateway, node, framing) as (client, seen):
        await seen.arrived.wait()
        leave(client)
        await freed(gateway, seen)


@WAYS
async def test_leaving_with_half_a_question_never_reaches_the_node(
    gateway: RunningGateway, node: FakeOllama, leave: Any
) -> None:
    await ask(gateway, "/api/version")  # from here on the key is known: what is under way is authenticated
    async with raw_client(gateway.port) as client:
        await client.send(request_bytes("POST", "/api/chat", b'{"model"', bearer(gateway.key))[:-4])
        await eventually(lambda: under_way(gateway))
        leave(client)
        _, row = await gateway.rows(2)
    assert (row["status"], row["outcome"], row["node"]) == (499, "cancelled", None)
    assert node.seen("/api/chat") == []
    await at_rest(gateway)


ESTABLISHED, SYN_SENT, TIME_WAIT = "01", "02", "06"


def sockets_to(port: int, *states: str) -> int:
    """How many connections to `port` the kernel knows in these states, or in any (proc(5))."""
    fields = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(one[2].endswith(f":{port:04X}") and (not states or one[3] in states) for one in fields)


@ALONE
@WAYS
@pytest.mark.parametrize("gateway_settings", [{"usage": {"flush_ms": 10}}])
async def test_leaving_while_the_node_does_not_accept_gives_up_the_connection(
    gateway: RunningGateway, node: FakeOllama, leave: Any
) -> None:
    await ask(gateway, "/api/version")  # from here on the key is known
    await node.close()
    async with full(node.port):
        before = sockets_to(node.port, SYN_SENT)
        async with asked(gateway, "/api/chat", CHAT) as client:
            await eventually(lambda: gateway.app[POOL].nodes[0].in_flight == 1)
            await eventually(lambda: sockets_to(node.port, SYN_SENT) > before)
            leave(client)
            async with asyncio.timeout(AT_ONCE_S):
                await eventually(lambda: gateway.app[POOL].nodes[0].in_flight == 0)
        _, row = await gateway.rows(2)
    assert (row["status"], row["outcome"], row["error"]) == (499, "cancelled", "client_left")
    assert await metric(gateway, "parallama_node_errors_total") == 0


NARROW = pytest.mark.parametrize("gateway_settings", [{"nodes": [{"max_connections": 1, "probe_s": 3600}]}], ids=[""])
"""A gateway that opens one connection to its node."""


@NARROW
@WAYS
async def test_leaving_while_waiting_for_a_connection_takes_none(
    gateway: RunningGateway, node: FakeOllama, leave: Any
) -> None:
    node.cue(Answer(hold_chunks=(gate := Gate())))
    pool = gateway.app[POOL].nodes[0]
    async with asked(gateway, "/api/chat", CHAT) as first:
        await node.request_for("/api/chat")
        async with asked(gateway, "/api/generate", {"model": "llama3.2:1b", "prompt": "x"}) as second:
            await eventually(lambda: pool.in_flight == 2)
            leave(second)
            async with asyncio.timeout(AT_ONCE_S):
                await eventually(lambda: pool.in_flight == 1)
        gate.set()
        assert (await first.answer()).status == 200
    assert node.seen("/api/generate") == []
    assert (await ask(gateway, "/api/chat", UNARY)).status == 200, "the connection is free again"
    rows = await gateway.rows(3)
    assert [row["outcome"] for row in rows] == ["ok", "cancelled", "ok"]
    await at_rest(gateway)


@asynccontextmanager
async def stopped_reading(gateway: RunningGateway, node: FakeOllama) -> AsyncIterator[tuple[RawClient, SeenRequest]]:
    """A client that reads nothing of a document which is larger than all buffers on the way."""
    piece = b"c350\r\n" + b" " * 50_000 + b"\r\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    pace = Pace()
    node.cue(Answer(raw=[head, *[piece] * 1000], hold_chunks=pace))  # 50 MB: more than all buffers on the way
    async with asked(gateway, "/api/embed", EMBED) as client:
        seen = await node.request_for("/api/embed")
        await pace.stopped()
        yield client, seen
    assert pace.pieces < 999


@pytest.mark.parametrize("leave", [close, reset])
async def test_leaving_while_the_answer_is_not_read_frees_the_node(
    gateway: RunningGateway, node: FakeOllama, leave: Any
) -> None:
    async with stopped_reading(gateway, node) as (client, seen):
        leave(client)
        row = await freed(gateway, seen)
    assert (row["streamed"], row["estimated"]) == (False, True)


class Pace(asyncio.Event):
    """An open gate that counts who comes through."""

    pieces = 0

    async def wait(self) -> Literal[True]:
        self.pieces += 1
        return True

    async def stopped(self) -> None:
        """Nothing has come through for a while. Too early a "while" would only make for an easier test."""
        before = -1
        while before != self.pieces or not before:
            before = self.pieces
            await asyncio.sleep(0.2)


@ALONE
async def test_a_client_that_leaves_is_never_taken_for_a_failed_node(gateway: RunningGateway, node: FakeOllama) -> None:
    node.cue(Answer(hold_chunks=asyncio.Semaphore(40)), times=None)
    for number in range(20):
        async with asked(gateway, "/api/chat", CHAT) as client:
            seen = await node.request_for("/api/chat", number)
            await client.reader.readuntil(b"\n")
            reset(client)
            async with asyncio.timeout(CEILING_S):
                await seen.done.wait()
    rows = await gateway.rows(20)
    assert {row["outcome"] for row in rows} <= {"cancelled", "ok"}
    assert await metric(gateway, "parallama_node_errors_total") == 0
    await at_rest(gateway)


# when it is noticed later: the gateway reads no further, and cannot see the end behind what it has not read

BEHIND = 32
"""Requests behind the one that is answered, from which on aiohttp 3.14 reads no more."""


HASTY = pytest.mark.parametrize("gateway_settings", [{"nodes": [{"first_byte_s": 1, "idle_s": 1}]}], ids=[""])
"""A gateway that waits for its node a second."""


async def timed_out(gateway: RunningGateway) -> None:
    """The row says that the node's time was up, and nothing is held."""
    await at_rest(gateway)
    row = (await gateway.rows(1))[0]
    assert (row["status"], row["outcome"], row["error"]) == (504, "failed", "timed_out")


@WAYS
@pytest.mark.parametrize("behind", [1, BEHIND - 1])
async def test_a_few_requests_behind_the_one_that_is_answered_hide_nothing(
    gateway: RunningGateway, node: FakeOllama, leave: Any, behind: int
) -> None:
    node.cue(Answer(hold_head=Gate()))
    async with asked(gateway, "/api/chat", CHAT) as client:
        seen = await node.request_for("/api/chat")
        await client.send(request_bytes("GET", "/api/version", None, bearer(gateway.key)) * behind)
        leave(client)
        await freed(gateway, seen)
    assert node.seen("/api/chat") == [seen]


async def send_behind(gateway: RunningGateway, client: RawClient) -> None:
    """Many requests, and the moment in which the gateway has had them."""
    before = await metric(gateway, "parallama_requests_total")
    await client.send(request_bytes("GET", "/api/version", None, bearer(gateway.key)) * 2 * BEHIND)
    await asyncio.sleep(0.1)  # too short a time would only make for an easier test
    assert await metric(gateway, "parallama_requests_total") == before


@HASTY
@WAYS
async def test_with_many_requests_behind_it_leaving_is_noticed_when_the_nodes_time_is_up(
    gateway: RunningGateway, node: FakeOllama, leave: Any
) -> None:
    node.cue(Answer(hold_head=Gate()))
    async with asked(gateway, "/api/chat", CHAT) as client:
        seen = await node.request_for("/api/chat")
        await send_behind(gateway, client)
        leave(client)
        await timed_out(gateway)
        async with asyncio.timeout(CEILING_S):
            await seen.client_left.wait()


@pytest.mark.parametrize("leave", [close, reset])
async def test_with_many_requests_behind_it_leaving_is_noticed_when_more_is_written(
    gateway: RunningGateway, node: FakeOllama, leave: Any
) -> None:
    node.cue(Answer(lines=repeat(LINE), hold_chunks=(gate := asyncio.Semaphore(1))))
    async with asked(gateway, "/api/chat", CHAT) as client:
        seen = await node.request_for("/api/chat")
        assert await client.head()
        await send_behind(gateway, client)
        leave(client)
        while not seen.client_left.is_set():
            gate.release()
            await asyncio.sleep(0.01)
    await at_rest(gateway)
    row = (await gateway.rows(1))[0]
    assert (row["status"], row["outcome"], row["error"]) == (499, "cancelled", "client_left")
    assert row["output_tokens"] < 100


@WAYS
@pytest.mark.parametrize("size", [1000, 100_000])
async def test_a_small_body_that_nobody_reads_hides_nothing(
    gateway: RunningGateway, node: FakeOllama, leave: Any, size: int
) -> None:
    node.cue(Answer(hold_head=Gate()), "/api/tags", times=None)
    number = len(node.seen("/api/tags"))
    async with asked(gateway, "/api/tags", bytes(size), method="GET") as client:
        seen = await node.request_for("/api/tags", number)
        leave(client)
        await freed(gateway, seen)


async def send_what_is_taken(client: RawClient, data: bytes) -> None:
    """As much of `data` as goes out; the rest stays here."""
    client.writer.write(data)
    left = -1
    while left != (left := client.writer.transport.get_write_buffer_size()):
        await asyncio.sleep(0.3)


@HASTY
@WAYS
async def test_behind_a_large_body_that_nobody_reads_leaving_is_noticed_when_the_nodes_time_is_up(
    gateway: RunningGateway, node: FakeOllama, leave: Any
) -> None:
    node.cue(Answer(hold_head=Gate()), "/api/tags", times=None)
    number = len(node.seen("/api/tags"))
    async with raw_client(gateway.port) as client:
        await send_what_is_taken(
            client, request_bytes("GET", "/api/tags", bytes(20_000_000), bearer(gateway.key), "Connection: close")
        )
        seen = await node.request_for("/api/tags", number)
        leave(client)
        await timed_out(gateway)
        async with asyncio.timeout(CEILING_S):
            await seen.client_left.wait()


@ALONE
@HASTY
@WAYS
@FRAMINGS
async def test_behind_an_upload_that_the_node_does_not_take_leaving_is_noticed_when_its_time_is_up(
    gateway: RunningGateway, node: FakeOllama, leave: Any, framing: str
) -> None:
    node.cue(Answer(reads=1000))
    framing = framing.replace("1000000", "100000000")
    data = b"%x\r\n" % 100_000_000 if "chunked" in framing else b""
    async with raw_client(gateway.port) as client:
        head = request_bytes("POST", BLOB, None, bearer(gateway.admin_key), framing)
        await send_what_is_taken(client, head + data + bytes(30_000_000))
        assert [one for one in node.requests if one.path.startswith("/api/blobs/")]
        leave(client)
        await timed_out(gateway)
    # a node that does not read sees no orderly end
    await eventually(lambda: sockets_to(node.port) == sockets_to(node.port, ESTABLISHED, TIME_WAIT))
    await eventually(lambda: sockets_to(node.port, ESTABLISHED) <= 1)  # that of the health checks


@pytest.mark.parametrize("gateway_settings", [{"relay": {"stall_s": 1}}])
async def test_a_half_close_behind_an_answer_that_is_not_read_is_noticed_after_stall_s(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    async with stopped_reading(gateway, node) as (client, seen):
        half_close(client)
        async with asyncio.timeout(CEILING_S):
            await seen.client_left.wait()
    row = await gateway.row()
    assert (row["status"], row["outcome"]) == (499, "cancelled")
