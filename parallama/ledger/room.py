"""For how much of a request a limit has room, and which limit is in the way of one that has none. Pure.

The counts are those in memory, as of their last `look`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import inf

from parallama.ledger.amounts import amounts_of, part_of
from parallama.ledger.counts import Count
from parallama.ledger.store import Cost, Refusal
from parallama.limits import Limit


def least_output(cost: Cost) -> int:
    """Tokens, with fewer of which it is not worth sending."""
    return min(cost.least_output, cost.output)


def most_output(limit: Limit, count: Count, cost: Cost) -> int:
    """For how much output a limit has room, of what is asked for; less than `least_output`: not even for that."""
    if not limit.amount:
        return -1
    room, part = max(0, limit.amount - count.used - count.reserved), part_of(limit)
    if amounts_of(cost, cost.output)[part] <= room:
        return cost.output
    least = least_output(cost)
    outputs = range(least, cost.output)
    return least - 1 + bisect_right(outputs, room, key=lambda output: amounts_of(cost, output)[part])


def refusal(asked: Sequence[tuple[Limit, Count]], cost: Cost, now: float) -> Refusal:
    """By the limit that is longest in the way, requests under way counting least."""
    standings = [count.standing(limit, now) for limit, count in asked]
    obstacles = [_obstacle(limit, count, cost, now) for limit, count in asked]
    worst = max(range(len(asked)), key=obstacles.__getitem__)
    used_up, wait_s = obstacles[worst]
    return Refusal(standings[worst], None if wait_s == inf else wait_s, not used_up, standings)


def _obstacle(limit: Limit, count: Count, cost: Cost, now: float) -> tuple[bool, float]:
    """Whether what was used is in the way, and for how many seconds something is; inf: time does not change it."""
    if not limit.amount:
        return True, inf
    need = amounts_of(cost, least_output(cost))[part_of(limit)]
    lacking = count.used + count.reserved + need - limit.amount
    if not need or lacking <= 0:
        return False, 0.0
    return count.used + need > limit.amount, count.wait_s(lacking, now)
