"""The messages of a chat completion as Ollama has them: each one stays one message.

Results of tools carry the id of their call and the name of the tool: templates of models want one or the other.
"""

from __future__ import annotations

from typing import Any

import orjson

from parallama.gateway.fields import Fields, whole_characters, writable
from parallama_openai.content import content
from parallama_openai.tools import function_name, only_functions

Message = dict[str, Any]

_ROLES = {"system": "system", "developer": "system", "user": "user"}
_KNOWN = (*_ROLES, "assistant", "tool", "function")


def chat_messages(given: Fields) -> list[Message]:
    """The native messages. Raises BadRequest, also for none at all: to a node that is an order to load the model."""
    entries = given.objects("messages", required=True)
    if not entries:
        given.refuse("messages", "it is empty; there must be at least one message")
    called: dict[str, str] = {}
    return [_message(entry, called) for entry in entries]


def _message(entry: Fields, called: dict[str, str]) -> Message:
    """`called`: the tools by the ids of the calls so far, added to."""
    role = entry.string("role", required=True).lower()
    if role == "assistant":
        return _assistant(entry, called)
    if role in ("tool", "function"):
        return _result(entry, called)
    if role not in _ROLES:
        entry.refuse("role", f"it must be one of {', '.join(_KNOWN)}")
    entry.any("content", required=True)
    return {"role": _ROLES[role], **_content(entry)}


def _content(entry: Fields) -> Message:
    text, images = content(entry)
    return {"content": text, "images": images} if images else {"content": text}


def _result(entry: Fields, called: dict[str, str]) -> Message:
    """Of a tool; the older role `function` knows it by its name alone."""
    entry.any("content", required=True)
    name = entry.string("name")
    id = entry.string("tool_call_id") if name else entry.string("tool_call_id", required=True)
    name = name or called.get(id or "")
    told = {"tool_call_id": id, "tool_name": name}
    return {"role": "tool", **_content(entry), **{key: value for key, value in told.items() if value}}


def _assistant(entry: Fields, called: dict[str, str]) -> Message:
    calls, thinking = _calls(entry), _thinking(entry)
    refusal = entry.string("refusal")
    if not (calls or thinking or refusal):
        entry.any("content", required=True)
    message = {"role": "assistant", **_content(entry)}
    if "content" not in entry and refusal:
        message["content"] = refusal
    if thinking:
        message["thinking"] = thinking
    if calls:
        message["tool_calls"] = calls
        called.update((call["id"], call["function"]["name"]) for call in calls if "id" in call)
    return message


def _thinking(entry: Fields) -> str | None:
    """What the assistant thought, in either of the spellings that are about."""
    return entry.string("reasoning") or entry.string("reasoning_content")


def _calls(entry: Fields) -> list[Message]:
    if older := entry.object("function_call"):
        return [{"function": _function(older)}]
    return [_call(call) for call in entry.objects("tool_calls") or ()]


def _call(call: Fields) -> Message:
    only_functions(call)
    function, id = _function(call.object("function", required=True)), call.string("id")
    return {"id": id, "function": function} if id else {"function": function}


def _function(function: Fields) -> Message:
    return {"name": function_name(function), "arguments": arguments(function)}


def arguments(given: Fields, name: str = "arguments") -> dict[str, Any]:
    """The object that the text `name` holds as JSON; an empty text is an empty one. Raises BadRequest."""
    value = given.any(name)
    if isinstance(value, str):
        value = _parsed(value)
    if value is None:
        return {}
    if not isinstance(value, dict) or not writable(value):
        given.refuse(name, "it must be a JSON object, as text")
    return value


def _parsed(text: str) -> Any:
    """The value that `text` is; None: it is empty."""
    try:
        return orjson.loads(whole_characters(text.encode())) if text.strip() else None
    except orjson.JSONDecodeError:
        return False
