"""The output of a response: its items in the order in which the model says them, and the events that tell each step.

One item is open at a time; whatever belongs to another closes it first. Knows nothing of requests or of nodes.
"""

from __future__ import annotations

import base64
import binascii
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import orjson

from parallama.gateway.generation import ToolCall
from parallama.gateway.sse import event

COMPLETED, INCOMPLETE, IN_PROGRESS = "completed", "incomplete", "in_progress"

_OPENING = ("response.created", "response.in_progress")

_NO_LOGPROBS = b',"logprobs":[]'

_SEALED = "thinking:"
"""How our `encrypted_content` begins; it is base64, not secret."""


def seal(text: str) -> str:
    """Thinking as the `encrypted_content` of a reasoning item, which clients send back as it is."""
    return _SEALED + base64.b64encode(text.encode()).decode()


def unseal(sealed: str) -> str:
    """The thinking in what `seal` gave; "" for another service's, which nobody here can read."""
    if not sealed.startswith(_SEALED):
        return ""
    try:
        return base64.b64decode(sealed.removeprefix(_SEALED), validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


class _Text(ABC):
    """An item of text while it is written: all of its text is one part."""

    id_prefix: ClassVar[str]
    part_events: ClassVar[str]
    text_events: ClassVar[str]
    index_key: ClassVar[str]

    def __init__(self, number: int, response_id: str) -> None:
        self.number = number
        self.id = f"{self.id_prefix}{response_id}{number:02x}"
        self.where = {"item_id": self.id, "output_index": number, self.index_key: 0}
        kind = f"{self.text_events}.delta"
        head = orjson.dumps({"type": kind, **self.where})[:-1]
        self.delta_head = b"event: %b\ndata: %b" % (kind.encode(), head)
        self.pieces: list[str] = []
        self.logprobs: list[dict[str, Any]] = []

    def text_members(self, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
        """What the events of a text have besides."""
        return {}

    @abstractmethod
    def part(self, text: str) -> dict[str, Any]:
        """The part with this text."""

    @abstractmethod
    def item(self, status: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
        """The item with these parts."""


class _Message(_Text):
    id_prefix = "msg_"
    part_events = "response.content_part"
    text_events = "response.output_text"
    index_key = "content_index"

    def text_members(self, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
        return {"logprobs": logprobs}

    def part(self, text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self.logprobs}

    def item(self, status: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": parts}


class _Reasoning(_Text):
    id_prefix = "rs_"
    part_events = "response.reasoning_summary_part"
    text_events = "response.reasoning_summary_text"
    index_key = "summary_index"

    def part(self, text: str) -> dict[str, Any]:
        return {"type": "summary_text", "text": text}

    def item(self, status: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "type": "reasoning", "status": status, "summary": parts}


class Output:
    """The items said so far. Every method returns the events for its step; who streams nothing drops them."""

    def __init__(self, response_id: str, *, sealed: bool = False) -> None:
        """`response_id`: without its prefix. `sealed`: reasoning items carry `encrypted_content`."""
        self.items: list[dict[str, Any]] = []
        """Those that are done, as the response lists them."""
        self._response_id = response_id
        self._sealed = sealed
        self._open: _Text | None = None
        self._sequence = len(_OPENING)

    def opening(self, response: dict[str, Any]) -> bytes:
        """The first events. They may be made after others, as long as they go out before them."""
        return b"".join([_event(kind, number, {"response": response}) for number, kind in enumerate(_OPENING)])

    def lifecycle(self, kind: str, response: dict[str, Any]) -> bytes:
        """`response.completed` and its like, with the whole response."""
        return self._event(f"response.{kind}", response=response)

    def error(self, body: Mapping[str, Mapping[str, Any]]) -> bytes:
        """The event that SDKs raise; `body` is that of an error's whole answer."""
        told = body["error"]
        return self._event("error", **{name: told[name] for name in ("code", "message", "param")}, **body)

    def thought(self, text: str) -> bytes:
        """A piece of thinking."""
        return self._write(_Reasoning, text)

    def wrote(self, text: str, logprobs: Sequence[dict[str, Any]] = ()) -> bytes:
        """A piece of the answer, with the log probabilities of its tokens where they are wanted."""
        return self._write(_Message, text, logprobs)

    def called(self, call: ToolCall) -> bytes:
        """A function call, whole."""
        closed = self.close()
        number = len(self.items)
        where = {"item_id": f"fc_{self._response_id}{number:02x}", "output_index": number}
        item = {
            "id": where["item_id"],
            "type": "function_call",
            "status": COMPLETED,
            "call_id": call.id,
            "name": call.name,
            "arguments": call.arguments,
        }
        self.items.append(item)
        return b"".join(
            [
                closed,
                self._item_event("added", number, {**item, "status": IN_PROGRESS, "arguments": ""}),
                self._event("response.function_call_arguments.delta", **where, delta=call.arguments),
                self._event("response.function_call_arguments.done", **where, arguments=call.arguments),
                self._item_event("done", number, item),
            ]
        )

    def close(self, status: str = COMPLETED) -> bytes:
        """The open item, if there is one, is done."""
        open, self._open = self._open, None
        if open is None:
            return b""
        text = "".join(open.pieces)
        part = open.part(text)
        item = open.item(status, [part])
        if self._sealed and isinstance(open, _Reasoning):
            item["encrypted_content"] = seal(text)
        self.items.append(item)
        return b"".join(
            [
                self._event(f"{open.text_events}.done", **open.where, **open.text_members(open.logprobs), text=text),
                self._event(f"{open.part_events}.done", **open.where, part=part),
                self._item_event("done", open.number, item),
            ]
        )

    def reasoning_share(self, tokens: int) -> int:
        """About how many of an answer's `tokens` were thinking, by its share of the characters: nodes do not say."""
        thinking = sum(_length(item) for item in self.items if item["type"] == "reasoning")
        return tokens * thinking // max(1, sum(_length(item) for item in self.items))

    def _write(self, kind: type[_Text], text: str, logprobs: Sequence[dict[str, Any]] = ()) -> bytes:
        open, begun = self._open, b""
        if type(open) is not kind:
            begun = self.close()
            open = self._open = kind(len(self.items), self._response_id)
            begun += self._item_event("added", open.number, open.item(IN_PROGRESS, []))
            begun += self._event(f"{open.part_events}.added", **open.where, part=open.part(""))
        open.pieces.append(text)
        open.logprobs += logprobs
        sequence, self._sequence = self._sequence, self._sequence + 1
        told = _NO_LOGPROBS if kind is _Message and not logprobs else b""
        if logprobs:
            told = b',"logprobs":%b' % orjson.dumps(logprobs)
        return b'%b%b%b,"sequence_number":%d,"delta":%b}\n\n' % (
            *(begun, open.delta_head, told),
            *(sequence, orjson.dumps(text)),
        )

    def _item_event(self, step: str, number: int, item: dict[str, Any]) -> bytes:
        return self._event(f"response.output_item.{step}", output_index=number, item=item)

    def _event(self, kind: str, **members: Any) -> bytes:
        sequence, self._sequence = self._sequence, self._sequence + 1
        return _event(kind, sequence, members)


def _event(kind: str, sequence: int, members: dict[str, Any]) -> bytes:
    return event({"type": kind, "sequence_number": sequence, **members}, kind)


def _length(item: dict[str, Any]) -> int:
    """Characters of an item."""
    parts = item.get("content") or item.get("summary") or ()
    return len(item.get("arguments", "")) + sum(len(part["text"]) for part in parts)
