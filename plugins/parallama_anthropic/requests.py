"""What a client of `/messages` may ask, and the native request for it.

Refused is what would make the answer another one if it were left out; what changes nothing here is ignored, and named
as such. A tool cannot be forced on a model: `any` and `tool` only decide which ones it is offered.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from parallama.gateway.api import Inbound, Models, Outbound
from parallama.gateway.counting import prompt_bytes
from parallama.gateway.fields import Fields, read_body, shown
from parallama_anthropic.blocks import native_messages

IMAGE_TOKENS = 800
"""What an image counts for in estimates: models take between 256 (Gemma 3) and 1601 (Llama 3.2 Vision)."""

_IGNORED = (
    *("metadata", "service_tier", "container", "cache_control", "context_management", "diagnostics"),
    *("inference_geo", "speed", "user_profile_id"),
)
_KINDS = ("enabled", "adaptive", "between_tools", "disabled")
_LEVELS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "max", "max": "max"}
"""Ollama's levels of thinking by Anthropic's efforts."""


class Thoughts(Enum):
    """What the client is told of a model's thinking."""

    HIDDEN = "hidden"
    """Nothing: it did not ask. Some models think all the same."""
    SEALED = "sealed"
    """Blocks without their text."""
    SHOWN = "shown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request, understood."""

    model: str
    """As the client named it."""
    body: Mapping[str, Any]
    """Of the native request."""
    streams: bool
    thoughts: Thoughts
    one_call: bool
    """Whether only the first tool call may be told."""
    end_user: str | None
    """Whom the client serves."""
    unasked: Sequence[str]
    """Fields of the body that the client did not ask for."""
    ignored: Sequence[str]

    def outbound(self) -> Outbound:
        """What the node is asked."""
        return Outbound(method="POST", path="/api/chat", model=self.model, body=self.body, unasked=self.unasked)

    def input_tokens(self, models: Models) -> int:
        """An estimate of the prompt's tokens; at least 1."""
        images = sum(len(message.get("images", ())) for message in self.body["messages"])
        return models.tokens(self.model, prompt_bytes(self.body)) + images * IMAGE_TOKENS


def understand(inbound: Inbound, *, answered: bool = True) -> Question:
    """The request that `inbound` holds. `answered`: it is to be answered, so that `max_tokens` is required.

    Raises BadRequest.
    """
    request = read_body(inbound.raw)
    model = request.model(inbound)
    asked = _thinking(request)
    more = {
        "options": _options(request, answered=answered) or None,
        "tools": _tools(request) or None,
        "format": _format(request),
        "think": _think(asked, inbound.models.capabilities(model)),
    }
    if request.objects("mcp_servers"):
        request.refuse("mcp_servers", "no MCP server is called from here; offer its tools as custom ones")
    return Question(
        model=model,
        body={
            "model": model,
            "messages": native_messages(request),
            "stream": True,
            **{name: value for name, value in more.items() if value is not None},
        },
        streams=request.boolean("stream") or False,
        thoughts=_thoughts(request) if asked else Thoughts.HIDDEN,
        one_call=_choice(request).boolean("disable_parallel_tool_use") or False,
        end_user=_end_user(request),
        unasked=("think",) if asked is None else (),
        ignored=_ignored(request),
    )


def _end_user(request: Fields) -> str | None:
    metadata = request.any("metadata")
    found = metadata.get("user_id") if isinstance(metadata, dict) else None
    return found if isinstance(found, str) and found else None


def _options(request: Fields, *, answered: bool) -> dict[str, Any]:
    """Only what the client says, so that the model's own defaults hold."""
    options = {
        "num_predict": request.integer("max_tokens", required=answered, least=1),
        "temperature": request.number("temperature", least=0, most=1),
        "top_p": request.number("top_p", least=0, most=1),
        "top_k": request.integer("top_k", least=0),
        "stop": [stop for stop in request.strings("stop_sequences") or () if stop] or None,
    }
    return {name: value for name, value in options.items() if value is not None}


def _choice(request: Fields) -> Fields:
    return request.object("tool_choice") or Fields({"type": "auto"}, "tool_choice")


def _tools(request: Fields) -> list[dict[str, Any]]:
    """The tools to offer."""
    tools = [_tool(tool) for tool in request.objects("tools") or ()]
    choice = _choice(request)
    kind = choice.string("type", required=True, among=("auto", "any", "tool", "none"))
    if kind == "none":
        return []
    if kind != "tool":
        return tools
    name = choice.string("name", required=True)
    named = [tool for tool in tools if tool["function"]["name"] == name]
    return named or choice.refuse("name", f"{shown(name)!r} is none of the tools")


def _tool(tool: Fields) -> dict[str, Any]:
    if (kind := tool.string("type")) not in (None, "custom"):
        tool.refuse("type", f"tools of the type {shown(kind)!r} are not supported; offer a custom tool")
    description = tool.string("description")
    function = {
        "name": tool.string("name", required=True),
        **({} if description is None else {"description": description}),
        "parameters": tool.object("input_schema", required=True).values,
    }
    return {"type": "function", "function": function}


def _config(request: Fields) -> Fields:
    return request.object("output_config") or Fields({}, "output_config")


def _format(request: Fields) -> Mapping[str, Any] | None:
    """The schema of the answer; the beta had it in `output_format`."""
    form = _config(request).object("format") or request.object("output_format")
    if form is None:
        return None
    form.string("type", required=True, among=("json_schema",))
    return form.object("schema", required=True).values


def _thinking(request: Fields) -> bool | str | None:
    """Whether the client wants the model to think, or how much; None: it does not say."""
    effort = _config(request).string("effort", among=tuple(_LEVELS))
    level = _LEVELS[effort] if effort else None
    thinking = request.object("thinking")
    if thinking is None:
        return level
    thinking.integer("budget_tokens")
    return False if thinking.string("type", required=True, among=_KINDS) == "disabled" else level or True


def _think(asked: bool | str | None, capabilities: Collection[str]) -> bool | str | None:
    """A model that can think does unless told not to; one that cannot is not asked."""
    if capabilities and "thinking" not in capabilities:
        return None
    return False if capabilities and asked is None else asked


def _thoughts(request: Fields) -> Thoughts:
    thinking = request.object("thinking")
    return Thoughts.SEALED if thinking and thinking.string("display") == "omitted" else Thoughts.SHOWN


def _ignored(request: Fields) -> list[str]:
    ignored = [name for name in _IGNORED if name in request]
    if _choice(request).string("type") in ("any", "tool"):
        ignored.append("tool_choice")
    if "budget_tokens" in (request.object("thinking") or ()):
        ignored.append("thinking.budget_tokens")
    return ignored
