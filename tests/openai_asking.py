"""Chat completions as clients ask for them, and what a node is asked then."""

from __future__ import annotations

from typing import Any

import pytest
from parallama_openai.chat import open_chat

from parallama.errors import BadRequest
from parallama.gateway.api import Codec
from parallama.testing import inbound

MODEL, THINKER = "llama3.2:1b", "qwen3:0.6b"
USER = {"role": "user", "content": "Why?"}


def opened(**fields: Any) -> Codec:
    return open_chat(inbound({"model": MODEL, "messages": [USER], **fields}, "/chat/completions"))


def sent(**fields: Any) -> dict[str, Any]:
    body = opened(**fields).outbounds[0].body
    assert body is not None
    return dict(body)


def messages(*given: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = sent(messages=list(given))["messages"]
    return found


def refused(**fields: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        opened(**fields)
    return caught.value


def call(arguments: Any, id: str | None = "call_1", name: str = "weather") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
