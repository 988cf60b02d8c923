"""The official `openai` client, unmodified, blocking and asyncio, and the answers of a node that it is shown.

The blocking one asks at `/openai/v1`, the asyncio one at `/v1`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from openai import AsyncOpenAI, AsyncStream, OpenAI, Stream
from running import RunningGateway

from parallama.testing import Answer, FakeOllama

MODEL, THINKER, EMBEDDER = "llama3.2:1b", "qwen3:0.6b", "nomic-embed-text"
QUESTION: list[Any] = [{"role": "user", "content": "Why is the sky blue?"}]
COUNTS = {"prompt_eval_count": 7, "eval_count": 5}
"""What a node counts in the answers made here."""


@dataclass(frozen=True)
class Ai:
    """A client of one kind; each call has a client of its own, closed behind it."""

    kind: type[OpenAI] | type[AsyncOpenAI]
    url: str
    """Of the gateway."""
    key: str
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the client; it does not try again unless they say so."""

    @property
    def base_url(self) -> str:
        return self.url + ("/openai/v1" if self.blocks else "/v1")

    @property
    def blocks(self) -> bool:
        return issubclass(self.kind, OpenAI)

    @property
    def client(self) -> Any:
        return self.kind(base_url=self.base_url, api_key=self.key, **{"max_retries": 0, **self.options})

    async def __call__(self, method: str, *args: Any, into: list[Any] | None = None, **arguments: Any) -> Any:
        """What a method gives, by its dotted name; a stream: its parts, which also go `into` a list as they come."""
        parts: list[Any] = [] if into is None else into
        if self.blocks:
            return await asyncio.to_thread(self._block, method, args, arguments, parts)
        async with self.client as client:
            got = await attrgetter(method)(client)(*args, **arguments)
            if not isinstance(got, AsyncStream):
                return got
            async with got:
                async for part in got:
                    parts.append(part)
        return parts

    def _block(self, method: str, args: Sequence[Any], arguments: dict[str, Any], parts: list[Any]) -> Any:
        with self.client as client:
            got = attrgetter(method)(client)(*args, **arguments)
            if not isinstance(got, Stream):
                return got
            with got:
                for part in got:
                    parts.append(part)
        return parts

    async def helper(self, method: str, final: str, **arguments: Any) -> tuple[list[Any], Any]:
        """The events of a helper such as `chat.completions.stream`, and what its method `final` gives then."""
        if self.blocks:
            return await asyncio.to_thread(self._block_helper, method, final, arguments)
        async with self.client as client, attrgetter(method)(client)(**arguments) as stream:
            events = [event async for event in stream]
            return events, await getattr(stream, final)()

    def _block_helper(self, method: str, final: str, arguments: dict[str, Any]) -> tuple[list[Any], Any]:
        with self.client as client, attrgetter(method)(client)(**arguments) as stream:
            return list(stream), getattr(stream, final)()

    async def chat(self, **arguments: Any) -> Any:
        """`chat.completions.create` of a question."""
        return await self("chat.completions.create", **{"model": MODEL, "messages": QUESTION, **arguments})


async def asked(node: FakeOllama, path: str = "/api/chat", number: int = 0) -> dict[str, Any]:
    """The body of the request with that number that the node has had."""
    body: dict[str, Any] = json.loads((await node.request_for(path, number)).body)
    return body


def says(*messages: dict[str, Any] | str, **end: Any) -> Answer:
    """A node's answer to a chat: a line for each message or text, and the done line with COUNTS and `end`."""
    lines = [{"message": one if isinstance(one, dict) else {"content": one}, "done": False} for one in messages]
    done = {"message": {"content": ""}, "done": True, "done_reason": "stop", **COUNTS}
    return Answer(lines=[_line(line) for line in [*lines, {**done, **end}]])


def writes(*texts: str, **end: Any) -> Answer:
    """The same for `/api/generate`."""
    lines: list[dict[str, Any]] = [{"response": text, "done": False} for text in texts]
    done = {"response": "", "done": True, "done_reason": "stop", **COUNTS}
    return Answer(lines=[_line(line) for line in [*lines, {**done, **end}]])


def _line(message: dict[str, Any]) -> bytes:
    told = {"model": MODEL, "created_at": "2026-11-21T01:55:54Z", **message}
    return json.dumps(told, separators=(",", ":")).encode() + b"\n"


def calls(*named: tuple[str, dict[str, Any]], id: str = "", text: str = "") -> dict[str, Any]:
    """A node's message with tool calls, all with index 0, as Ollama sends calls that come one by one."""
    entries = [{"id": id, "function": {"index": 0, "name": name, "arguments": given}} for name, given in named]
    return {"content": text, "tool_calls": entries}


def text_of(parts: Sequence[Any], choice: int = 0) -> str:
    """The text of a chat's or completion's stream."""
    found = [one for part in parts for one in part.choices if one.index == choice]
    return "".join((one.delta.content if hasattr(one, "delta") else one.text) or "" for one in found)


def tool(name: str, **properties: str) -> dict[str, Any]:
    """A function of `properties`, each with its type."""
    schema = {"type": "object", "properties": {key: {"type": kind} for key, kind in properties.items()}}
    return {"type": "function", "function": {"name": name, "description": f"Tells {name}.", "parameters": schema}}


async def booked(gateway: RunningGateway) -> tuple[int, int]:
    """The tokens of the one row that there is, which is of an exchange that went well."""
    row = await gateway.row()
    assert (row["gateway"], row["outcome"], row["status"], row["estimated"]) == ("openai", "ok", 200, False)
    return row["prompt_tokens"], row["output_tokens"]
