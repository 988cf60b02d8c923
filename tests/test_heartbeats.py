"""What clients hear while their node loads a model."""

import asyncio
from dataclasses import replace

import pytest
from kept_gateway import alone as alone
from kept_gateway import gateway as gateway
from kept_gateway import gateway_settings as gateway_settings
from kept_gateway import in_one_loop
from kept_gateway import kept_gateways as kept_gateways
from kept_gateway import node as node
from kept_gateway import served as served
from raw_http import RawClient, raw_client, request_bytes
from running import RunningGateway, eventually

from parallama.proxy.heartbeats import Heartbeats
from parallama.testing import BUSY, Answer, FakeOllama, Fault

pytestmark = in_one_loop

SETTINGS = {"relay": {"heartbeat_after_s": 0.05, "heartbeat_s": 0.05}}
settings = pytest.mark.parametrize("gateway_settings", [SETTINGS], ids=[""])

SAID = [{"role": "user", "content": "hello"}]
OPENAI = ("/v1/chat/completions", {"model": "llama3.2:1b", "messages": SAID, "stream": True}, b": ping\n\n")
RESPONSES = ("/v1/responses", {"model": "llama3.2:1b", "input": "hello", "stream": True}, b": ping\n\n")
COMPLETIONS = ("/v1/completions", {"model": "llama3.2:1b", "prompt": "hello", "stream": True}, b": ping\n\n")
ANTHROPIC = (
    "/v1/messages",
    {"model": "llama3.2:1b", "messages": SAID, "stream": True, "max_tokens": 50},
    b'event: ping\ndata: {"type":"ping"}\n\n',
)
streams = pytest.mark.parametrize(
    ("path", "body", "beat"), [OPENAI, RESPONSES, COMPLETIONS, ANTHROPIC], ids=["chat", "responses", "text", "messages"]
)


async def begin(client: RawClient, gateway: RunningGateway, path: str, body: object) -> str:
    await client.send(request_bytes("POST", path, body, f"Authorization: Bearer {gateway.key}"))
    return await client.head()


async def chunk(client: RawClient) -> bytes:
    size = int(await client.reader.readline(), 16)
    return (await client.reader.readexactly(size + 2))[:-2]


async def rest(client: RawClient) -> bytes:
    found = []
    while data := await chunk(client):
        found.append(data)
    return b"".join(found)


@streams
@settings
async def test_a_stream_that_waits_for_its_node_is_kept_alive_and_then_complete(
    gateway: RunningGateway, node: FakeOllama, path: str, body: object, beat: bytes
) -> None:
    gate = asyncio.Event()
    node.cue(Answer(hold_head=gate))
    async with raw_client(gateway.port) as client:
        head = await begin(client, gateway, path, body)
        assert head.startswith("HTTP/1.1 200 OK\r\n")
        assert [await chunk(client) for _ in range(3)] == [beat] * 3
        gate.set()
        said = await rest(client)
    assert said.endswith(b"\n\n")
    assert b'"error":{' not in said
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["streamed"]) == (200, "ok", True)
    assert row["ttft_ms"] >= 150
    assert row["output_tokens"] > 0


@streams
@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Answer(status=503, error=BUSY), 503),
        (Answer(status=404, error="model 'x' not found"), 404),
        (Answer(fault=Fault.RESET, after_head=0), 502),
    ],
    ids=["busy", "unknown", "reset"],
)
@settings
async def test_what_goes_wrong_after_a_heartbeat_is_told_in_the_stream_and_the_row_keeps_the_true_status(
    gateway: RunningGateway, node: FakeOllama, path: str, body: object, beat: bytes, fault: Answer, status: int
) -> None:
    gate = asyncio.Event()
    node.cue(replace(fault, hold_head=gate))
    async with raw_client(gateway.port) as client:
        head = await begin(client, gateway, path, body)
        assert head.startswith("HTTP/1.1 200 OK\r\n")
        assert await chunk(client) == beat
        gate.set()
        said = await rest(client)
    told = said.replace(beat, b"")
    # the Responses API tells it twice: in the failed response, and in an event that makes the SDK raise
    assert told.count(b'"error":{') == (2 if b"response.failed" in told else 1), told
    assert b"[DONE]" not in said
    assert b"message_stop" not in said
    assert b"response.completed" not in said
    row = await gateway.row()
    assert row["status"] == status
    assert row["outcome"] in ("failed", "refused")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"model": "llama3.2:1b", "messages": SAID}),
        ("/ollama/v1/chat", {"model": "llama3.2:1b", "messages": SAID, "stream": True}),
        ("/v1/chat/completions", {"model": "llama3.2:1b", "messages": SAID}),
    ],
    ids=["ndjson", "simple", "document"],
)
@settings
async def test_lines_and_documents_wait_in_silence_and_an_error_keeps_its_status(
    gateway: RunningGateway, node: FakeOllama, path: str, body: object
) -> None:
    gate = asyncio.Event()
    node.cue(Answer(status=503, error=BUSY, hold_head=gate))
    beating = Answer(hold_head=asyncio.Event())
    async with raw_client(gateway.port) as client, raw_client(gateway.port) as other:
        await client.send(request_bytes("POST", path, body, f"Authorization: Bearer {gateway.key}"))
        await node.request_for("/api/chat")
        node.cue(beating)
        await begin(other, gateway, *OPENAI[:2])
        for _ in range(3):  # time passes for this one, too
            await chunk(other)
        gate.set()
        assert (await client.answer()).status == 503


@settings
async def test_a_client_that_leaves_while_it_is_kept_alive_frees_the_node(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    node.cue(Answer(hold_head=asyncio.Event()))
    async with raw_client(gateway.port) as client:
        await begin(client, gateway, *OPENAI[:2])
        await chunk(client)
    seen = await node.request_for("/api/chat")
    await asyncio.wait_for(seen.client_left.wait(), 30)
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["error"]) == (499, "cancelled", "client_left")


@settings
async def test_nobody_is_kept_alive_for_longer_than_he_waits(gateway: RunningGateway, node: FakeOllama) -> None:
    async with raw_client(gateway.port) as client:
        for _ in range(3):
            assert (await client.ask("POST", *OPENAI[:2], f"Authorization: Bearer {gateway.key}")).status == 200
    await eventually(lambda: all(seen.done.is_set() for seen in node.seen("/api/chat")))
    assert len(await gateway.rows(3)) == 3


async def test_a_heartbeat_that_is_a_bug_does_not_end_those_of_others(caplog: pytest.LogCaptureFixture) -> None:
    beaten = asyncio.Semaphore(0)

    async def bad() -> None:
        raise TypeError("no bytes")

    async def good() -> None:
        beaten.release()

    async def beats() -> None:
        for _ in range(3):
            await asyncio.wait_for(beaten.acquire(), 30)

    heartbeats = Heartbeats(0.01, 0.01)
    async with heartbeats.running(), asyncio.TaskGroup() as tasks:
        with heartbeats.during(bad), heartbeats.during(good):
            await eventually(lambda: bool(caplog.records))
            await tasks.create_task(beats())
    assert [record.exc_info is not None for record in caplog.records] == [True]


@settings
@pytest.mark.parametrize(("path", "body", "beat"), [COMPLETIONS, ANTHROPIC], ids=["text", "messages"])
async def test_a_stream_is_kept_alive_while_the_node_says_what_its_client_does_not_hear(
    gateway: RunningGateway, node: FakeOllama, path: str, body: object, beat: bytes
) -> None:
    gate = asyncio.Semaphore(0)
    thoughts = [b'{"message":{"role":"assistant","thinking":"hm"},"thinking":"hm","done":false}\n'] * 3
    last = b'{"message":{"content":"So."},"response":"So.","done":true,"prompt_eval_count":3,"eval_count":9}\n'
    node.cue(Answer(lines=[*thoughts, last], hold_chunks=gate))
    async with raw_client(gateway.port) as client:
        await begin(client, gateway, path, body)
        for _ in thoughts[1:]:
            assert await chunk(client) == beat
            gate.release()
        assert await chunk(client) == beat
        gate.release()
        said = await rest(client)
    assert b"So." in said
    assert b"hm" not in said
    assert (await gateway.row())["output_tokens"] == 9
