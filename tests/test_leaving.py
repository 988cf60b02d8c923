"""A client that leaves frees the node at once, in every phase, and is booked as what it is: cancelled."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
from asking import CHAT, EMBED, STREAMS, UNARY, Gate, ask, asked, at_rest, bearer, metric, node_path, under_way
from raw_http import RawClient, raw_client, request_bytes
from running import RunningGateway, eventually

from parallama.testing import CEILING_S, Answer, FakeOllama, Fault, SeenRequest

BLOB = "/ollama/api/blobs/sha256:" + "0" * 64


def close(client: RawClient) -> None:
    client.writer.close()


def reset(client: RawClient) -> None:
    sock = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


WAYS = pytest.mark.parametrize("leave", [close, reset])


async def freed(gateway: RunningGateway, seen: SeenRequest) -> dict[str, Any]:
    """The one row, once the node's connection is closed and nothing is held."""
    async with asyncio.timeout(CEILING_S):
        await seen.client_left.wait()
    await at_rest(gateway)
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
    assert (row["prompt_tokens"], row["output_tokens"], row["estimated"]) == (None, None, False)
    assert (row["streamed"], row["response_bytes"], row["ttft_ms"]) == (False, 0, None)


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


@asynccontextmanager
async def uploading(gateway: RunningGateway, node: FakeOllama) -> AsyncIterator[tuple[RawClient, SeenRequest]]:
    """A blob of 1 MB, of which the node has 64 KB."""
    async with raw_client(gateway.port) as client:
        head = request_bytes("POST", BLOB, None, bearer(gateway.admin_key), "Content-Length: 1000000")
        await client.send(head + bytes(1 << 16))
        await eventually(lambda: node.requests and len(node.requests[-1].body) == 1 << 16)
        yield client, node.requests[-1]


@WAYS
async def test_leaving_half_way_through_an_upload_frees_the_node(
    gateway: RunningGateway, node: FakeOllama, leave: Any
) -> None:
    async with uploading(gateway, node) as (client, seen):
        assert seen.path.startswith("/api/blobs/")
        leave(client)
        row = await freed(gateway, seen)
    assert not seen.arrived.is_set()
    assert (row["operation"], row["request_bytes"], row["response_bytes"]) == ("manage", 1 << 16, 0)


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


@WAYS
async def test_leaving_while_the_answer_is_not_read_frees_the_node(
    gateway: RunningGateway, node: FakeOllama, leave: Any
) -> None:
    piece = b"c350\r\n" + b" " * 50_000 + b"\r\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    pace = Pace()
    node.cue(Answer(raw=[head, *[piece] * 1000], hold_chunks=pace))  # 50 MB: more than all buffers on the way
    async with asked(gateway, "/api/embed", EMBED) as client:
        seen = await node.request_for("/api/embed")
        await pace.stopped()
        leave(client)
        row = await freed(gateway, seen)
    assert pace.pieces < 999
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
