"""What a chat completion is asked for, as `/api/chat` has it: one request of a node for each choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parallama.gateway.api import Inbound, Outbound
from parallama.gateway.fields import Fields
from parallama_openai import parameters
from parallama_openai.messages import chat_messages
from parallama_openai.tools import chat_tools

_IGNORED = (
    "audio",
    "logit_bias",
    "metadata",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
    "verbosity",
)
"""Nothing that a node could do, and the answer is right without it."""

_REFUSED = {
    "web_search_options": "no node searches the web",
    "moderation": "no node moderates",
}
"""The answer would not be what was asked for."""


def ignored(given: Fields) -> Sequence[str]:
    """The parameters that change nothing here."""
    return [name for name in _IGNORED if name in given]


def outbounds(given: Fields, inbound: Inbound) -> Sequence[Outbound]:
    """One for each of the `n` choices; they share their messages. Raises BadRequest."""
    _refuse(given)
    count = given.integer("n", least=1, most=parameters.MAX_CHOICES) or 1
    body = _body(given, inbound)
    return [_outbound(body, number) for number in range(count)]


def _refuse(given: Fields) -> None:
    for name, why in _REFUSED.items():
        if name in given:
            given.refuse(name, why)
    if set(given.strings("modalities") or ()) - {"text"}:
        given.refuse("modalities", "answers are text only")


def _outbound(body: dict[str, Any], number: int) -> Outbound:
    """A seed counts on with the choices: the same one would give the same answer."""
    options = body.get("options") or {}
    if number and "seed" in options:
        body = {**body, "options": {**options, "seed": options["seed"] + number}}
    return Outbound(method="POST", path="/api/chat", model=body["model"], body=body)


def _body(given: Fields, inbound: Inbound) -> dict[str, Any]:
    model = given.model(inbound)
    more = {
        "tools": chat_tools(given) or None,
        "format": parameters.format(given.object("response_format")),
        "options": _options(given) or None,
        "think": _think(given, inbound, model),
        **_logprobs(given),
    }
    body = {"model": model, "messages": chat_messages(given), "stream": True}
    return body | {name: value for name, value in more.items() if value is not None}


def _options(given: Fields) -> dict[str, Any]:
    limit = parameters.output_limit(given, "max_completion_tokens", "max_tokens")
    return parameters.options(given) | ({} if limit is None else {"num_predict": limit})


def _think(given: Fields, inbound: Inbound, model: str) -> bool | str | None:
    reasoning = given.object("reasoning")
    if reasoning and "effort" in reasoning:
        return parameters.think(reasoning.string("effort"), inbound, model, "reasoning.effort")
    return parameters.think(given.string("reasoning_effort"), inbound, model)


def _logprobs(given: Fields) -> dict[str, Any]:
    count = given.integer("top_logprobs", least=0, most=20)
    if given.boolean("logprobs"):
        return {"logprobs": True, "top_logprobs": count}
    if count:
        given.refuse("top_logprobs", "it needs logprobs to be true")
    return {}
