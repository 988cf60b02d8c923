"""What is left of a caller's limits, in the headers of Anthropic's API: one limit of requests, one each of prompt and
output tokens, and whichever of tokens is the tightest."""

from __future__ import annotations

from collections.abc import Mapping

from parallama.gateway.api import ReplyFacts
from parallama.limits import Meter
from parallama.quotas import TOKENS, rfc3339, tightest

_HEADERS = {
    "requests": (Meter.REQUESTS,),
    "tokens": TOKENS,
    "input-tokens": (Meter.PROMPT_TOKENS,),
    "output-tokens": (Meter.OUTPUT_TOKENS,),
}


def rate_limits(facts: ReplyFacts) -> Mapping[str, str]:
    """`anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,reset}`; the time is RFC 3339,
    UTC."""
    headers: dict[str, str] = {}
    for unit, meters in _HEADERS.items():
        if quota := tightest(facts.quotas, *meters):
            headers[f"anthropic-ratelimit-{unit}-limit"] = str(quota.limit)
            headers[f"anthropic-ratelimit-{unit}-remaining"] = str(quota.remaining)
            if quota.reset_at is not None:
                headers[f"anthropic-ratelimit-{unit}-reset"] = rfc3339(quota.reset_at)
    return headers
