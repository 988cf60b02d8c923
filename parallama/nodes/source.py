"""What an answer needs to know of the connection that it comes from, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a node may take, in seconds."""

    first_byte_s: float
    """From the request's end to the answer's head."""
    idle_s: float
    """Between two pieces, of the answer or of a request that the node takes."""
    total_s: float | None
    """For the whole exchange; None: no limit."""


class Source(Protocol):
    """Where the bytes come from."""

    paused: bool
    """Whether the node is made to wait."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def close(self) -> None:
        """At once, and for good."""

    def begun(self) -> None:
        """The head is there."""

    def done(self, *, reusable: bool) -> None:
        """Nobody reads on; `reusable`: the answer is whole, and another may follow it."""
