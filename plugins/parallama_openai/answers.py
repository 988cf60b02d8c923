"""How tokens are told, which answers of several endpoints share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parallama.exchange import Usage


def told_usage(usage: Usage) -> dict[str, int]:
    """`{prompt_tokens, completion_tokens, total_tokens}`; what the node left out is 0."""
    prompt, output = usage.prompt_tokens or 0, usage.output_tokens or 0
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


def told_logprobs(items: Sequence[Any]) -> list[dict[str, Any]]:
    """Those of the node; Ollama leaves out what was not asked for, OpenAI's types want it empty."""
    return [
        {"bytes": None, **item, "top_logprobs": item.get("top_logprobs") or []}
        for item in items
        if isinstance(item, dict)
    ]
