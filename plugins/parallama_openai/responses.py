"""`POST /responses`: items and events for the answers of `/api/chat`. Nothing is stored.

A stream that breaks ends in two events: `response.failed` holds the failed response, and `error` is what the SDKs raise
as an APIError, for its member `error`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from parallama.errors import ApiError
from parallama.gateway.api import Codec, Head, Inbound
from parallama.gateway.generation import LENGTH, Generation, Said, ToolCall
from parallama.gateway.sse import COMMENT, JSON, SSE
from parallama_openai.answers import told_logprobs
from parallama_openai.errors import error_body
from parallama_openai.response_events import COMPLETED, IN_PROGRESS, INCOMPLETE, Output
from parallama_openai.response_request import Question, understand, wanted_documents

__all__ = ["open_response", "wanted_documents"]

_CODES = {400: "invalid_prompt", 429: "rate_limit_exceeded"}
"""The codes of failed responses that OpenAI knows, by our statuses; any other is `server_error`."""


def open_response(inbound: Inbound) -> Codec:
    """The codec of a request for a response. Raises BadRequest."""
    return Responding(inbound, understand(inbound))


class Responding(Generation):
    """A response. For one document too, every piece is taken as it comes: its items keep their order."""

    heartbeat = COMMENT

    def __init__(self, inbound: Inbound, question: Question) -> None:
        super().__init__(inbound, question.outbound, streams=True)
        self.streams = self._live = question.streams
        self.reply = SSE if question.streams else JSON
        self.ignored, self.end_user = question.ignored, question.end_user
        self._question = question
        self._head = {"id": f"resp_{inbound.id}", "object": "response", "created_at": inbound.at}
        self._output = self._new_output()
        self._opened = False

    def _new_output(self) -> Output:
        return Output(self._id, sealed=self._question.sealed)

    def begin(self, head: Head) -> Head:
        """As Generation; what an earlier node said is forgotten."""
        super().begin(head)
        self.streams = self.streams and self._live
        self._output = self._new_output()
        return self.reply

    def line(self, message: dict[str, Any]) -> bytes:
        """The events for one message of the node, or the document when it is whole."""
        events = super().line(message)
        if not self._live:
            return self.document() if self.complete else b""
        return self._opening() + events if events else b""

    def thought(self, text: str) -> bytes:
        """Events of the reasoning."""
        return self._output.thought(text)

    def wrote(self, text: str, logprobs: list[Any] | None) -> bytes:
        """Events of the message; log probabilities alone are none."""
        wanted = logprobs if self._question.logprobs else None
        return self._output.wrote(text, told_logprobs(wanted or ())) if text else b""

    def called(self, call: ToolCall) -> bytes:
        """Events of the call; where only one is wanted, the first."""
        return b"" if call.index and self._question.one_call else self._output.called(call)

    def ended(self, said: Said) -> bytes:
        """The end of the item that is under way."""
        return self._output.close(INCOMPLETE if said.reason == LENGTH else COMPLETED)

    def closed(self) -> bytes:
        """The last event, with all of the response."""
        response = self._whole()
        return self._output.lifecycle(response["status"], response)

    def document(self) -> bytes:
        """The response itself."""
        return orjson.dumps(self._whole())

    def fail(self, error: ApiError) -> bytes:
        """The events that tell `error`, which no event may follow."""
        if not (self._live and super().fail(error)):
            return b""
        told = {"code": _CODES.get(error.status, "server_error"), "message": str(error)}
        response = self._response("failed", self._output.items, error=told)
        return self._opening() + self._output.lifecycle("failed", response) + self._output.error(error_body(error))

    def _opening(self) -> bytes:
        """The first events, once: they wait for the first piece, so that what fails before it has a status."""
        if self._opened:
            return b""
        self._opened = True
        return self._output.opening(self._response(IN_PROGRESS))

    def _whole(self) -> dict[str, Any]:
        if self.said[-1].reason != LENGTH:
            return self._response(COMPLETED, self._output.items, usage=self._told_usage())
        why = {"reason": "max_output_tokens"}
        return self._response(INCOMPLETE, self._output.items, usage=self._told_usage(), incomplete_details=why)

    def _response(self, status: str, output: Sequence[dict[str, Any]] = (), **more: Any) -> dict[str, Any]:
        empty = {"error": None, "incomplete_details": None, "usage": None}
        return {**self._head, "status": status, **empty, **self._question.told, "output": list(output), **more}

    def _told_usage(self) -> dict[str, Any]:
        prompt, output = self._usage.prompt_tokens or 0, self._usage.output_tokens or 0
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": output,
            "output_tokens_details": {"reasoning_tokens": self._output.reasoning_share(output)},
            "total_tokens": prompt + output,
        }
