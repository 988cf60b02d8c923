"""The heads of answers: the node's and the client's, whole answers, and what a head may tell of its exchange.

Part of the API of a gateway, and imported from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parallama.immutable import immutable
from parallama.quotas import Quota


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer: the node's, or the one for the client."""

    status: int
    headers: Sequence[tuple[str, str]] = ()
    reason: str | None = None
    """None: the standard phrase of the status."""

    def header(self, name: str) -> str:
        """The first value of `name`, which must be lower-case; empty when there is none."""
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return ""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer, such as an error."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@immutable
class ReplyFacts:
    """What the head of an answer may tell of the exchange."""

    request_id: str
    node: str | None
    model: str | None
    quotas: Sequence[Quota] = ()
    """What is left of the limits that concern it, in no order, as of the moment when it was let in or refused: what it
    will have cost is not known yet, and what it may cost is taken away. Empty: nothing limits it."""
    at: float = 0.0
    """Unix seconds, now."""
