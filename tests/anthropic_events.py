"""What tests of the Anthropic gateway share: requests, answers of a node, and clients that read what comes of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import httpx2
from anthropic import Anthropic as Client
from parallama_anthropic import Anthropic, AnthropicMessages, AnthropicModels

from parallama.errors import ApiError
from parallama.gateway.api import Codec, Gateway, Inbound, Route
from parallama.testing import Transcript, inbound

WORDY, THINKER = "llama3.2:1b", "qwen3:0.6b"
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]
WEATHER = {
    "name": "get_weather",
    "description": "Weather in a city",
    "input_schema": {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}},
}
GATEWAYS: Sequence[Gateway] = (Anthropic(), AnthropicMessages(), AnthropicModels())


def find(path: str, method: str = "POST") -> tuple[Route, dict[str, str]]:
    """The route for a path with its mount, and the variables of the path."""
    for gateway in GATEWAYS:
        for route in gateway.routes():
            start, variable, _ = (gateway.paths[0] + route.path).partition("{model:.+}")
            if route.method == method and (path == start or (variable and path.startswith(start))):
                return route, {"model": path.removeprefix(start)} if variable else {}
    raise AssertionError(f"no route for {method} {path}")


def opened(body: Any, path: str = "/anthropic/v1/messages", method: str = "POST", **more: Any) -> Codec:
    """The codec of a request; `more` as for `inbound`."""
    route, params = find(path, method)
    asked: Inbound = inbound(body, path, method=method, params=params, **more)
    return route.open(asked)


def ask(model: str = WORDY, **more: Any) -> dict[str, Any]:
    """A request for a message."""
    return {"model": model, "max_tokens": 64, "messages": QUESTION, **more}


def native(model: str = WORDY, known: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """What the node is asked for it; `known` as for `inbound`."""
    (outbound,) = opened(ask(model, **more), **(known or {})).outbounds
    assert (outbound.method, outbound.path, outbound.model) == ("POST", "/api/chat", model)
    return dict(outbound.body or {})


def turn(*blocks: Any, role: str = "user") -> dict[str, Any]:
    """A message of these blocks."""
    return {"role": role, "content": list(blocks)}


def text(words: str) -> dict[str, Any]:
    """A block of text."""
    return {"type": "text", "text": words}


def image(**source: Any) -> dict[str, Any]:
    """A block with an image."""
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo=", **source}}


def piece(content: str = "", thinking: str = "", calls: Sequence[Any] = ()) -> dict[str, Any]:
    """One line of a node."""
    message: dict[str, Any] = {"role": "assistant", "content": content}
    message |= {"thinking": thinking} if thinking else {}
    message |= {"tool_calls": list(calls)} if calls else {}
    return {"model": "target", "created_at": "2026-11-21T01:55:54Z", "message": message, "done": False}


def call(name: str, arguments: Any, id: str = "", index: int = 0) -> dict[str, Any]:
    """A tool call of a node; Ollama gives every one the index 0."""
    return {"id": id, "function": {"index": index, "name": name, "arguments": arguments}}


def done(reason: str | None = "stop", prompt: int | None = 24, output: int | None = 13, **more: Any) -> dict[str, Any]:
    """The last line of a node."""
    counts = {"done_reason": reason, "prompt_eval_count": prompt, "eval_count": output}
    told = {name: value for name, value in counts.items() if value is not None}
    return {**piece(**more), "done": True, **told}


class Events(list[tuple[str, Any]]):
    """The events of a stream: names, and their data."""

    def named(self, name: str) -> list[Any]:
        return [data for event, data in self if event == name]

    @property
    def names(self) -> list[str]:
        return [event for event, _ in self]


def read_events(data: bytes) -> Events:
    """Raises ValueError for what the official SDK would not read: no event line, no end, a type of another name."""
    events = Events()
    *whole, rest = data.split(b"\n\n")
    if rest:
        raise ValueError("the last event has no end")
    for event in whole:
        first, second = event.split(b"\n")
        name, value = first.removeprefix(b"event: ").decode(), json.loads(second.removeprefix(b"data: "))
        if not first.startswith(b"event: ") or value["type"] != name:
            raise ValueError("the event has no name, or another one")
        events.append((name, value))
    return events


def is_error(event: tuple[str, Any]) -> bool:
    """Whether an event tells an error."""
    return event[0] == "error"


def play(codec: Codec, transcript: Transcript) -> bytes:
    """All that the client gets of a whole answer. Raises the codec's ApiError."""
    codec.begin(transcript.head)
    return codec.feed(transcript.body) + codec.finish()


def broken(codec: Codec, transcript: Transcript) -> tuple[bytes, ApiError]:
    """What the client of a stream gets of an answer that fails, and why it does."""
    codec.begin(transcript.head)
    out = b""
    try:
        out = codec.feed(transcript.body)
        codec.finish()
    except ApiError as error:
        return out + codec.fail(error), error
    raise AssertionError("the answer does not fail")


def document(transcript: Transcript, body: Any = None, **more: Any) -> dict[str, Any]:
    """The message for a client that wants one document."""
    answer: dict[str, Any] = json.loads(play(opened(body or ask(), **more), transcript))
    return answer


def events(transcript: Transcript, body: Any = None, **more: Any) -> Events:
    """The events of the same for a client that wants a stream."""
    return read_events(play(opened({**(body or ask()), "stream": True}, **more), transcript))


def client(handle: Callable[[httpx2.Request], httpx2.Response]) -> Client:
    """The official SDK, with `handle` in place of a network."""
    http = httpx2.Client(transport=httpx2.MockTransport(handle))
    return Client(api_key="k", base_url="http://gateway/anthropic", max_retries=0, http_client=http)


def answering(transcript: Transcript, sizes: int = 0) -> Client:
    """The SDK before our gateway, whose node says this; `sizes`: how many bytes a read of a stream has."""

    def handle(request: httpx2.Request) -> httpx2.Response:
        codec = opened(request.content, request.url.path, request.method, query=dict(request.url.params))
        try:
            out = play(codec, transcript)
        except ApiError as error:
            if not codec.streams:
                reply = GATEWAYS[0].render_error(error)
                return httpx2.Response(reply.status, headers=dict(reply.headers), content=reply.body)
            out = broken(opened(request.content, request.url.path), transcript)[0]
        return httpx2.Response(200, headers=list(codec.reply.headers), content=cut(out, sizes or len(out)))

    return client(handle)


def cut(data: bytes, size: int) -> Iterator[bytes]:
    """`data` in pieces of that many bytes."""
    yield from (data[at : at + size] for at in range(0, len(data), size))
