"""What answers of several endpoints share: their head, and how tokens are told."""

from __future__ import annotations

from parallama.exchange import Usage
from parallama.gateway.api import Head

JSON = Head(200, (("Content-Type", "application/json"),))
"""The head of an answer of one document."""


def told_usage(usage: Usage) -> dict[str, int]:
    """`{prompt_tokens, completion_tokens, total_tokens}`; what the node left out is 0."""
    prompt, output = usage.prompt_tokens or 0, usage.output_tokens or 0
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
