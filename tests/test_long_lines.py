"""Streams with long lines: nobody is cut off for the length of a line, and nobody slows a node with one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from asking import CHAT, MODEL
from raw_http import Got
from running import RunningGateway
from test_slow_clients import ENDLESS, LAST, LINE, MB, cut, slow

from parallama.testing import Answer, FakeOllama

GENERATE = {"model": MODEL, "prompt": "Say something."}


def long_line(size: int, **members: Any) -> bytes:
    """A line as the end of `/api/generate` with a context, or as any other of `size` bytes and some."""
    text = "x" * size
    message = {"role": "assistant", "content": text}
    line = {"message": message, "response": text, "done": False} | members
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"  # as Go writes it


def body(answer: bytes) -> bytes:
    """The body of a chunked answer."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    got, parts = Got(head.decode()), b""
    assert got.status == 200
    while rest != b"0\r\n\r\n":
        size, _, rest = rest.partition(b"\r\n")
        parts, rest = parts + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return parts


@pytest.mark.parametrize("gateway_settings", [ENDLESS])
@pytest.mark.parametrize(
    ("path", "asked_for"), [("/api/generate", GENERATE), ("/ollama/v1/chat", {**CHAT, "stream": True})]
)
async def test_a_slow_reader_gets_a_long_last_line_whole(
    gateway: RunningGateway, node: FakeOllama, path: str, asked_for: dict[str, Any]
) -> None:
    last = long_line(2 * MB, done=True, prompt_eval_count=7, eval_count=41)
    node.cue(Answer(lines=[LINE, last]))
    async with slow(gateway, path, asked_for) as client:
        answer = body(await client.rest())
    assert len(answer) > 2 * MB
    assert json.loads(answer.splitlines()[-1])["done"] is True
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["output_tokens"]) == (200, "ok", 41)


@pytest.mark.parametrize("gateway_settings", [ENDLESS])
@pytest.mark.parametrize(("path", "asked_for"), [("/api/chat", CHAT), ("/ollama/v1/chat", {**CHAT, "stream": True})])
@pytest.mark.parametrize("before", [[], [LINE]])
async def test_a_reader_that_stops_at_a_long_line_is_cut(
    gateway: RunningGateway, node: FakeOllama, path: str, asked_for: dict[str, Any], before: list[bytes]
) -> None:
    node.cue(Answer(lines=[*before, *[long_line(2 * MB)] * 50, LAST]))
    async with slow(gateway, path, asked_for):
        row = await cut(gateway, await node.request_for("/api/chat"))
    assert row["response_bytes"] < 20 * MB
