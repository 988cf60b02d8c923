"""What the calls of the client give: the same whichever gateway was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of an answer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that the caller may use."""

    name: str
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else the gateway tells of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """The answer to a prompt."""

    model: str
    text: str
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """The answer in a chat."""

    model: str
    message: Mapping[str, Any]
    """`{role: "assistant", content}`, and whatever else the gateway tells, such as `tool_calls`."""
    usage: Usage

    @property
    def text(self) -> str:
        """What was said; empty when nothing was."""
        return self.message.get("content") or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """The next piece of a streamed answer."""

    text: str = ""
    usage: Usage | None = None
    """Of the whole answer, in its last piece."""
    done: bool = False
    """Whether it is the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """A vector for each input, in their order."""

    model: str
    embeddings: Sequence[Sequence[float]]
    usage: Usage
