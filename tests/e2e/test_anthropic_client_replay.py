"""What the official `anthropic` client sent to a real Ollama, byte for byte, sent to the gateway.

The recordings are in tests/gateways/transcripts/sdk. Where Ollama's own layer answered well, the gateway says the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from anthropic.types import Message, ModelInfo, RawMessageStartEvent
from anthropic_fixtures import calls, cue
from raw_http import Got, raw_client
from running import RunningGateway
from test_anthropic_client_streams import read_events

from parallama.testing import FakeOllama, Model, Recording, fake_ollama, load_recording

FOLDER = Path(__file__).parent.parent / "gateways" / "transcripts" / "sdk"
ANSWERED = ["messages", "beta", "tools"]
REASONS = {"max_tokens": "length", "end_turn": "stop", "tool_use": "stop"}


@pytest.fixture
async def node() -> AsyncIterator[FakeOllama]:
    async with fake_ollama([Model(name="wordy"), Model(name="wordy-tools")]) as node:
        yield node


def recording(name: str) -> Recording:
    return load_recording(FOLDER / f"sdk-anthropic-{name}.json")


async def send(gateway: RunningGateway, asked: Recording) -> Got:
    """Send the recorded request as it is, but for its key; the answer, which has both ids."""
    head = re.sub(rb"(?m)^Authorization: .*?\r$", f"Authorization: Bearer {gateway.key}\r".encode(), asked.request_head)
    async with raw_client(gateway.port) as client:
        await client.send(head + (asked.request_body or b""))
        got = await client.answer()
    ids = [value for name, value in got.headers if name.lower() in ("request-id", "x-request-id")]
    assert len(ids) == 2
    assert len(set(ids)) == 1
    return got


def play(node: FakeOllama, answer: dict[str, Any]) -> None:
    """Let the node say what Ollama's layer made an Anthropic message of."""
    parts = []
    for block in answer["content"]:
        use = block["type"] == "tool_use"
        parts.append(calls((block["name"], block["input"])) if use else {"content": block["text"]})
    usage = answer["usage"]
    reason = REASONS[answer["stop_reason"]]
    cue(node, *parts, reason=reason, prompt=usage["input_tokens"], output=usage["output_tokens"])


def told(answer: dict[str, Any]) -> tuple[Any, ...]:
    """What an answer says, without its ids."""
    content = [{key: value for key, value in block.items() if key != "id"} for block in answer["content"]]
    usage = {key: answer["usage"][key] for key in ("input_tokens", "output_tokens")}
    return answer["role"], answer["model"], content, answer["stop_reason"], usage


@pytest.mark.parametrize("name", ANSWERED)
async def test_a_recorded_request_is_answered_as_ollama_answered_it(
    gateway: RunningGateway, node: FakeOllama, name: str
) -> None:
    asked = recording(name)
    answer = json.loads(asked.body)
    play(node, answer)
    got = await send(gateway, asked)
    assert got.status == 200
    Message.model_validate(got.json())
    assert told(got.json()) == told(answer)
    row = await gateway.row()
    usage = answer["usage"]
    assert (row["prompt_tokens"], row["output_tokens"]) == (usage["input_tokens"], usage["output_tokens"])


async def test_a_recorded_stream_is_answered_with_the_same_text(gateway: RunningGateway, node: FakeOllama) -> None:
    asked = recording("stream")
    events = read_events(asked.body)
    texts = [data["delta"]["text"] for name, data in events if name == "content_block_delta"]
    end = next(data for name, data in events if name == "message_delta")
    cue(node, *({"content": text} for text in texts), reason="length", prompt=24, output=end["usage"]["output_tokens"])
    ours = read_events((await send(gateway, asked)).body)
    RawMessageStartEvent.model_validate(ours[0][1])
    assert [data["delta"]["text"] for name, data in ours if name == "content_block_delta"] == texts
    (last,) = [data for name, data in ours if name == "message_delta"]
    assert last["delta"]["stop_reason"] == end["delta"]["stop_reason"]
    assert last["usage"]["output_tokens"] == end["usage"]["output_tokens"]
    assert [name for name, _ in ours if name != "ping"] == [name for name, _ in events]


async def test_what_ollama_does_not_have_is_answered_here(gateway: RunningGateway) -> None:
    counted = await send(gateway, recording("count-tokens"))
    assert counted.status == 200
    assert counted.json()["input_tokens"] >= 1
    listed = await send(gateway, recording("models"))
    assert listed.status == 200
    ids = {ModelInfo.model_validate(entry).id for entry in listed.json()["data"]}
    assert ids == {"wordy:latest", "wordy-tools:latest"}


def test_every_recording_of_the_client_is_replayed() -> None:
    there = {path.stem.removeprefix("sdk-anthropic-") for path in FOLDER.glob("sdk-anthropic-*.json")}
    assert there == {*ANSWERED, "stream", "count-tokens", "models"}
