"""Request bodies for every endpoint: good ones with all their fields, and what a hostile client makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

MODEL = "qwen3:0.6b"
_DATA = "data:image/png;base64,iVBORw0KGgo="
_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_FUNCTION = {"name": "weather", "description": "The weather.", "parameters": _SCHEMA, "strict": True}
_CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
_OPTIONS = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "frequency_penalty": 0.1, "presence_penalty": 0.1}
_HINTS = {"user": "u", "store": False, "metadata": {"a": "b"}, "service_tier": "auto", "logit_bias": {"1": 2}}

_CHAT_MESSAGES = [
    {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
    {"role": "developer", "content": "Be kind."},
    {
        "role": "user",
        "name": "alice",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": _DATA, "detail": "low"}},
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        ],
    },
    {"role": "assistant", "content": None, "refusal": "no", "reasoning": "Hm.", "tool_calls": [_CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "Rain."}]},
]
_CHAT_COMPLETION = {
    **{"model": MODEL, "messages": _CHAT_MESSAGES, "max_completion_tokens": 9, "max_tokens": 8, **_OPTIONS, **_HINTS},
    **{"stop": ["!"], "n": 2, "stream": True, "stream_options": {"include_usage": True}, "reasoning_effort": "low"},
    **{"tools": [{"type": "function", "function": _FUNCTION}], "parallel_tool_calls": False, "modalities": ["text"]},
    **{"tool_choice": {"type": "function", "function": {"name": "weather"}}, "logprobs": True, "top_logprobs": 2},
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": _SCHEMA, "strict": True}},
}
_COMPLETION = {
    **{"model": MODEL, "prompt": ["Why?", "How?"], "suffix": ".", "max_tokens": 9, **_OPTIONS, **_HINTS, "stop": "!"},
    **{"n": 2, "best_of": 2, "echo": False, "logprobs": 2, "stream": True, "stream_options": {"include_usage": True}},
}
_RESPONSE = {
    "model": MODEL,
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": "Hi."},
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]},
        {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": _DATA, "detail": "low"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Paris"}'},
        {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "Rain."}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "So.", "annotations": []}],
        },
    ],
    **{"max_output_tokens": 9, "temperature": 0.5, "top_p": 0.9, "reasoning": {"effort": "low", "summary": "auto"}},
    "text": {"format": {"type": "json_schema", "name": "a", "schema": _SCHEMA, "strict": True}, "verbosity": "low"},
    **{"tools": [{"type": "function", **_FUNCTION}], "tool_choice": {"type": "function", "name": "weather"}},
    **{"parallel_tool_calls": False, "truncation": "auto", "metadata": {"a": "b"}, "store": True, "stream": True},
    **{"include": ["reasoning.encrypted_content"], "background": False, "user": "u", "service_tier": "auto"},
}
_IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
_TEXT = {"type": "text", "text": "Hi.", "cache_control": {"type": "ephemeral"}}
_DOCUMENT = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "A."}, "title": "T"}
_TURN = [
    {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
    {"type": "redacted_thinking", "data": "AAAA"},
    _TEXT,
    {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}},
]
_RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [_TEXT, _IMAGE], "is_error": True}
_COUNTED = {
    "model": MODEL,
    "system": [_TEXT],
    "messages": [
        {"role": "user", "content": [_TEXT, _IMAGE, _DOCUMENT]},
        {"role": "assistant", "content": _TURN},
        {"role": "user", "content": [_RESULT, _TEXT]},
        {"role": "assistant", "content": "Because"},
    ],
    "tools": [{"type": "custom", "name": "weather", "description": "The weather.", "input_schema": _SCHEMA}],
    "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
}
_MESSAGE = {
    **_COUNTED,
    **{"max_tokens": 64, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "stop_sequences": ["!"], "stream": True},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": _SCHEMA}},
    **{"metadata": {"user_id": "u"}, "service_tier": "auto", "mcp_servers": [], "container": "c"},
}
_NATIVE_CALL = {"id": "call_1", "function": {"index": 0, "name": "weather", "arguments": {"city": "Paris"}}}
_NATIVE = {
    **{"model": MODEL, "stream": True, "think": "low", "format": _SCHEMA, "keep_alive": "5m"},
    "options": {"num_predict": 9, "temperature": 0.5, "stop": ["!"], "num_ctx": 2048},
}
_NATIVE_CHAT = {
    **_NATIVE,
    "messages": [
        {"role": "user", "content": "Hi.", "images": ["iVBORw0KGgo="]},
        {"role": "assistant", "content": "", "thinking": "Hm.", "tool_calls": [_NATIVE_CALL]},
        {"role": "tool", "content": "Rain.", "tool_name": "weather", "tool_call_id": "call_1"},
    ],
    "tools": [{"type": "function", "function": _FUNCTION}],
}
_PARAMETERS = {"parameters": {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "stop": ["!"], "seed": 7}}

GOOD: dict[str, dict[str, Any]] = {
    "/openai/v1/chat/completions": _CHAT_COMPLETION,
    "/openai/v1/completions": _COMPLETION,
    "/openai/v1/embeddings": {
        **{"model": MODEL, "input": ["a", "b"], "dimensions": 8, "encoding_format": "base64", "user": "u"},
    },
    "/openai/v1/responses": _RESPONSE,
    "/anthropic/v1/messages": _MESSAGE,
    "/anthropic/v1/messages/count_tokens": _COUNTED,
    "/v1/messages": _MESSAGE,
    "/v1/messages/count_tokens": _COUNTED,
    "/ollama/v1/chat": {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Hi.", "images": ["iVBORw0KGgo="]}],
        "stream": True,
        **_PARAMETERS,
    },
    "/ollama/v1/generate": {"model": MODEL, "prompt": "Why?", "stream": True, **_PARAMETERS},
    "/ollama/v1/embeddings": {"model": MODEL, "input": ["a", "b"], "parameters": {}},
    "/ollama/api/chat": _NATIVE_CHAT,
    "/ollama/api/generate": {**_NATIVE, "prompt": "Why?", "suffix": ".", "system": "Be brief.", "images": ["AAAA"]},
    "/ollama/api/embed": {"model": MODEL, "input": ["a", "b"], "truncate": True, "dimensions": 8, "options": {}},
    "/ollama/api/embeddings": {"model": MODEL, "prompt": "a", "options": {}, "keep_alive": 5},
    "/ollama/api/create": {"model": "mine", "from": MODEL, "files": {"a": "b"}, "parameters": {"seed": 1}},
    "/ollama/api/copy": {"source": MODEL, "destination": "mine"},
}
"""A body that is answered, for each path at its first mount."""
ANY_OTHER = {"model": MODEL, "name": MODEL, "stream": False, "insecure": True, "verbose": True}

_LITERALS = {"@huge@": "1e400", "@-huge@": "-1e400", "@tiny@": "1e-400", "@-0@": "-0.0", "@long@": "9" * 400}
_DEEP = "@deep@"
"""What no Python value says: written into the JSON as it is."""


def encode(value: Any, depth: int = 600) -> bytes:
    """`value` as JSON, lone halves of surrogates escaped, with its literals."""
    text = json.dumps(value)
    for name, literal in _LITERALS.items():
        text = text.replace(f'"{name}"', literal)
    return text.replace(f'"{_DEEP}"', "[" * depth + "]" * depth).encode()


_STRINGS = st.one_of(
    st.text(st.characters(codec=None), max_size=6),
    st.sampled_from(["", "\x00", "\ud800", "a\udfff", "\u2028", "é" * 200, "null", "{}", '{"a": 1e400}', "[" * 300]),
    st.sampled_from(["user", "assistant", "tool", "text", "function", "auto", "none", "data:;base64,", "https://a/b"]),
)
_NUMBERS = st.one_of(
    st.integers(-3, 99),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([2**31, 2**53 + 1, 2**63, -(2**64), 10**40]),
)
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), _NUMBERS, _STRINGS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_STRINGS, inner, max_size=3)),
    max_leaves=6,
)
_ODD_JSON = st.sampled_from([*_LITERALS, _DEEP])


def _like(value: Any) -> st.SearchStrategy[Any]:
    """Other values of the same type, which may well be taken for good ones."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int | float):
        return _NUMBERS
    if isinstance(value, str):
        return _STRINGS
    return st.just([*value, *value]) if isinstance(value, list) else st.just({})


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in `value` with each of its keys."""
    for key in range(len(value)) if isinstance(value, list) else list(value) if isinstance(value, dict) else ():
        yield value, key
        yield from _places(value[key])


@st.composite
def spoilt(draw: st.DrawFn, good: dict[str, Any]) -> Any:
    """`good`, changed at a few places of any depth."""
    body = deepcopy(good)
    for _ in range(draw(st.integers(0, 4))):
        places = list(_places(body))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(["vary", "vary", "replace", "odd", "remove", "move", "wrap", "add"])):
            case "vary":
                holder[key] = draw(_like(holder[key]))
            case "replace":
                holder[key] = draw(_JSON)
            case "odd":
                holder[key] = draw(_ODD_JSON)
            case "remove":
                del holder[key]
            case "move":
                source, name = draw(st.sampled_from(places))
                holder[key] = deepcopy(source[name])
            case "wrap":
                holder[key] = [holder[key]]
            case "add" if isinstance(holder, list):
                holder.insert(0, draw(_JSON))
            case "add":
                holder[draw(_STRINGS)] = draw(_JSON)
    return body


def bodies(path: str) -> st.SearchStrategy[bytes]:
    """Bodies for the endpoint at `path`: nearly good ones above all, any JSON, and no JSON at all."""
    good = GOOD.get(path, ANY_OTHER)
    some = st.dictionaries(st.sampled_from(sorted(good)), _JSON)
    return st.one_of(
        spoilt(good).map(encode),
        st.builds(encode, spoilt(good), st.just(1100)),
        some.map(lambda change: encode({**good, **change})),
        st.one_of(some, _JSON, _ODD_JSON).map(encode),
        st.binary(max_size=30),
    )
