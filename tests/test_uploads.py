"""Bodies on their way in: blobs piped without being held, 100 Continue only when it is true, limits kept."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from asking import CHAT, UNARY, ask, at_rest, bearer, metric, under_way
from kept_gateway import ALONE, in_one_loop
from kept_gateway import alone as alone
from kept_gateway import gateway as gateway
from kept_gateway import gateway_settings as gateway_settings
from kept_gateway import kept_gateways as kept_gateways
from kept_gateway import node as node
from kept_gateway import served as served
from raw_http import RawClient, raw_client, request_bytes
from running import RunningGateway, eventually

from parallama.identity import keys
from parallama.testing import Answer, FakeOllama, Fault, SeenRequest

pytestmark = in_one_loop

MB = 1 << 20
EXPECT = "Expect: 100-continue"
CHUNKED = "Transfer-Encoding: chunked"


def blob(data: bytes) -> str:
    """Where a blob of these bytes belongs."""
    return f"/ollama/api/blobs/sha256:{hashlib.sha256(data).hexdigest()}"


def in_chunks(data: bytes, size: int) -> bytes:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@asynccontextmanager
async def sent(gateway: RunningGateway, path: str, key: str, *headers: str) -> AsyncIterator[RawClient]:
    """A client that has sent the head of a POST."""
    async with raw_client(gateway.port) as client:
        await client.send(request_bytes("POST", path, None, bearer(key), *headers))
        yield client


async def closed(client: RawClient) -> bool:
    """Whether the gateway closes the connection, without a further byte."""
    try:
        return await client.reader.read() == b""
    except ConnectionError:
        return True


def uploads(node: FakeOllama) -> list[SeenRequest]:
    return [seen for seen in node.requests if seen.path.startswith("/api/blobs/")]


@ALONE
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("expects", [False, True])
async def test_an_upload_arrives_byte_for_byte(
    gateway: RunningGateway, node: FakeOllama, framing: str, expects: bool
) -> None:
    data = bytes(range(256)) * 4096
    lines = [f"Content-Length: {len(data)}" if framing == "length" else CHUNKED, *([EXPECT] if expects else [])]
    async with sent(gateway, blob(data), gateway.admin_key, *lines) as client:
        if expects:
            assert await client.head() == "HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(data if framing == "length" else in_chunks(data, 70_001))
        got = await client.answer()
        assert got.status == 201
        (seen,) = uploads(node)
        assert seen.body == data
        assert bool(seen.header("content-length")) == (framing == "length")
        assert (await client.ask("GET", "/api/version", None, bearer(gateway.key))).status == 200, (
            "it can be used again"
        )
    row = (await gateway.rows(2))[0]
    assert (row["operation"], row["status"], row["request_bytes"]) == ("manage", 201, len(data))


async def test_an_upload_is_never_held_in_memory(gateway: RunningGateway, node: FakeOllama) -> None:
    size, piece = 300 * MB, bytes(MB)
    digest = hashlib.sha256()
    for _ in range(size // MB):
        digest.update(piece)
    path = f"/api/blobs/sha256:{digest.hexdigest()}"
    async with sent(gateway, path, gateway.admin_key, f"Content-Length: {size}") as client:
        await eventually(lambda: uploads(node))
        tracemalloc.start()
        try:
            for _ in range(size // MB):
                await client.send(piece)
            got = await client.answer()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert got.status == 201
    # of which the fake keeps 16 MiB for the test to look at
    assert peak < 40 * MB
    assert (await gateway.row())["request_bytes"] == size


async def test_the_client_is_asked_to_continue_only_when_the_node_has_asked(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    data = b"x" * 100
    node.cue(
        Answer(hold_head=(gate := asyncio.Event()), status=400, error="not now"), blob(data).removeprefix("/ollama")
    )
    async with sent(gateway, blob(data), gateway.admin_key, "Content-Length: 100", EXPECT) as client:
        await eventually(lambda: uploads(node))
        assert uploads(node)[0].header("expect").lower() == "100-continue"
        await client.head()
        gate.set()


async def test_a_blob_that_is_there_is_answered_without_asking_for_it(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    data = b"y" * MB
    async with sent(gateway, blob(data), gateway.admin_key, f"Content-Length: {MB}") as client:
        await client.send(data)
        assert (await client.answer()).status == 201
    async with sent(gateway, blob(data), gateway.admin_key, f"Content-Length: {MB}", EXPECT) as client:
        got = await client.answer()
        assert got.status == 200, "the final answer comes first"
        assert "Connection: close" in got.head
        assert await closed(client)
    async with sent(gateway, blob(data), gateway.admin_key, f"Content-Length: {MB}") as client:
        got = await client.answer()
        assert got.status == 200
        assert await closed(client)
    rows = await gateway.rows(3)
    assert [row["request_bytes"] for row in rows] == [MB, 0, 0]
    await at_rest(gateway)


@pytest.mark.parametrize("fault", [Fault.CLOSE, Fault.RESET])
async def test_a_node_that_breaks_after_an_upload_is_a_502(
    gateway: RunningGateway, node: FakeOllama, fault: Fault
) -> None:
    data = bytes(MB)
    node.cue(Answer(fault=fault), blob(data).removeprefix("/ollama"))
    got = await ask(gateway, blob(data), data, admin=True)
    assert (got.status, list(got.json())) == (502, ["error"])
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["request_bytes"]) == (502, "failed", MB)


@ALONE
async def test_a_node_that_dies_during_an_upload_is_a_502(gateway: RunningGateway, node: FakeOllama) -> None:
    async with sent(gateway, blob(b""), gateway.admin_key, f"Content-Length: {300 * MB}") as client:
        await client.send(bytes(1 << 16))
        await eventually(lambda: uploads(node))
        await node.close()
        assert (await client.answer()).status == 502
        assert await closed(client)
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["error"]) == (502, "failed", "upstream_failed")
    assert await metric(gateway, "parallama_node_errors_total") == 1
    await at_rest(gateway)


@pytest.mark.parametrize("expects", [False, True])
async def test_an_upload_that_the_caller_may_not_make_is_refused_unread(
    gateway: RunningGateway, node: FakeOllama, expects: bool
) -> None:
    headers = [f"Content-Length: {300 * MB}", *([EXPECT] if expects else [])]
    async with sent(gateway, blob(b""), gateway.key, *headers) as client:
        got = await client.answer()
        assert got.status == 403
        assert "manage_models" in got.json()["error"]
        assert "Connection: close" in got.head
        assert await closed(client)
    assert uploads(node) == []
    assert (await gateway.row())["request_bytes"] == 0


@pytest.mark.parametrize("path", ["/api/chat", "/ollama/v1/chat"])
async def test_a_question_is_asked_for_only_when_its_caller_is_known(
    gateway: RunningGateway, node: FakeOllama, path: str
) -> None:
    body = json.dumps(UNARY).encode()
    async with sent(gateway, path, keys.new_key(), f"Content-Length: {len(body)}", EXPECT) as client:
        assert (await client.answer()).status == 401
        assert await closed(client)
    async with sent(gateway, path, gateway.key, f"Content-Length: {len(body)}", EXPECT) as client:
        assert await client.head() == "HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(body)
        got = await client.answer()
        assert got.status == 200
    row = await gateway.row()
    assert (row["request_bytes"], row["response_bytes"]) == (len(body), len(got.body))
    assert (await node.request_for("/api/chat")).header("expect") == ""


SMALL = pytest.mark.parametrize("gateway_settings", [{"server": {"max_body_mb": 1}}])


@SMALL
@pytest.mark.parametrize("path", ["/api/chat", "/ollama/v1/chat"])
@pytest.mark.parametrize("expects", [False, True])
async def test_a_question_announced_as_too_large_is_refused_unread(
    gateway: RunningGateway, node: FakeOllama, path: str, expects: bool
) -> None:
    async with sent(gateway, path, gateway.key, f"Content-Length: {MB + 1}", *([EXPECT] if expects else [])) as client:
        got = await client.answer()
        assert (got.status, list(got.json())) == (413, ["error"])
        assert "1 MB" in got.json()["error"]
        assert await closed(client)
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["error"]) == (413, "refused", "body_too_large")
    assert row["request_bytes"] == 0


@SMALL
async def test_a_question_that_grows_too_large_is_refused_on_the_way(gateway: RunningGateway, node: FakeOllama) -> None:
    async with sent(gateway, "/api/chat", gateway.key, CHUNKED) as client:
        await client.send(in_chunks(bytes(MB + 1), 65536)[: -len(b"0\r\n\r\n")])
        got = await client.answer()
        assert got.status == 413
        assert await closed(client)
    assert node.seen("/api/chat") == []
    assert MB < (await gateway.row())["request_bytes"] <= MB + 65537


@SMALL
async def test_a_question_of_just_the_limit_passes(gateway: RunningGateway, node: FakeOllama) -> None:
    body = json.dumps(UNARY).encode().ljust(MB)
    assert (await ask(gateway, "/api/chat", body)).status == 200
    assert (await node.request_for("/api/chat")).body == body


@pytest.mark.parametrize("gateway_settings", [{"relay": {"body_s": 0.2}}])
@pytest.mark.parametrize(("path", "admin"), [("/api/chat", False), ("/ollama/v1/chat", False), (blob(b"x"), True)])
async def test_a_body_that_stalls_is_given_up(
    gateway: RunningGateway, node: FakeOllama, path: str, admin: bool
) -> None:
    key = gateway.admin_key if admin else gateway.key
    async with sent(gateway, path, key, "Content-Length: 1000") as client:
        await client.send(b"x" * 10)
        got = await client.answer()
        assert got.status == 400
        assert "in time" in got.json()["error"]
        assert await closed(client)
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["error"]) == (400, "refused", "bad_request")
    await at_rest(gateway)


async def test_a_body_with_broken_framing_is_the_clients_fault(gateway: RunningGateway, node: FakeOllama) -> None:
    async with sent(gateway, "/api/chat", gateway.key, CHUNKED) as client:
        await eventually(lambda: under_way(gateway))
        await client.send(b"5\r\n{    \r\nzz\r\n")
        assert (await client.answer()).status == 400
        assert await closed(client)
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["error"]) == (400, "refused", "bad_request")
    assert node.seen("/api/chat") == []


async def test_a_chunked_question_is_read(gateway: RunningGateway, node: FakeOllama) -> None:
    body = json.dumps(CHAT).encode()
    async with sent(gateway, "/api/chat", gateway.key, CHUNKED) as client:
        await client.send(in_chunks(body, 7))
        assert (await client.answer()).lines()[-1]["done"] is True
    assert (await node.request_for("/api/chat")).body == body
    assert (await gateway.row())["request_bytes"] == len(body)
