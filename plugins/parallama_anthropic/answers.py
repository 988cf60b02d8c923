"""The answer to `/messages`: what a node says to `/api/chat` as one message, in a stream of events or one document."""

from __future__ import annotations

from typing import Any

import orjson

from parallama.errors import ApiError
from parallama.gateway.api import Codec, Head, Inbound
from parallama.gateway.generation import LENGTH, Generation, Said, ToolCall
from parallama.gateway.sse import JSON, SSE, event
from parallama_anthropic.content import TEXT, THINKING, Content, Events
from parallama_anthropic.errors import error_event
from parallama_anthropic.requests import Question, Thoughts, understand

PING = event({"type": "ping"}, "ping")


def open_messages(inbound: Inbound) -> Codec:
    """Raises BadRequest."""
    return Message(inbound, understand(inbound))


class Message(Generation):
    """One message."""

    call_prefix = "toolu_"
    heartbeat = PING

    def __init__(self, inbound: Inbound, question: Question) -> None:
        super().__init__(inbound, question.outbound(), streams=question.streams)
        self.reply = SSE if question.streams else JSON
        self.ignored, self.end_user = question.ignored, question.end_user
        self._question = question
        self._new()

    def _new(self) -> None:
        self._events = Events(self._started, self._id)
        self._content = Content(self._id)

    def begin(self, head: Head) -> Head:
        """As Generation."""
        self._new()
        return super().begin(head)

    def thought(self, text: str) -> bytes:
        """A `thinking_delta`, if the client wants to read it."""
        if self._question.thoughts is Thoughts.HIDDEN:
            return b""
        shown = self._question.thoughts is Thoughts.SHOWN
        return self._events.piece(THINKING, text) if shown else self._events.begin(THINKING)

    def wrote(self, text: str, logprobs: list[Any] | None) -> bytes:
        """A `text_delta`."""
        return self._events.piece(TEXT, text) if text else b""

    def called(self, call: ToolCall) -> bytes:
        """A block `tool_use`."""
        return self._events.use(call) if self._tells(call) else b""

    def ended(self, said: Said) -> bytes:
        """The end of the last block."""
        return self._events.end()

    def closed(self) -> bytes:
        """`message_delta` with the true usage, and `message_stop`."""
        delta = {"type": "message_delta", "delta": self._stop(), "usage": self._told_usage()}
        return event(delta, "message_delta") + event({"type": "message_stop"}, "message_stop")

    def fail(self, error: ApiError) -> bytes:
        """An event `error`, wherever the stream broke: SDKs do not notice that an end is missing."""
        return error_event(error) if super().fail(error) else b""

    def document(self) -> bytes:
        """The whole message."""
        return orjson.dumps({**self._told(self._content.whole()), **self._stop(), "usage": self._told_usage()})

    def collect(self, text: str, thinking: str, calls: list[ToolCall], logprobs: list[Any] | None) -> None:
        """Keep the order of the pieces, as a stream has it; `said` does not."""
        if thinking and self._question.thoughts is not Thoughts.HIDDEN:
            self._content.add(THINKING, thinking if self._question.thoughts is Thoughts.SHOWN else "")
        if text:
            self._content.add(TEXT, text)
        for call in filter(self._tells, calls):
            self._content.use(call)

    def _tells(self, call: ToolCall) -> bool:
        return not (self._question.one_call and call.index)

    def _started(self) -> bytes:
        """`message_start`, whose count of the prompt is an estimate."""
        usage = _usage(self._question.input_tokens(self._models), 0)
        message = {**self._told([]), "stop_reason": None, "stop_sequence": None, "usage": usage}
        return event({"type": "message_start", "message": message}, "message_start") + PING

    def _told(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        who = {"id": f"msg_{self._id}", "type": "message", "role": "assistant", "model": self._question.model}
        return {**who, "content": content}

    def _stop(self) -> dict[str, str | None]:
        """Ollama does not tell a stop sequence from any other end, so it is none."""
        said = self.said[-1]
        reason = "max_tokens" if said.reason == LENGTH else "tool_use" if said.calls else "end_turn"
        return {"stop_reason": reason, "stop_sequence": None}

    def _told_usage(self) -> dict[str, int]:
        return _usage(self.usage.prompt_tokens or 0, self.usage.output_tokens or 0)


def _usage(input_tokens: int, output_tokens: int) -> dict[str, int]:
    cache = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {"input_tokens": input_tokens, **cache, "output_tokens": output_tokens}
