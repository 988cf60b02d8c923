"""The messages of a request, block by block, as Ollama has them: one text, images, calls, and results on their own.

What a node cannot be given is refused by name: files, PDFs and URLs, which nobody fetches here, and the blocks of
Anthropic's server tools, which never ran here and without which the conversation would mean something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parallama.gateway.fields import Fields

_IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")

_BETWEEN = {"assistant": ""}
"""What stands between text blocks of a role. The model's own were one text; others are documents of their own."""


@dataclass(slots=True)
class Turn:
    """What the blocks of one message come to."""

    tools: dict[str, str]
    """Names of the tools called so far, by the id of the call; one for all turns of a request."""
    texts: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    """In base64."""
    thoughts: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    """Native messages, to stand before this one."""

    def read(self, holder: Fields, name: str, readers: Readers, *, required: bool = False) -> None:
        """Take in the content that is the member `name`, a text or blocks of these kinds. Raises BadRequest."""
        for block in _blocks(holder, name, required=required):
            readers[block.string("type", required=True, among=tuple(readers))](block, self)

    def message(self, role: str) -> dict[str, Any]:
        """The native message, without the results."""
        more = {"thinking": "".join(self.thoughts), "images": self.images, "tool_calls": self.calls}
        text = _BETWEEN.get(role, "\n\n").join(self.texts)
        return {"role": role, "content": text, **{name: value for name, value in more.items() if value}}

    def messages(self, role: str) -> list[dict[str, Any]]:
        """The results, and the message itself unless they were all of it."""
        alone = self.results and not self.texts and not self.images
        return self.results if alone else [*self.results, self.message(role)]


Readers = Mapping[str, Callable[[Fields, Turn], None]]
"""The kinds of blocks that may stand in a place, each with what takes one in."""


def native_messages(request: Fields) -> list[dict[str, Any]]:
    """`system` and `messages` of a request as `/api/chat` reads them. Raises BadRequest."""
    system, messages = Turn({}), request.objects("messages", required=True)
    if not messages:
        request.refuse("messages", "it is empty; at least one message is required")
    system.read(request, "system", _TEXT)
    native = [system.message("system")] if system.texts else []
    for message in messages:
        role = message.string("role", required=True, among=tuple(_ROLES))
        turn = Turn(system.tools)
        turn.read(message, "content", _ROLES[role], required=True)
        native += turn.messages(role)
    return native


def _blocks(holder: Fields, name: str, *, required: bool) -> Sequence[Fields]:
    """A text stands for one block of text."""
    value = holder.any(name)
    if isinstance(value, str):
        return [Fields({"type": "text", "text": value}, holder.at(name))]
    if value is not None and not isinstance(value, list):
        holder.refuse(name, "it must be a string or an array of content blocks")
    return holder.objects(name, required=required) or ()


def _read_text(block: Fields, turn: Turn) -> None:
    if text := block.string("text", required=True):
        turn.texts.append(text)


def _read_image(block: Fields, turn: Turn) -> None:
    source = block.object("source", required=True)
    source.string("type", required=True, among=("base64",))
    source.string("media_type", required=True, among=_IMAGE_TYPES)
    turn.images.append(source.base64("data"))


def _read_document(block: Fields, turn: Turn) -> None:
    source = block.object("source", required=True)
    kind = source.string("type", required=True, among=("text", "content"))
    _read_names(block, turn, "title", "context")
    if kind == "content":
        turn.read(source, "content", _PASSAGES, required=True)
    else:
        source.string("media_type", among=("text/plain",))
        turn.texts.append(source.string("data", required=True))


def _read_search_result(block: Fields, turn: Turn) -> None:
    _read_names(block, turn, "title", "source")
    turn.read(block, "content", _TEXT, required=True)


def _read_names(block: Fields, turn: Turn, *names: str) -> None:
    turn.texts += [text for name in names if (text := block.string(name))]


def _read_result(block: Fields, turn: Turn) -> None:
    """Some chat templates tell results by the id of the call, some by the name of the tool: the node gets both."""
    id, content = block.string("tool_use_id", required=True), Turn(turn.tools)
    content.read(block, "content", _CONTENT)
    result = {**content.message("tool"), "tool_call_id": id}
    if block.boolean("is_error"):
        result["content"] = f"Error: {result['content']}"
    if id in turn.tools:
        result["tool_name"] = turn.tools[id]
    turn.results.append(result)


def _read_call(block: Fields, turn: Turn) -> None:
    id, name = block.string("id", required=True), block.string("name", required=True)
    given = block.object("input")
    turn.tools[id] = name
    turn.calls.append({"id": id, "function": {"name": name, "arguments": given.values if given else {}}})


def _read_thought(block: Fields, turn: Turn) -> None:
    turn.thoughts.append(block.string("thinking", required=True))


def _drop(block: Fields, turn: Turn) -> None:
    """Thinking that only Anthropic can read."""


_TEXT: Readers = {"text": _read_text}
_PASSAGES: Readers = {**_TEXT, "image": _read_image}
_CONTENT: Readers = {**_PASSAGES, "document": _read_document, "search_result": _read_search_result}
_ROLES: Mapping[str, Readers] = {
    "user": {**_CONTENT, "tool_result": _read_result},
    "assistant": {
        **_TEXT,
        "thinking": _read_thought,
        "redacted_thinking": _drop,
        "tool_use": _read_call,
    },
    "system": _TEXT,
}
