"""The content blocks of an answer: as the events of a stream (Events), or whole for one document (Content).

A piece of text becomes bytes around its JSON, with the index of its block; nothing else is made for each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from parallama.gateway.generation import ToolCall
from parallama.gateway.sse import event


@dataclass(frozen=True, slots=True)
class Kind:
    """Blocks that come in pieces."""

    name: str
    """The type of the block, and the member with its text."""
    empty: dict[str, str]
    """The block as it begins."""
    delta: bytes
    """The event of a piece, up to the piece; a format for the index of the block."""


def _kind(name: str, **more: str) -> Kind:
    delta = b'"delta":{"type":"%b_delta","%b":' % (name.encode(), name.encode())
    start = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
    return Kind(name, {"type": name, name: "", **more}, start + delta)


TEXT = _kind("text")
THINKING = _kind("thinking", signature="")
_END = b"}}\n\n"


class Events:
    """Writes the blocks of a stream: one is open at a time, and whatever is of another kind begins the next.

    `start` writes what stands before the first block, when that is known to come. `signature` ends blocks of thinking:
    clients give it back unread, and so do we take it.
    """

    def __init__(self, start: Callable[[], bytes], signature: str) -> None:
        self._start: Callable[[], bytes] | None = start
        self._signature = signature
        self._index = -1
        self._open: Kind | None = None
        self._delta = b""

    def piece(self, kind: Kind, text: str) -> bytes:
        """A piece of a block of that kind."""
        begun = b"" if self._open is kind else self.begin(kind)
        return begun + self._delta + orjson.dumps(text) + _END

    def begin(self, kind: Kind) -> bytes:
        """A block of that kind, without a piece; nothing if one is open."""
        if self._open is kind:
            return b""
        begun = self.end() + self._begun(kind.empty)
        self._open, self._delta = kind, kind.delta % self._index
        return begun

    def use(self, call: ToolCall) -> bytes:
        """A whole block `tool_use`; its input is one piece."""
        block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        return b"".join(
            [
                self.end(),
                self._begun(block),
                self._event("delta", type="input_json_delta", partial_json=call.arguments),
                self._event("stop"),
            ]
        )

    def end(self) -> bytes:
        """The end of the open block, if there is one; what stands before the first, if none has begun."""
        start, self._start = self._start, None
        if start is not None:
            return start()
        last, self._open = self._open, None
        if last is None:
            return b""
        sign = self._event("delta", type="signature_delta", signature=self._signature) if last is THINKING else b""
        return sign + self._event("stop")

    def _begun(self, block: dict[str, Any]) -> bytes:
        self._index += 1
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        return event(start, "content_block_start")

    def _event(self, what: str, **delta: str) -> bytes:
        name = f"content_block_{what}"
        more = {"delta": delta} if delta else {}
        return event({"type": name, "index": self._index, **more}, name)


class Content:
    """Gathers the blocks of a document, just as Events would write them."""

    def __init__(self, signature: str) -> None:
        self._signature = signature
        self._blocks: list[tuple[Kind, list[str]] | dict[str, Any]] = []

    def add(self, kind: Kind, text: str) -> None:
        """A piece of a block of that kind."""
        last = self._blocks[-1] if self._blocks else {}
        if isinstance(last, tuple) and last[0] is kind:
            last[1].append(text)
        else:
            self._blocks.append((kind, [text]))

    def use(self, call: ToolCall) -> None:
        """A block `tool_use`."""
        given = orjson.Fragment(call.arguments)
        self._blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": given})

    def whole(self) -> list[dict[str, Any]]:
        """All blocks, for orjson."""
        return [block if isinstance(block, dict) else self._joined(*block) for block in self._blocks]

    def _joined(self, kind: Kind, pieces: list[str]) -> dict[str, Any]:
        signed = {"signature": self._signature} if kind is THINKING else {}
        return {**kind.empty, kind.name: "".join(pieces), **signed}
