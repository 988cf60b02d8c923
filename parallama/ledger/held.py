"""What one request holds of the counts in memory, from its grant until it is settled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from operator import attrgetter
from typing import NamedTuple

from parallama.immutable import maker
from parallama.ledger.amounts import NOTHING, Amounts, part_of
from parallama.ledger.counts import Bucket, Count
from parallama.ledger.store import Grant, Standing, make_grant
from parallama.limits import Limit
from parallama.quotas import Policies, make_quotas, policies_of_limits

_Part = tuple[Count, int, int, int, bool, Limit]
"""One limit: its count, which of a request's Amounts it counts, the most that may be taken, a fifth of that, and
whether it is strict."""
_ends = attrgetter("ends_at")


class Asked(NamedTuple):
    """Limits that are asked for together, with their counts."""

    policies: Policies
    parts: Sequence[_Part]


def asked_of(counts: Iterable[tuple[Limit, Count]]) -> Asked:
    """Of limits with their counts."""
    pairs = [*counts]
    parts = [
        # a limit of 0 lets nothing through, whatever it costs
        (count, part_of(limit), limit.amount or -1, limit.amount // 5, limit.strict, limit)
        for limit, count in pairs
    ]
    return Asked(policies_of_limits([limit for limit, _ in pairs]), parts)


class Held(NamedTuple):
    """A reservation."""

    grant: Grant
    weight: float
    amounts: Amounts
    parts: Sequence[_Part]
    buckets: Sequence[Bucket]
    """Where each is charged."""

    def release(self, spent: Amounts) -> int:
        """Charge what was used in place of what was reserved; by how much it was more, of a strict limit."""
        overrun = 0
        _, _, amounts, parts, buckets = self  # at once, which is sooner than one after another
        for (count, part, _, _, strict, _), bucket in zip(parts, buckets):  # noqa: B905 - a refusal has fewer buckets
            amount, used = amounts[part], spent[part]
            if used > amount and strict:
                overrun = max(overrun, used - amount)
            if amount and bucket is count.bucket:
                count.reserved -= amount
                count.used += used
            else:
                count.settle(bucket, amount, used)
        return overrun


_held = maker(Held)


def hold(asked: Asked, amounts: Amounts, output: int, weight: float, now: float) -> Held | None:
    """Reserve `amounts`; `output`: what is granted with them. None: somewhere there is no room, and nothing is held."""
    policies, parts = asked
    buckets: list[Bucket] = []
    remaining: list[int] = []
    scarce: list[Standing] = []
    for count, part, most, fifth, _, limit in parts:
        if now >= count.until:
            count.look(now)
        amount = amounts[part]
        reserved = count.reserved + amount
        left = most - count.used - reserved
        if left < 0 and (amount or most < 0):  # nothing has room everywhere, but in a limit of 0
            _give_back(Held(make_grant((0, None, (), now)), weight, amounts, parts, buckets))
            return None
        count.reserved = reserved
        bucket = count.bucket or count.begin(now)
        if not amount:
            bucket.unsure += 1
        if left <= fifth:
            scarce.append(Standing(limit, count.used, reserved, None if bucket.ends_at == inf else bucket.ends_at))
            left = max(left, 0)
        buckets.append(bucket)
        remaining.append(left)
    quotas = make_quotas((policies, remaining, [*map(_ends, buckets)]))
    return _held((make_grant((output, quotas, scarce, now)), weight, amounts, parts, buckets))


def _give_back(held: Held) -> None:
    """All of it, up to where there was no room."""
    held.release(NOTHING)
    for count, *_ in held.parts[: len(held.buckets)]:
        count.take_back()
