"""The input of a response, a text or items, as the messages of `/api/chat`.

What belongs to one turn of the assistant (its reasoning, its text, its calls, in this order) becomes one message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from parallama.gateway.fields import Fields, shown
from parallama_openai.content import content
from parallama_openai.messages import Message, arguments
from parallama_openai.response_events import unseal
from parallama_openai.tools import function_name

_ROLES: Final = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TYPES: Final = ("message", "reasoning", "function_call", "function_call_output")


def input_messages(given: Fields) -> list[Message]:
    """The native messages: `instructions`, then `input`. Raises BadRequest, also for an input without items."""
    messages = Messages()
    if instructions := given.string("instructions"):
        messages.add("system", instructions)
    if isinstance(text := given.any("input", required=True), str):
        messages.add("user", text)
        return messages.all
    items = given.objects("input", required=True)
    if not items:
        given.refuse("input", "it is empty; there must be at least one item")
    for item in items:
        messages.read(item)
    return messages.all


class Messages:
    """The messages so far, and the tools that they called."""

    def __init__(self) -> None:
        self.all: list[Message] = []
        self._called: dict[str, str] = {}

    def add(self, role: str, text: str, images: Sequence[str] = (), **more: str) -> None:
        """A message of its own."""
        self.all.append({"role": role, **_said(text, images), **more})

    def read(self, item: Fields) -> None:
        """An item of the input. Raises BadRequest for a type that cannot be had here."""
        kind = item.string("type") or "message"
        if kind == "message":
            self._message(item)
        elif kind == "reasoning":
            self._reasoning(item)
        elif kind == "function_call":
            self._call(item)
        elif kind == "function_call_output":
            self._result(item)
        else:
            item.refuse("type", _why_not(kind))

    def _message(self, item: Fields) -> None:
        role = _ROLES[item.string("role", required=True, among=_ROLES)]
        item.any("content", required=True)
        text, images = content(item)
        if role != "assistant":
            self.add(role, text, images)
            return
        turn = self._turn("content", but="tool_calls")
        before = turn["content"]  # of a turn whose calls come first: its results must follow the calls
        turn.update(_said(f"{before}\n{text}" if before else text, images))

    def _reasoning(self, item: Fields) -> None:
        if thinking := _thinking(item):
            turn = self._turn("content", "tool_calls")
            turn["thinking"] = turn.get("thinking", "") + thinking

    def _call(self, item: Fields) -> None:
        id, name = item.string("call_id", required=True), function_name(item)
        self._called[id] = name
        call = {"id": id, "function": {"name": name, "arguments": arguments(item)}}
        self._turn().setdefault("tool_calls", []).append(call)

    def _result(self, item: Fields) -> None:
        id = item.string("call_id", required=True)
        item.any("output", required=True)
        name = item.string("name") or self._called.get(id)
        names = {"tool_name": name} if name else {}
        self.add("tool", *content(item, "output"), tool_call_id=id, **names)

    def _turn(self, *full: str, but: str = "") -> Message:
        """The assistant's message under way, or a new one when it has something of `full` already, and no `but`."""
        last = self.all[-1] if self.all else {}
        if last.get("role") != "assistant" or (any(last.get(name) for name in full) and not last.get(but)):
            self.add("assistant", "")
        return self.all[-1]


def _said(text: str, images: Sequence[str]) -> Message:
    return {"content": text, "images": images} if images else {"content": text}


def _why_not(kind: str) -> str:
    if kind == "item_reference":
        return "no item is stored here; send the item itself"
    return f"items of the type {shown(kind)!r} are not supported; {', '.join(_TYPES)} are"


def _thinking(item: Fields) -> str:
    """What a reasoning item tells of the thinking: its content, its summary, or what we sealed."""
    texts = _texts(item, "content") or _texts(item, "summary")
    sealed = item.string("encrypted_content")
    return "\n".join(texts) or (unseal(sealed) if sealed else "")


def _texts(item: Fields, name: str) -> list[str]:
    return [text for part in item.objects(name) or () if (text := part.string("text"))]
