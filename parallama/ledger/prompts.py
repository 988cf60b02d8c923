"""What the prompt of a native request can have of tokens, read from its body as Ollama reads it. Pure.

Under the bounds: it knows models and bodies, no limits. A bound is never below what the node will count; an estimate
is near it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from orjson import Fragment

from parallama.gateway.api import Outbound
from parallama.gateway.described import MESSAGE_TOKENS, Model

IMAGE_TOKENS = 4096
"""Of one image: most that llama.cpp makes of one for any model that it knows."""

PROMPT = {"/api/chat": "messages", "/api/generate": "prompt", "/api/embed": "input", "/api/embeddings": "prompt"}
"""By path, of all requests that cost tokens, the field without which the model is only loaded, or unloaded."""

_FIELDS = frozenset(
    ("model", "messages", "prompt", "suffix", "system", "template", "raw", "context", "images", "input")
)
_FIELDS |= {"tools", "format", "think", "options", "stream", "keep_alive", "truncate", "shift", "dimensions"}
_MAP = (dict, type(None))
_LOOKED_INTO = ("messages", "input", "images", "context")
_OF_TEXT = frozenset(("model", "messages", "stream", "keep_alive", "think", "options", "tools"))
"""Fields of a chat that says nothing of its prompt beside its messages, if it has no tools."""
_MESSAGE = frozenset(("role", "content", "thinking", "tool_name", "tool_call_id"))
"""Fields of a message that a template writes as they are."""
_WITH_IMAGES = _MESSAGE | {"images"}
_AUDIO_BYTES = 32
"""Of base64 for a token, at least: speech at 8 kbit/s is 25 tokens a second."""
_PICTURES = ("iVBORw0K", "/9j/", "R0lGOD")
"""How the base64 of a PNG, JPEG and GIF begins; all else may be sound."""
_LONGEST_DEFAULT = 262_144
"""Tokens of context that Ollama takes on its own account, at most."""
_VISION_CONTEXT, _LEAST_CONTEXT = 2048, 4
"""Tokens of context under which Ollama loads no model that sees, and none at all (server/sched.go, getRunner)."""
_SLOT = 256
"""llama-server rounds the context up to a multiple of it."""
_EXPONENT = re.compile(rb"[0-9][eE]")


def text_of(outbound: Outbound) -> Sequence[Any] | None:
    """The messages of a chat that has nothing else to be read, and in them no more than text; None: of any other. Its
    options, if there are some, are a dict."""
    body = outbound.body
    if body is None or outbound.path != "/api/chat" or not _OF_TEXT.issuperset(body) or body.get("tools"):
        return None
    if "options" in body and type(body["options"]) is not dict:
        return None
    messages = body.get("messages")
    if type(messages) is not list:
        return None
    try:
        for message in messages:  # in half the time that `all` takes
            if not _MESSAGE.issuperset(message):
                return None
    except TypeError:  # one has no fields
        return None
    return messages


def readable(outbound: Outbound) -> Mapping[str, Any] | None:
    """The body of a request that costs tokens; None: its path is another, or the node may read it otherwise.

    That is so where keys only resemble Ollama's (Go takes `Options` for `options`), as a gateway may leave them that
    passes on a client's fields as they are, and where messages are nested more deeply than is read here.
    """
    body = outbound.body
    if body is None or outbound.path not in PROMPT or not isinstance(body.get("options"), _MAP):
        return None
    if not body.keys() <= _FIELDS and any(folded(key) in _FIELDS for key in body.keys() - _FIELDS):
        return None
    if Fragment not in map(type, body.values()):
        return body
    fragments = [key for key in _LOOKED_INTO if type(body.get(key)) is Fragment]
    try:
        return {**body, **{key: orjson.loads(orjson.dumps(body[key])) for key in fragments}}
    except orjson.JSONDecodeError:
        return None


def folded(key: str) -> str:
    """A key as encoding/json folds it (foldName)."""
    return key.lower().replace("ſ", "s")


def whole(value: Any) -> int | None:
    """A number as Ollama cuts it for an int; None: none, or beyond 64 bits, where it depends on the processor."""
    if type(value) not in (int, float) or not -(2.0**63) < value < 2.0**63:
        return None
    return int(value)


def context_of(body: Mapping[str, Any], model: Model) -> int | None:
    """Tokens of context that the request may get, before llama-server rounds them; None: unknown.

    How the model is loaded now says nothing: for a request with another `num_ctx` it is loaded anew.
    """
    options = body.get("options")
    asked = whole(options["num_ctx"]) if options and "num_ctx" in options else None
    if asked is None:
        return model.longest_context
    asked = max(asked, _VISION_CONTEXT if model.may("vision") else _LEAST_CONTEXT)
    return min(asked, model.longest_context or asked)


def capped(tokens: int, context: int | None, texts: int = 1) -> int:
    """`tokens`, or as many as the context holds; several texts to embed have it each for itself."""
    return tokens if context is None else min(tokens, texts * -(-context // _SLOT) * _SLOT)


def prompt_of(
    outbound: Outbound,
    body: Mapping[str, Any],
    model: Model,
    context: int | None,
    image_tokens: int,
    written: bytes,
    size: int,
) -> tuple[int, int]:
    """Tokens that the prompt may have, and those that it probably has. `body` is what `readable` says, `written` the
    outbound's as JSON without its options, and `size` its bytes with them.

    No token is shorter than a byte, and all of the body's text is in its JSON, whatever its key.
    """
    size += model.own_bytes
    texts, media, rewritten = _parts(outbound.path, body)
    tokens = 0
    for data in media:
        size -= len(data)
        tokens += image_tokens if data.startswith(_PICTURES) else image_tokens + len(data) // _AUDIO_BYTES
    if type(ids := body.get("context")) is list:
        size -= len(orjson.dumps(ids))
        tokens += len(ids)
    if rewritten:
        size += _growth(written)
    most = size + tokens + MESSAGE_TOKENS * texts
    if body.get("template"):  # the client's own, whose loops and widths write any number of bytes
        most = max(most, _LONGEST_DEFAULT if context is None else context + _SLOT)
    inputs = texts if outbound.path == "/api/embed" else 1
    return capped(most, context, inputs), capped(size // 3 + tokens, context, inputs)


def _parts(path: str, body: Mapping[str, Any]) -> tuple[int, list[str], bool]:
    """Messages or texts; images; whether there is JSON that the node writes anew into the prompt."""
    if path != "/api/chat":
        given = body.get("input")
        return len(given) if isinstance(given, list) else 1, _media(body.get("images")), False
    messages = body["messages"] if isinstance(body["messages"], list) else []
    odd = [message for message in messages if type(message) is dict and not message.keys() <= _MESSAGE]
    if not odd:
        return len(messages), [], bool(body.get("tools"))
    images = [value for message in odd for key, value in message.items() if folded(key) == "images"]
    rewritten = bool(body.get("tools")) or not all(message.keys() <= _WITH_IMAGES for message in odd)
    return len(messages), [image for value in images for image in _media(value)], rewritten


def _media(images: Any) -> list[str]:
    return [image for image in images if isinstance(image, str)] if isinstance(images, list) else []


def _growth(written: bytes) -> int:
    """Bytes by which JSON may grow when Go writes it: `<` as \\u003c, 1e20 with all its digits."""
    return 5 * sum(map(written.count, (b"<", b">", b"&"))) + 21 * len(_EXPONENT.findall(written))
