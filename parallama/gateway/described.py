"""What a model says of itself that bears on the cost of asking it, from an answer of `/api/show`. Pure.

Under the nodes, which hear it, and the ledger, which reckons with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

MESSAGE_TOKENS = 16
"""What a template writes round a message."""

_num_predict = re.compile(r"^num_predict\s+([0-9]{1,18})\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What is known of a model that bears on the cost of asking it."""

    longest_context: int | None = None
    """Tokens of context for which it was trained, and beyond which it is never loaded; None: unknown."""
    capabilities: frozenset[str] = frozenset()
    """Such as `thinking` or `vision`; empty: unknown, so that it may have any."""
    own_bytes: int = 0
    """UTF-8 bytes of its template, and of the system text and the messages that go before a client's."""
    own_output: int | None = None
    """Its `num_predict`, for a client that does not say; None: it has none."""

    def may(self, capability: str) -> bool:
        """Whether it has a capability, as far as is known."""
        return not self.capabilities or capability in self.capabilities


def described(show: Mapping[str, Any]) -> Model:
    """The model of an answer of `/api/show`; what is odd in it is unknown."""
    info, messages, capabilities = show.get("model_info"), show.get("messages"), show.get("capabilities")
    messages = messages if isinstance(messages, list) else []
    output = _num_predict.search(_text(show, "parameters"))
    texts = _text(show, "template") + _text(show, "system")
    return Model(
        longest_context=_longest(info) if isinstance(info, dict) else None,
        capabilities=frozenset(map(str, capabilities)) if isinstance(capabilities, list) else frozenset(),
        own_bytes=len(texts.encode()) + len(orjson.dumps(messages)) + MESSAGE_TOKENS * (len(messages) + 1),
        own_output=int(output[1]) or None if output else None,
    )


def _text(show: Mapping[str, Any], key: str) -> str:
    value = show.get(key)
    return value if isinstance(value, str) else ""


def _longest(info: Mapping[str, Any]) -> int | None:
    contexts = [value for key, value in info.items() if key.endswith(".context_length") and type(value) is int]
    return max([0, *contexts]) or None
