"""The request for a response: what the node is asked, and what the response repeats of it.

Responses are not stored: what would need a stored one is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from parallama.errors import BadRequest
from parallama.gateway.api import Inbound, Outbound
from parallama.gateway.fields import Fields, read_body
from parallama_openai.parameters import end_user, format, options, output_limit, think
from parallama_openai.response_items import input_messages
from parallama_openai.tools import choose, function, only_functions

_PREVIOUS = "previous_response_id"
_SEALED = "reasoning.encrypted_content"
_LOGPROBS = "message.output_text.logprobs"

_REFUSED = {
    "conversation": "conversations are not kept here; send the whole conversation as input",
    "moderation": "no node moderates",
    "prompt": "no prompts are stored here; send it as instructions and input",
}

_IGNORED = (
    "context_management",
    "max_tool_calls",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "stream_options",
    "user",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request, understood."""

    outbound: Outbound
    streams: bool
    told: dict[str, Any]
    """The members of the response that repeat the request."""
    sealed: bool
    """Reasoning items are to carry `encrypted_content`."""
    one_call: bool
    """The model may call one tool only."""
    logprobs: bool
    """Log probabilities are to be told."""
    ignored: Sequence[str]
    end_user: str | None


def wanted_documents(inbound: Inbound) -> Sequence[str]:
    """The id of the response that the request goes on from, if it names one. Raises BadRequest."""
    if _PREVIOUS.encode() not in inbound.raw:
        return ()
    id = read_body(inbound.raw).string(_PREVIOUS)
    return (id,) if id else ()


def understand(inbound: Inbound) -> Question:
    """The question in a request. Raises BadRequest."""
    given = read_body(inbound.raw)
    _refuse_state(given, inbound)
    include = given.strings("include") or []
    return Question(
        outbound=_outbound(given, inbound),
        streams=given.boolean("stream") or False,
        told=_told(given, inbound),
        sealed=_SEALED in include,
        one_call=given.boolean("parallel_tool_calls") is False,
        logprobs=_wants_logprobs(given),
        ignored=_ignored(given, include),
        end_user=end_user(given),
    )


def _refuse_state(given: Fields, inbound: Inbound) -> None:
    previous = given.string(_PREVIOUS)
    if previous and previous not in inbound.documents:
        message = f"{_PREVIOUS}: no response is stored here; send the whole conversation as input"
        raise BadRequest(message, code="invalid_parameter", param=_PREVIOUS)
    if given.boolean("background"):
        given.refuse("background", "nothing runs in the background here; leave it out")
    for name, why in _REFUSED.items():
        if name in given:
            given.refuse(name, why)


def _outbound(given: Fields, inbound: Inbound) -> Outbound:
    name = given.model(inbound)
    limit = output_limit(given, "max_output_tokens")
    wanted = {
        "tools": choose([_tool(entry) for entry in _tools(given)], given) or None,
        "format": format(_format(given), flat=True),
        "think": think(_effort(given), inbound, name, "reasoning.effort"),
        "options": {**options(given), **({"num_predict": limit} if limit else {})} or None,
        "logprobs": _wants_logprobs(given) or None,
        "top_logprobs": given.integer("top_logprobs", least=0, most=20) or None,
    }
    asked = {key: value for key, value in wanted.items() if value is not None}
    body = {"model": name, "messages": input_messages(given), "stream": True, **asked}
    return Outbound(method="POST", path="/api/chat", model=name, body=body)


def _wants_logprobs(given: Fields) -> bool:
    return "top_logprobs" in given or _LOGPROBS in (given.strings("include") or ())


def _tools(given: Fields) -> Sequence[Fields]:
    return given.objects("tools") or ()


def _tool(entry: Fields) -> dict[str, Any]:
    only_functions(entry)
    return function(entry)


def _format(given: Fields) -> Fields | None:
    text = given.object("text")
    return text.object("format") if text else None


def _effort(given: Fields) -> str | None:
    reasoning = given.object("reasoning")
    return reasoning.string("effort") if reasoning else None


def _told(given: Fields, inbound: Inbound) -> dict[str, Any]:
    reasoning, format = given.object("reasoning"), _format(given)
    return {
        "background": False,
        "instructions": given.string("instructions"),
        "max_output_tokens": given.integer("max_output_tokens"),
        "metadata": _metadata(given),
        "model": given.model(inbound),
        "parallel_tool_calls": given.boolean("parallel_tool_calls") is not False,
        _PREVIOUS: None,
        "reasoning": {"effort": _effort(given), "summary": reasoning.string("summary") if reasoning else None},
        "store": False,
        "temperature": given.number("temperature"),
        "text": {"format": format.values if format else {"type": "text"}},
        "tool_choice": given.any("tool_choice") or "auto",
        "tools": [_told_tool(entry) for entry in _tools(given)],
        "top_p": given.number("top_p"),
        "truncation": given.string("truncation", among=("auto", "disabled")) or "disabled",
        "user": given.string("user"),
    }


def _told_tool(entry: Fields) -> dict[str, Any]:
    return {"type": "function", "strict": entry.boolean("strict"), "description": None, **_tool(entry)["function"]}


def _metadata(given: Fields) -> dict[str, Any]:
    metadata = given.object("metadata")
    if metadata is None:
        return {}
    return {name: metadata.string(name) for name in metadata}


def _ignored(given: Fields, include: Sequence[str]) -> Sequence[str]:
    ignored = [name for name in _IGNORED if name in given]
    if any(name not in (_SEALED, _LOGPROBS) for name in include):
        ignored.append("include")
    if given.boolean("store"):
        ignored.append("store")
    return ignored
