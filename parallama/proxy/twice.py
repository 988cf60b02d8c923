"""Chats that Ollama runs twice: a model thinks freely, then it is asked anew with the format that the client wants.

The node reports the second run alone, whose prompt is the first one's with all that was thought behind it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from parallama.exchange import Usage
from parallama.gateway.api import Outbound
from parallama.nodes.catalog import Catalog


def told_once(usage: Usage, outbounds: Iterable[Outbound], catalog: Catalog) -> Usage:
    """What was spent when a node has told `usage` of `outbounds`: the prompt twice where each ran twice.

    That is the first prompt, what was thought, and the second prompt, so that the total is true; what was thought
    counts as prompt.
    """
    if not usage.final or not usage.prompt_tokens:
        return usage
    for outbound in outbounds:
        if not _runs_twice(outbound, catalog):
            return usage
    return replace(usage, prompt_tokens=2 * usage.prompt_tokens)


def _runs_twice(outbound: Outbound, catalog: Catalog) -> bool:
    body = outbound.body
    if not body or "format" not in body or outbound.path != "/api/chat" or body.get("think") is False:
        return False
    name = outbound.target or outbound.model
    return name is not None and "thinking" in catalog.capabilities(name)
