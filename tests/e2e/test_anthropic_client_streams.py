"""Streams with the official `anthropic` client: the order of events, the helper, and a break that nobody overlooks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic import APIStatusError
from anthropic_fixtures import ASKED, MODEL, THINKER, WAYS, Ask, asking, calls, cue, helped, kinds, make, said, text_of
from running import RunningGateway
from shared_gateway import gateway as gateway
from shared_gateway import gateway_settings as gateway_settings
from shared_gateway import in_one_loop
from shared_gateway import node as node
from shared_gateway import served as served

from parallama.testing import Answer, FakeOllama, Fault

pytestmark = in_one_loop

STREAM = {**ASKED, "stream": True}
THINKS = {**STREAM, "model": THINKER, "thinking": {"type": "enabled", "budget_tokens": 1024}}
PIECES = [{"content": f"{number} "} for number in range(9)]
LINES = said(*PIECES)
PATHS = ["/v1/messages", "/anthropic/v1/messages"]


@pytest.fixture(params=WAYS)
def ask(request: pytest.FixtureRequest, gateway: RunningGateway) -> Ask:
    return asking(gateway, request.param)


def read_events(data: bytes) -> list[tuple[str, Any]]:
    """The events of a stream by their names; each has one `event:` and one `data:` line and a blank one behind."""
    assert data.endswith(b"\n\n")
    found = []
    for event in data.decode().split("\n\n")[:-1]:
        name, _, value = event.partition("\n")
        assert name.startswith("event: ")
        assert value.startswith("data: ")
        found.append((name.removeprefix("event: "), json.loads(value.removeprefix("data: "))))
    return found


async def raw_events(gateway: RunningGateway, path: str, body: Any = STREAM) -> list[tuple[str, Any]]:
    async with gateway.http.post(gateway.url + path, json=body, headers=gateway.auth) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        return read_events(await answer.read())


@pytest.mark.parametrize("path", PATHS)
async def test_events_come_in_the_order_of_the_specification(
    gateway: RunningGateway, node: FakeOllama, path: str
) -> None:
    parts = [{"content": "", "thinking": "Hm"}, {"content": "", "thinking": "m."}]
    cue(node, *parts, {"content": "Blue"}, {"content": "."}, calls(("clock", {})), prompt=24, output=13)
    events = await raw_events(gateway, path, THINKS)
    assert all(name == data["type"] for name, data in events)
    assert [name for name, _ in events] == [
        *("message_start", "ping"),
        *("content_block_start", "content_block_delta", "content_block_delta", "content_block_delta"),
        *("content_block_stop", "content_block_start", "content_block_delta", "content_block_delta"),
        *("content_block_stop", "content_block_start", "content_block_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    start, end = events[0][1]["message"], events[-2][1]
    assert (start["content"], start["stop_reason"], start["stop_sequence"]) == ([], None, None)
    assert start["usage"]["input_tokens"] >= 1
    assert start["usage"]["output_tokens"] in (0, 1)
    assert end["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert (end["usage"]["input_tokens"], end["usage"]["output_tokens"]) == (24, 13)


@pytest.mark.parametrize("path", PATHS)
async def test_blocks_are_numbered_from_0_and_one_is_open_at_a_time(
    gateway: RunningGateway, node: FakeOllama, path: str
) -> None:
    parts = [{"content": "a", "thinking": "b"}, calls(("clock", {}), ("clock", {})), {"content": "c"}]
    cue(node, *parts)
    seen, open_block = 0, None
    for name, data in await raw_events(gateway, path, THINKS):
        if name == "content_block_start":
            assert (open_block, data["index"]) == (None, seen)
            open_block, seen = data["index"], seen + 1
        elif name.startswith("content_block"):
            assert data["index"] == open_block
            open_block = None if name == "content_block_stop" else open_block
    assert (seen, open_block) == (5, None)


@pytest.mark.parametrize("way", WAYS)
async def test_the_stream_helper_gathers_what_the_document_says(gateway: RunningGateway, way: str) -> None:
    whole = await asking(gateway, way)("messages.create", **ASKED)
    events, message = await helped(make(gateway, way), **ASKED)
    raw = [event for event in events if event.type not in ("text", "thinking", "input_json", "signature")]
    assert kinds(raw) == [
        *("message_start", "content_block_start", "content_block_delta", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    assert text_of(message) == text_of(whole)
    assert (message.model, message.role, message.stop_reason) == (MODEL, "assistant", "end_turn")
    assert message.usage == whole.usage
    rows = await gateway.rows(2)
    counts = (message.usage.input_tokens, message.usage.output_tokens)
    assert [(row["prompt_tokens"], row["output_tokens"]) for row in rows] == [counts, counts]


BREAKS = {
    "closes": Answer(lines=LINES, fault=Fault.CLOSE, after_body=sum(map(len, LINES[:4]))),
    "resets in a line": Answer(lines=LINES, fault=Fault.RESET, after_body=sum(map(len, LINES[:4])) + 20),
    "tells": Answer(lines=LINES[:-1], fault=Fault.ERROR_LINE, after_lines=4, error="out of memory"),
    "stops": Answer(lines=LINES[:-1]),
    "no JSON": Answer(lines=LINES, fault=Fault.BAD_JSON, after_lines=4),
}


@pytest.mark.parametrize("name", BREAKS)
async def test_a_break_in_a_stream_is_an_error_for_the_client(
    gateway: RunningGateway, node: FakeOllama, ask: Ask, name: str
) -> None:
    node.cue(BREAKS[name], "/api/chat")
    with pytest.raises(APIStatusError) as caught:
        await ask("messages.create", **STREAM)
    assert (caught.value.status_code, caught.value.type) == (200, "api_error")
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["streamed"], row["estimated"]) == (502, "failed", True, True)
    assert row["output_tokens"] >= 1


@pytest.mark.parametrize("way", WAYS)
async def test_the_stream_helper_raises_for_a_break(gateway: RunningGateway, node: FakeOllama, way: str) -> None:
    node.cue(BREAKS["stops"], "/api/chat")
    with pytest.raises(APIStatusError):
        await helped(make(gateway, way), **ASKED)


@pytest.mark.parametrize("name", BREAKS)
async def test_a_broken_stream_ends_with_one_error_and_no_false_end(
    gateway: RunningGateway, node: FakeOllama, name: str
) -> None:
    node.cue(BREAKS[name], "/api/chat")
    events = await raw_events(gateway, PATHS[0])
    names = [name for name, _ in events]
    assert names.count("error") == 1
    assert names[-1] == "error"
    assert not {"message_delta", "message_stop"} & set(names)
    error = events[-1][1]
    assert (error["type"], error["error"]["type"]) == ("error", "api_error")
    assert error["error"]["message"]
    if name == "tells":
        assert "out of memory" in error["error"]["message"]


async def test_a_client_that_leaves_a_stream_frees_the_node(gateway: RunningGateway, node: FakeOllama) -> None:
    node.cue(Answer(lines=[*LINES[:4], *LINES[4:-1] * 10_000], hold_chunks=0.001), "/api/chat")
    client: Any = make(gateway, "async")
    async with client, await client.messages.create(**STREAM) as stream:
        async for event in stream:
            if event.type == "content_block_delta":
                break
    await (await node.request_for("/api/chat")).client_left.wait()
    row = await gateway.row()
    assert (row["outcome"], row["estimated"]) == ("cancelled", True)
