"""Streams whose node is slow to begin: the official `openai` client takes the heartbeats for nothing, and what comes
behind them for what it is."""

from __future__ import annotations

import asyncio
from operator import attrgetter
from typing import Any

import openai
import pytest
from asking import Gate, asked
from openai_clients import MODEL, QUESTION, Ai, says, text_of, writes
from running import RunningGateway
from shared_gateway import ai as ai
from shared_gateway import gateway as gateway
from shared_gateway import in_one_loop
from shared_gateway import node as node
from shared_gateway import served as served

from parallama.testing import BUSY, Answer, FakeOllama

pytestmark = in_one_loop

PING = b": ping\n\n"
ASKED: dict[str, dict[str, Any]] = {
    "chat.completions.create": {"messages": QUESTION},
    "completions.create": {"prompt": "Why?"},
    "responses.create": {"input": "Why?"},
}


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, Any]:
    return {"usage": {"flush_ms": 1}, "relay": {"heartbeat_after_s": 0.05, "heartbeat_s": 0.05}}


async def headed(ai: Ai, gate: asyncio.Event, parts: list[Any], method: str) -> None:
    """Ask for a stream; open the gate when its head is there, which is before anything of the node is."""
    arguments = {"model": MODEL, "stream": True, **ASKED[method]}
    if ai.blocks:
        await asyncio.to_thread(_block, ai.client, asyncio.get_running_loop(), gate, parts, method, arguments)
        return
    async with ai.client as client, await attrgetter(method)(client)(**arguments) as stream:
        gate.set()
        async for part in stream:
            parts.append(part)


def _block(
    client: Any,
    loop: asyncio.AbstractEventLoop,
    gate: asyncio.Event,
    parts: list[Any],
    method: str,
    arguments: dict[str, Any],
) -> None:
    with client, attrgetter(method)(client)(**arguments) as stream:
        loop.call_soon_threadsafe(gate.set)
        for part in stream:
            parts.append(part)


@pytest.mark.parametrize("method", ASKED)
async def test_an_answer_behind_heartbeats_is_whole(
    gateway: RunningGateway, node: FakeOllama, ai: Ai, method: str
) -> None:
    made = writes("Yes", ".") if method == "completions.create" else says("Yes", ".")
    gate, parts = Gate(), list[Any]()
    node.cue(Answer(lines=made.lines, hold_head=gate))
    await headed(ai, gate, parts, method)
    said = parts[-1].response.output_text if method == "responses.create" else text_of(parts)
    assert said == "Yes."
    row = await gateway.row()
    assert (row["outcome"], row["prompt_tokens"], row["output_tokens"]) == ("ok", 7, 5)


@pytest.mark.parametrize("method", ASKED)
async def test_a_refusal_of_the_node_behind_heartbeats_is_an_error_in_the_stream(
    gateway: RunningGateway, node: FakeOllama, ai: Ai, method: str
) -> None:
    gate, parts = Gate(), list[Any]()
    node.cue(Answer(status=503, error=BUSY, hold_head=gate))
    with pytest.raises(openai.APIError) as caught:
        await headed(ai, gate, parts, method)
    assert not isinstance(caught.value, openai.APIStatusError | openai.APIConnectionError)
    assert caught.value.message == BUSY
    ends = {getattr(part, "type", None) for part in parts}
    assert ends.isdisjoint({"response.completed", "response.incomplete"})
    row = await gateway.row()
    assert (row["outcome"], row["status"]) == ("failed", 503)


async def test_heartbeats_are_comments_until_the_node_begins(gateway: RunningGateway, node: FakeOllama) -> None:
    gate = Gate()
    node.cue(Answer(lines=says("Yes.").lines, hold_head=gate))
    body = {"model": MODEL, "messages": QUESTION, "stream": True}
    async with asked(gateway, "/v1/chat/completions", body) as client:
        head = await client.head()
        assert [await client.chunk(), await client.chunk()] == [PING, PING]
        gate.set()
        rest = b""
        while chunk := await client.chunk():
            rest += chunk
    assert head.startswith("HTTP/1.1 200 ")
    assert "text/event-stream" in head
    assert rest.replace(PING, b"").startswith(b"data: {")
    assert rest.endswith(b"data: [DONE]\n\n")
