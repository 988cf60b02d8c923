"""`POST /chat/completions`: the answer of `/api/chat` as OpenAI streams it, or as one document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from parallama.errors import ApiError
from parallama.gateway.api import Codec, Head, Inbound, Outbound
from parallama.gateway.fields import read_body
from parallama.gateway.generation import STOP, Generation, Said, ToolCall
from parallama.gateway.sse import COMMENT, JSON, SSE
from parallama_openai import asked
from parallama_openai.answers import told_logprobs, told_usage
from parallama_openai.errors import error_event
from parallama_openai.parameters import end_user

_ROLE = b'{"role":"assistant","content":""}'
_DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How a client wants its answer."""

    stream: bool = False
    usage: bool = False
    """Told at the end of a stream; a document always tells it."""
    logprobs: bool = False
    one_call: bool = False
    """No more than one tool call: a node cannot be kept from more, so they are left out."""
    function_call: bool = False
    """In the words that were there before tools."""


def open_chat(inbound: Inbound) -> Codec:
    """Raises BadRequest."""
    given = read_body(inbound.raw)
    outbounds = asked.outbounds(given, inbound)
    older = "tools" not in given and "functions" in given
    stream = given.boolean("stream") or False
    options = given.object("stream_options") if stream else None
    wanted = Wanted(
        stream=stream,
        usage=bool(options and options.boolean("include_usage")),
        logprobs=given.boolean("logprobs") or False,
        one_call=older or given.boolean("parallel_tool_calls") is False,
        function_call=older,
    )
    codec = ChatCompletion(inbound, outbounds, wanted, ignored=asked.ignored(given))
    codec.end_user = end_user(given)
    return codec


class ChatCompletion(Generation):
    """The choices come one after another: each one's role, its pieces, and why it ended; then usage, and `[DONE]`.

    Thinking is called `reasoning`, as by Ollama's own OpenAI layer.
    """

    heartbeat = COMMENT

    def __init__(
        self, inbound: Inbound, outbounds: Sequence[Outbound], wanted: Wanted, ignored: Sequence[str] = ()
    ) -> None:
        super().__init__(inbound, *outbounds, streams=wanted.stream)
        self.reply = SSE if wanted.stream else JSON
        self.ignored = ignored
        self._asked = wanted
        kind = "chat.completion.chunk" if wanted.stream else "chat.completion"
        self._about = {
            "id": f"chatcmpl-{inbound.id}",
            "object": kind,
            "created": inbound.at,
            "model": outbounds[0].model,
        }
        self._event = b"data: " + orjson.dumps(self._about)[:-1]
        self._end = b',"usage":null}\n\n' if wanted.usage else b"}\n\n"
        self._opened = False
        self._head = b""
        self._tail = b',"logprobs":null,"finish_reason":null}]' + self._end

    def begin(self, head: Head) -> Head:
        super().begin(head)
        self._opened = False
        self._head = self._event + b',"choices":[{"index":%d,"delta":' % self.number
        return self.reply

    def thought(self, text: str) -> bytes:
        return self._delta(b'{"reasoning":%b}' % orjson.dumps(text))

    def wrote(self, text: str, logprobs: list[Any] | None) -> bytes:
        if logprobs and self._asked.logprobs:
            told = b',"logprobs":%b,"finish_reason":null}]' % orjson.dumps(_logprobs(logprobs))
            return self._delta(b'{"content":%b}' % orjson.dumps(text), told + self._end)
        return self._delta(b'{"content":%b}' % orjson.dumps(text)) if text else b""

    def called(self, call: ToolCall) -> bytes:
        if self._asked.one_call and call.index:
            return b""
        if self._asked.function_call:
            return self._delta(orjson.dumps({"function_call": _function(call)}))
        return self._delta(orjson.dumps({"tool_calls": [{"index": call.index, **_call(call)}]}))

    def ended(self, said: Said) -> bytes:
        told = b',"logprobs":null,"finish_reason":"%b"}]' % self._reason(said).encode()
        return self._delta(b"{}", told + self._end)

    def closed(self) -> bytes:
        if not self._asked.usage:
            return _DONE
        return b'%b,"choices":[],"usage":%b}\n\n' % (self._event, orjson.dumps(told_usage(self.usage))) + _DONE

    def document(self) -> bytes:
        choices = [self._choice(index, said) for index, said in enumerate(self.said)]
        return orjson.dumps({**self._about, "choices": choices, "usage": told_usage(self.usage)})

    def fail(self, error: ApiError) -> bytes:
        return error_event(error) if super().fail(error) else b""

    def _delta(self, delta: bytes, tail: bytes = b"") -> bytes:
        chunk = self._head + delta + (tail or self._tail)
        if self._opened:
            return chunk
        self._opened = True
        return self._head + _ROLE + self._tail + chunk

    def _reason(self, said: Said) -> str:
        if said.calls and said.reason == STOP:
            return "function_call" if self._asked.function_call else "tool_calls"
        return said.reason

    def _choice(self, index: int, said: Said) -> dict[str, Any]:
        logprobs = _logprobs(said.logprobs) if self._asked.logprobs else None
        return {
            "index": index,
            "message": self._said(said),
            "logprobs": logprobs,
            "finish_reason": self._reason(said),
        }

    def _said(self, said: Said) -> dict[str, Any]:
        text = None if said.calls and not said.text else said.text
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if said.thinking:
            message["reasoning"] = said.thinking
        if said.calls and self._asked.function_call:
            message["function_call"] = _function(said.calls[0])
        elif said.calls:
            message["tool_calls"] = [_call(call) for call in said.calls[: 1 if self._asked.one_call else None]]
        return message


def _function(call: ToolCall) -> dict[str, str]:
    return {"name": call.name, "arguments": call.arguments}


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": _function(call)}


def _logprobs(items: Sequence[Any]) -> dict[str, Any]:
    """`{content, refusal}`."""
    return {"content": told_logprobs(items), "refusal": None}
