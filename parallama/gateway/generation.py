"""What a dialect of chat needs beside the lines of a node: the pieces of an answer, in order and numbered.

A dialect subclasses Generation and says what each piece is in its words; tool calls, their ids and numbers, the reason
of the end, and the whole answer for a client that wants one document are seen to here.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any

import orjson

from parallama.errors import UpstreamFailed
from parallama.gateway.api import Head, Inbound, Outbound
from parallama.gateway.counting import message_text
from parallama.gateway.fields import writable
from parallama.gateway.lines import read_object
from parallama.gateway.ndjson import NdjsonCodec

STOP, LENGTH = "stop", "length"
"""Why a model ends: it is done, or it may not go on. Whatever else Ollama says (`load`, `unload`) is a stop."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model wants called."""

    index: int
    """From 0, in the order in which the calls of an answer came."""
    id: str
    """The node's, or one of ours where it gave none or gave it twice; unique in the answer."""
    name: str
    arguments: str
    """A JSON object, as text."""


@dataclass(slots=True)
class Said:
    """All that came of one outbound."""

    thinking: str = ""
    text: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    """As Ollama has them: `{token, logprob, bytes?, top_logprobs?}`."""
    reason: str = STOP


class Generation(NdjsonCodec):
    """The pieces of the answers of `/api/chat` or `/api/generate`; a dialect adds the methods that return bytes.

    In a stream each is called when its piece comes; for one document only `document` is, at the end. `said` has what
    the answer to each outbound begun so far consists of; in a stream its texts stay empty, so that nothing grows.
    """

    call_prefix = "call_"
    """How ids of tool calls begin that are ours."""

    def __init__(self, inbound: Inbound, *outbounds: Outbound, streams: bool = False) -> None:
        super().__init__(inbound, *outbounds, streams=streams)
        self._id = inbound.id
        self.said: list[Said] = []
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._ids: set[str] = set()

    def begin(self, head: Head) -> Head:
        """As NdjsonCodec; what an earlier node said to this outbound is forgotten."""
        super().begin(head)
        del self.said[self.number :]
        self.said.append(Said())
        self._texts, self._thoughts, self._ids = [], [], set()
        return self.reply

    def line(self, message: dict[str, Any]) -> bytes:
        """The dialect's bytes for the pieces of one message of the node."""
        text, thinking = message_text(message)
        logprobs = _logprobs(message) if text or not thinking else None
        done = message.get("done") is True
        calls = self._calls(message)
        if not self._wanted:
            self.collect(text, thinking, calls, logprobs)
            if not done:
                return b""
            self._close(message)
            return self.document() if self.complete else b""
        out = []
        if thinking:
            out.append(self.thought(thinking))
        if text or logprobs:
            out.append(self.wrote(text, logprobs))
        out += [self.called(call) for call in calls]
        if done:
            self._close(message)
            out.append(self.ended(self.said[-1]))
            if self.complete:
                out.append(self.closed())
        return b"".join(out)

    def thought(self, text: str) -> bytes:
        """A piece of thinking."""
        return b""

    @abstractmethod
    def wrote(self, text: str, logprobs: list[Any] | None) -> bytes:
        """A piece of the answer; `text` may be empty where there are only log probabilities."""

    def called(self, call: ToolCall) -> bytes:
        """A tool call, whole."""
        return b""

    @abstractmethod
    def ended(self, said: Said) -> bytes:
        """The answer to one outbound is whole; `said` has its calls and its reason."""

    def closed(self) -> bytes:
        """The answers to all outbounds are whole; `usage` is final."""
        return b""

    @abstractmethod
    def document(self) -> bytes:
        """The one document for all that was `said`; `usage` is final."""

    def collect(self, text: str, thinking: str, calls: list[ToolCall], logprobs: list[Any] | None) -> None:
        """Keep the pieces of one message for `document`; called in their order. A dialect whose documents tell in
        which order texts and calls came keeps them itself besides."""
        if text:
            self._texts.append(text)
        if thinking:
            self._thoughts.append(thinking)
        if logprobs:
            self.said[-1].logprobs += logprobs

    def _close(self, message: dict[str, Any]) -> None:
        said = self.said[-1]
        said.text, said.thinking = "".join(self._texts), "".join(self._thoughts)
        said.reason = LENGTH if message.get("done_reason") == LENGTH else STOP

    def _calls(self, message: dict[str, Any]) -> list[ToolCall]:
        inner = message.get("message")
        given = inner.get("tool_calls") if isinstance(inner, dict) else None
        if not isinstance(given, list):
            return []
        calls = [self._call(entry) for entry in given if isinstance(entry, dict)]
        self.said[-1].calls += calls
        return calls

    def _call(self, entry: dict[str, Any]) -> ToolCall:
        function = entry.get("function")
        function = function if isinstance(function, dict) else {}
        index = len(self._ids)
        given = entry.get("id")
        id = given if isinstance(given, str) and given and given not in self._ids else self._new_id(index)
        self._ids.add(id)
        return ToolCall(
            index=index,
            id=id,
            name=str(function.get("name") or ""),
            arguments=_arguments(function.get("arguments")),
        )

    def _new_id(self, index: int) -> str:
        return f"{self.call_prefix}{self._id[-16:]}{self.number:02x}{index:02x}"


def _logprobs(message: dict[str, Any]) -> list[Any] | None:
    found = message.get("logprobs")
    return found if isinstance(found, list) else None


def _arguments(given: Any) -> str:
    """The text of a JSON object, which clients parse. Raises UpstreamFailed for anything else."""
    if given is None or given == "":
        return "{}"
    if isinstance(given, str) and read_object(given.encode()) is not None:
        return given
    if isinstance(given, dict) and writable(given):
        return orjson.dumps(given).decode()
    raise UpstreamFailed("the node sent a tool call whose arguments are no object, or one nested too deeply")
