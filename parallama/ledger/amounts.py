"""What a request takes of limits, whatever they count: all of it at once, of which each limit knows its own part. Pure.

Tokens are weighted, and rounded up once for each limit.
"""

from __future__ import annotations

from math import ceil

from parallama.ledger.store import Cost, Spent
from parallama.limits import Limit, Meter

Amounts = tuple[int, ...]
"""Of one request; `part_of` says where a limit finds its own."""

_REQUEST, _PROMPT, _OUTPUT, _TOTAL, _PROBABLE_PROMPT, _PROBABLE_TOTAL, _SLOT = range(7)
_PARTS = {
    Meter.REQUESTS: _REQUEST,
    Meter.PROMPT_TOKENS: _PROMPT,
    Meter.OUTPUT_TOKENS: _OUTPUT,
    Meter.TOTAL_TOKENS: _TOTAL,
    Meter.CONCURRENCY: _SLOT,
}
_PROBABLE = {_PROMPT: _PROBABLE_PROMPT, _TOTAL: _PROBABLE_TOTAL}


def part_of(limit: Limit) -> int:
    """The place of what the limit counts in Amounts."""
    part = _PARTS[limit.scope.meter]
    return part if limit.strict else _PROBABLE.get(part, part)


def amounts_of(cost: Cost, output: int) -> Amounts:
    """What a request takes that is granted so much output, until it is settled."""
    prompt, probable, _, _, weight, _ = cost
    if weight == 1:
        return 1, prompt, output, prompt + output, probable, probable + output, 1
    tokens = prompt, output, prompt + output, probable, probable + output
    return 1, *[ceil(some * weight) for some in tokens], 1


def amounts_spent(spent: Spent, weight: float) -> Amounts:
    """What it has taken in the end; a slot it gives back."""
    prompt, output = spent
    total = prompt + output
    if weight != 1:
        prompt, output, total = ceil(prompt * weight), ceil(output * weight), ceil(total * weight)
    return 1, prompt, output, total, prompt, total, 0


NOTHING: Amounts = (0,) * 7
"""Of a request that never reached a node."""
