"""Streams that break, stall or are left, as the official `openai` client and the bytes beneath it tell of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import openai
import pytest
from asking import Gate, asked, at_rest
from databases import fresh_database
from openai import AsyncOpenAI, OpenAI
from openai_clients import MODEL, QUESTION, Ai, says, text_of, writes
from running import CEILING_S, RunningGateway, running_gateway
from shared_gateway import ai as ai
from shared_gateway import gateway as gateway
from shared_gateway import gateway_settings as gateway_settings
from shared_gateway import in_one_loop
from shared_gateway import node as node
from shared_gateway import served as served

from parallama.testing import Answer, FakeOllama, Fault

pytestmark = in_one_loop

BREAKS = (
    "closes",
    "resets",
    "closes in a line",
    "tells",
    "stops",
    "stops in a line",
    "babbles",
)


def breaks(name: str, lines: Sequence[bytes], gate: asyncio.Event) -> Answer:
    """An answer of these lines that breaks behind the second one, or lacks the last; the gate is behind the first."""
    two = len(lines[0] + lines[1])
    answer = {
        "closes": Answer(lines=lines, fault=Fault.CLOSE, after_body=two),
        "resets": Answer(lines=lines, fault=Fault.RESET, after_body=two),
        "closes in a line": Answer(lines=lines, fault=Fault.CLOSE, after_body=two + 20),
        "tells": Answer(lines=lines, fault=Fault.ERROR_LINE, after_lines=2, error="out of memory"),
        "stops": Answer(lines=lines[:-1]),
        "stops in a line": Answer(lines=[*lines[:2], lines[2][:20]]),
        "babbles": Answer(lines=lines, fault=Fault.BAD_JSON, after_lines=2),
    }[name]
    return replace(answer, hold_chunks=gate)


CHATTED = list(says(*map(str, range(9))).lines or ())
WRITTEN = list(writes(*map(str, range(9))).lines or ())
BODIES: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": QUESTION},
    "completions": {"prompt": "Why?"},
    "responses": {"input": "Why?"},
}
ENDS = (b"[DONE]", b"response.completed", b"response.incomplete", b'"finish_reason":"')


class Opening(list[Any]):
    """A list that opens a gate once something is in it, from whatever thread that comes."""

    def __init__(self, gate: asyncio.Event) -> None:
        self._open, self._loop = gate.set, asyncio.get_running_loop()

    def append(self, part: Any) -> None:
        super().append(part)
        self._loop.call_soon_threadsafe(self._open)


@pytest.mark.parametrize("name", BREAKS)
async def test_a_node_that_breaks_a_stream_is_an_error(
    gateway: RunningGateway, node: FakeOllama, ai: Ai, name: str
) -> None:
    gate = asyncio.Event()
    parts = Opening(gate)
    node.cue(breaks(name, CHATTED, gate), "/api/chat")
    with pytest.raises(openai.APIError) as caught:
        await ai.chat(stream=True, stream_options={"include_usage": True}, into=parts)
    assert not isinstance(caught.value, openai.APIConnectionError)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body.keys() == {"message", "type", "param", "code"}
    assert ("out of memory" in caught.value.message) == (name == "tells")
    assert text_of(parts)
    assert "012345678".startswith(text_of(parts))
    assert not any(part.usage or part.choices[0].finish_reason for part in parts)
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["streamed"], row["estimated"]) == (502, "failed", True, True)
    assert len(node.seen("/api/chat")) == 1


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("name", BREAKS)
async def test_the_bytes_of_a_broken_stream_tell_it_once_and_have_no_end(
    gateway: RunningGateway, node: FakeOllama, name: str, path: str
) -> None:
    gate = asyncio.Event()
    node.cue(breaks(name, WRITTEN if path == "completions" else CHATTED, gate))
    async with asked(gateway, f"/openai/v1/{path}", {"model": MODEL, "stream": True, **BODIES[path]}) as client:
        assert (await client.head()).startswith("HTTP/1.1 200 ")
        body = await client.chunk()
        gate.set()
        while chunk := await client.chunk():
            body += chunk
    assert body.endswith(b"\n\n")
    assert not [end for end in ENDS if end in body]
    *before, last = [data_of(event) for event in body.split(b"\n\n")[:-1]]
    assert before
    assert not [event for event in before if event.get("error")]
    assert last["error"].keys() >= {"message", "code"}
    assert (await gateway.row())["outcome"] == "failed"


def data_of(event: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(event.partition(b"data: ")[2])
    return found


async def test_a_client_that_leaves_frees_the_node(gateway: RunningGateway, node: FakeOllama, ai: Ai) -> None:
    gate = Gate()
    node.cue(Answer(lines=CHATTED, hold_chunks=gate), "/api/chat")
    await (asyncio.to_thread(glance, ai.client) if ai.blocks else glance_async(ai.client))
    seen = await node.request_for("/api/chat")
    async with asyncio.timeout(CEILING_S):
        await seen.client_left.wait()
    await at_rest(gateway)
    row = await gateway.row()
    assert (row["outcome"], row["streamed"], row["estimated"]) == ("cancelled", True, True)
    assert not gate.is_set()


def glance(client: Any) -> None:
    """Read one part of a stream, and close it."""
    with client, client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True) as stream:
        assert next(iter(stream)).choices


async def glance_async(client: Any) -> None:
    """The same with the other client."""
    async with client, await client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True) as stream:
        async for part in stream:
            assert part.choices
            break


@pytest.mark.parametrize("kind", [OpenAI, AsyncOpenAI])
async def test_a_node_that_says_nothing_is_timed_out(postgres: str, node: FakeOllama, kind: type[OpenAI]) -> None:
    patience = {"nodes": [{"name": "node-1", "url": node.url, "first_byte_s": 0.2, "idle_s": 0.2}]}
    async with fresh_database(postgres) as url, running_gateway(url, node.url, patience) as gateway:
        ai = Ai(kind, gateway.url, gateway.key)
        for stream in (False, True):
            node.cue(Answer(fault=Fault.HANG), "/api/chat")
            with pytest.raises(openai.InternalServerError) as caught:
                await ai.chat(stream=stream)
            assert (caught.value.status_code, caught.value.code) == (504, "timed_out")
        node.cue(Answer(lines=CHATTED, fault=Fault.HANG, after_body=len(CHATTED[0])), "/api/chat")
        parts: list[Any] = []
        with pytest.raises(openai.APIError) as late:
            await ai.chat(stream=True, into=parts)
        assert not isinstance(late.value, openai.APIConnectionError)
        assert (text_of(parts), late.value.code) == ("0", "timed_out")
        assert [row["status"] for row in await gateway.rows(3)] == [504, 504, 504]
