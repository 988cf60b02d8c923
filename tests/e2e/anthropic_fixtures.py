"""What tests with the official `anthropic` client share: calls by name, sync and async, and answers of a node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from inspect import isawaitable
from operator import attrgetter
from typing import Any

from anthropic import Anthropic, AsyncAnthropic, AsyncStream, Stream
from running import RunningGateway

from parallama.testing import Answer, FakeOllama

MODEL, THINKER, EMBEDDER = "llama3.2:1b", "qwen3:0.6b", "nomic-embed-text"
QUESTION: list[Any] = [{"role": "user", "content": "Why is the sky blue?"}]
ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 64, "messages": QUESTION}
WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}

Ask = Callable[..., Awaitable[Any]]
"""Calls a method of a client by its dotted name; a stream comes back as the list of its events."""

WAYS = {"sync": (Anthropic, ""), "async": (AsyncAnthropic, "/anthropic")}
"""Either client, at either place where the gateway is found."""


async def call(client: Anthropic | AsyncAnthropic, method: str, **arguments: Any) -> Any:
    """One call; that of a blocking client in a thread, as in a program of its own."""
    if isinstance(client, Anthropic):
        return await asyncio.to_thread(_call, client, method, arguments)
    async with client:
        got = attrgetter(method)(client)(**arguments)
        got = await got if isawaitable(got) else got
        return [event async for event in got] if isinstance(got, AsyncStream) else got


def _call(client: Anthropic, method: str, arguments: dict[str, Any]) -> Any:
    with client:
        got = attrgetter(method)(client)(**arguments)
        return list(got) if isinstance(got, Stream) else got


async def helped(client: Anthropic | AsyncAnthropic, **arguments: Any) -> tuple[list[Any], Any]:
    """The events of the helper `messages.stream`, and its final message."""
    if isinstance(client, Anthropic):
        return await asyncio.to_thread(_helped, client, arguments)
    async with client, client.messages.stream(**arguments) as stream:
        return [event async for event in stream], await stream.get_final_message()


def _helped(client: Anthropic, arguments: dict[str, Any]) -> tuple[list[Any], Any]:
    with client, client.messages.stream(**arguments) as stream:
        return list(stream), stream.get_final_message()


def make(gateway: RunningGateway, way: str, key: str | None = None, **how: Any) -> Anthropic | AsyncAnthropic:
    """A client of alice's, or with another key; it does not try again unless told to."""
    kind, path = WAYS[way]
    client: Anthropic | AsyncAnthropic = kind(
        base_url=gateway.url + path, api_key=key or gateway.key, **{"max_retries": 0, **how}
    )
    return client


def asking(gateway: RunningGateway, way: str) -> Ask:
    """`ask(method, **arguments)` with a new client each time."""

    async def ask(method: str, **arguments: Any) -> Any:
        return await call(make(gateway, way), method, **arguments)

    return ask


def said(*messages: dict[str, Any], reason: str = "stop", prompt: int = 24, output: int = 13) -> list[bytes]:
    """The lines of `/api/chat` with these members of `message`, one each, and the last line with counts."""
    head = {"model": MODEL, "created_at": "2026-11-21T01:55:54.0Z"}
    lines = [{**head, "message": {"role": "assistant", "content": "", **part}, "done": False} for part in messages]
    counts = {"done_reason": reason, "prompt_eval_count": prompt, "eval_count": output}
    lines.append({**head, "message": {"role": "assistant", "content": ""}, "done": True, **counts})
    return [json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines]


def cue(node: FakeOllama, *messages: dict[str, Any], **how: Any) -> None:
    """The node's next answer is `said` so."""
    node.cue(Answer(lines=said(*messages, **how)), "/api/chat")


def calls(*functions: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """The members of a message that calls tools as Ollama does: without ids, each with the index 0."""
    return {"tool_calls": [{"function": {"index": 0, "name": name, "arguments": given}} for name, given in functions]}


async def sent(node: FakeOllama, number: int = 0) -> dict[str, Any]:
    """The body of a request that the node got."""
    body: dict[str, Any] = json.loads((await node.request_for("/api/chat", number)).body)
    return body


def text_of(message: Any) -> str:
    """All text of an answer."""
    return "".join(block.text for block in message.content if block.type == "text")


def kinds(events: Sequence[Any]) -> list[str]:
    """The types of events, each run of equal ones once."""
    found: list[str] = []
    for event in events:
        found += [event.type] if found[-1:] != [event.type] else []
    return found
