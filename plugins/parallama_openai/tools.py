"""Tools, and the choice among them, as Ollama has them.

A node cannot be made to call a tool: a tool that must be called is sent alone, and `required` is as good as `auto`.
The older `functions` and `function_call` say the same in other words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parallama.gateway.fields import Fields, shown

Tool = dict[str, Any]
"""`{"type": "function", "function": {name, description?, parameters}}`."""


def chat_tools(given: Fields) -> list[Tool]:
    """The tools of a chat completion that the model may call: of `tools`, else of `functions`. Raises BadRequest."""
    if "tools" not in given and "functions" in given:
        return choose([function(entry) for entry in given.objects("functions") or ()], given, "function_call")
    return choose([_chat_tool(entry) for entry in given.objects("tools") or ()], given)


def _chat_tool(entry: Fields) -> Tool:
    only_functions(entry)
    return function(entry.object("function", required=True))


def only_functions(entry: Fields) -> None:
    """Raise BadRequest for a tool, or a call of one, that is no function; without a type it is one."""
    found = entry.string("type") or "function"
    if found != "function":
        entry.refuse("type", f"tools of the type {shown(found)!r} are not supported; functions are")


def function(entry: Fields) -> Tool:
    """The native tool for an object with name, description and parameters (a JSON schema)."""
    told: dict[str, Any] = {"name": function_name(entry)}
    if description := entry.string("description"):
        told["description"] = description
    parameters = entry.object("parameters")
    told["parameters"] = parameters.values if parameters else {"type": "object", "properties": {}}
    return {"type": "function", "function": told}


def function_name(entry: Fields) -> str:
    """The member `name`, which may not be empty."""
    name = entry.string("name", required=True)
    if not name:
        entry.refuse("name", "it is empty")
    return name


def choose(tools: Sequence[Tool], given: Fields, name: str = "tool_choice") -> list[Tool]:
    """Those of `tools` that the choice, the member `name`, leaves to the model.

    It is a word, or an object that names tools, as chat completions, responses or `function_call` have it. Raises
    BadRequest for a tool that is not there.
    """
    if not isinstance(given.any(name), dict):
        word = given.string(name, among=("none", "auto", "required"))
        return [] if word == "none" else list(tools)
    names = _named(given.object(name, required=True))
    if names is None:
        return list(tools)
    if names - {tool["function"]["name"] for tool in tools}:
        given.refuse(name, "it names a tool that is not among the tools")
    return [tool for tool in tools if tool["function"]["name"] in names]


def _named(choice: Fields) -> set[str] | None:
    """The tools that a choice is of; None: all."""
    kind = choice.string("type")
    if kind == "allowed_tools":
        allowed = choice.object("allowed_tools") or choice
        found = [_named(entry) for entry in allowed.objects("tools", required=True)]
        return {name for names in found if names for name in names}
    if kind not in (None, "function", "custom"):
        return None
    return {function_name(choice.object(kind or "function") or choice)}
