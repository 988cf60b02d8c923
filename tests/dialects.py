"""The dialects of chat and generation that are installed: what is asked in each, and how its answers are heard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Any

import hearing
from hearing import Heard
from recorded import find_route

from parallama.errors import ApiError, UpstreamFailed
from parallama.gateway.api import Codec, Gateway
from parallama.testing import Transcript, inbound

MODEL = "qwen3:0.6b"
"""One of the kit's: it thinks and calls tools."""
MESSAGES = [{"role": "user", "content": "Why?"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"name": "weather", "parameters": CITY}
USAGE = {"stream_options": {"include_usage": True}}


@cache
def installed() -> list[Gateway]:
    """Every gateway of every plugin, with its default options."""
    plugins = [entry.load() for entry in sorted(entry_points(group="parallama"), key=lambda entry: entry.name)]
    return [gateway() for plugin in plugins for gateway in plugin.register_gateways()]


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One endpoint that generates."""

    path: str
    """With the mount."""
    node_path: str
    body: Mapping[str, Any]
    """What is asked, but for `model` and `stream`."""
    streams: Mapping[str, Any] = field(default_factory=dict)
    """Asked for besides, in a stream."""
    logprobs: Mapping[str, Any] = field(default_factory=dict)
    """Asked for besides, where the node's answer has log probabilities."""
    stream: Callable[[bytes], Heard]
    """Reads a whole stream."""
    document: Callable[[Any], Heard]
    """Reads a document."""

    @property
    def passes(self) -> bool:
        """Whether the node's bytes pass as they are."""
        return self.path.startswith("/ollama/api")

    @property
    def is_sse(self) -> bool:
        """Whether its streams are server-sent events."""
        return not self.path.startswith("/ollama")

    def gateway(self) -> tuple[Gateway, str]:
        """The gateway for the path, and its mount there: the longest."""
        found = [(mount, one) for one in installed() for mount in one.paths if self.path.startswith(mount)]
        mount, gateway = max(found, key=lambda pair: len(pair[0]))
        return gateway, mount

    def open(self, *, streams: bool, logprobs: bool = False) -> Codec:
        """A codec for the question."""
        gateway, mount = self.gateway()
        path = self.path.removeprefix(mount)
        found = find_route(gateway, "POST", path)
        assert found is not None, self.path
        body = {**self.asked(streams=streams), **(self.logprobs if logprobs else {})}
        codec: Codec = found[0].open(inbound(body, path, mount=mount))
        return codec

    def asked(self, *, streams: bool) -> dict[str, Any]:
        """The question."""
        return {"model": MODEL, **self.body, "stream": streams, **(self.streams if streams else {})}


DIALECTS = [
    Dialect(
        path="/openai/v1/chat/completions",
        node_path="/api/chat",
        body={"messages": MESSAGES, "tools": [{"type": "function", "function": FUNCTION}]},
        streams=USAGE,
        logprobs={"logprobs": True, "top_logprobs": 2},
        stream=hearing.chat_stream,
        document=hearing.chat_document,
    ),
    Dialect(
        path="/openai/v1/responses",
        node_path="/api/chat",
        body={"input": "Why?", "tools": [{"type": "function", **FUNCTION}]},
        stream=hearing.response_stream,
        document=hearing.response_document,
    ),
    Dialect(
        path="/anthropic/v1/messages",
        node_path="/api/chat",
        body={
            "messages": MESSAGES,
            "max_tokens": 64,
            "tools": [{"name": "weather", "input_schema": CITY}],
            "thinking": {"type": "enabled", "budget_tokens": 1024},
        },
        stream=hearing.message_stream,
        document=hearing.message_document,
    ),
    Dialect(
        path="/ollama/v1/chat",
        node_path="/api/chat",
        body={"messages": MESSAGES},
        stream=hearing.simple_stream,
        document=hearing.simple_document,
    ),
    Dialect(
        path="/ollama/api/chat",
        node_path="/api/chat",
        body={"messages": MESSAGES},
        stream=hearing.native_stream,
        document=hearing.native_document,
    ),
    Dialect(
        path="/openai/v1/completions",
        node_path="/api/generate",
        body={"prompt": "Why?"},
        streams=USAGE,
        logprobs={"logprobs": 2},
        stream=hearing.completion_stream,
        document=hearing.completion_document,
    ),
    Dialect(
        path="/ollama/v1/generate",
        node_path="/api/generate",
        body={"prompt": "Why?"},
        stream=hearing.simple_stream,
        document=hearing.simple_document,
    ),
    Dialect(
        path="/ollama/api/generate",
        node_path="/api/generate",
        body={"prompt": "Why?"},
        stream=hearing.native_stream,
        document=hearing.native_document,
    ),
]


@dataclass(frozen=True)
class Rendered:
    """What the client gets."""

    status: int
    content_type: str
    body: bytes
    streams: bool

    def told_error(self) -> int:
        """How many errors the client is told."""
        return int(self.status >= 400) or hearing.errors(self.body)


def render(dialect: Dialect, answer: Transcript, *, streams: bool, logprobs: bool = False) -> Rendered:
    """The client's bytes for the node's, as the relay has them: an error before the first byte has a status."""
    codec = dialect.open(streams=streams, logprobs=logprobs)
    head, out = codec.begin(answer.head), b""
    try:
        for line in answer.body.splitlines(keepends=True):
            out += codec.feed(line)
        if not answer.complete:
            raise UpstreamFailed("the node broke the answer off")
        out += codec.finish()
    except ApiError as error:
        if not (codec.streams and out):
            reply = dialect.gateway()[0].render_error(error)
            return Rendered(reply.status, reply.headers["Content-Type"], reply.body, streams=False)
        out += codec.fail(error)
    return Rendered(head.status, head.header("content-type"), out, codec.streams)
