"""What is left of a caller's limits, in the headers of OpenAI's API: one limit of requests, and one of tokens."""

from __future__ import annotations

from collections.abc import Mapping

from parallama.gateway.api import ReplyFacts
from parallama.limits import Meter
from parallama.quotas import TOKENS, tightest

_HEADERS = {"requests": (Meter.REQUESTS,), "tokens": TOKENS}


def rate_limits(facts: ReplyFacts) -> Mapping[str, str]:
    """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}` of the tightest of each; the time is a duration of Go."""
    headers: dict[str, str] = {}
    for unit, meters in _HEADERS.items():
        if quota := tightest(facts.quotas, *meters):
            headers[f"x-ratelimit-limit-{unit}"] = str(quota.limit)
            headers[f"x-ratelimit-remaining-{unit}"] = str(quota.remaining)
            if (reset_s := quota.reset_s(facts.at)) is not None:
                headers[f"x-ratelimit-reset-{unit}"] = duration(reset_s)
    return headers


def duration(seconds: int) -> str:
    """As Go's time.Duration writes it: `42s`, `6m0s`, `1h0m0s`."""
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minute}m{second}s"
    return f"{minute}m{second}s" if minute else f"{second}s"
