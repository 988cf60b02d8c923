"""What one request holds of the counts in memory, from its grant until it is settled."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import inf
from typing import NamedTuple

from parallama.ledger.amounts import Amounts
from parallama.ledger.counts import Bucket, Count
from parallama.ledger.store import Grant, Standing
from parallama.limits import Limit

Asked = tuple[Limit, Count, int, int]
"""A limit with its count, the most that may be taken of it, and the part of a request's Amounts that it counts."""
_Charge = tuple[Count, Bucket, int, int, bool]
"""One limit's part: where it is charged, how much, of what, and whether the limit is strict."""

_standing = partial(tuple.__new__, Standing)  # a third of what its own constructor takes


class Held(NamedTuple):
    """A reservation."""

    grant: Grant
    weight: float
    charges: Sequence[_Charge]

    def release(self, spent: Amounts) -> int:
        """Charge what was used in place of what was reserved; by how much it was more, of a strict limit."""
        overrun = 0
        for count, bucket, amount, part, strict in self.charges:
            used = spent[part]
            if used > amount and strict:
                overrun = max(overrun, used - amount)
            if not bucket.ended:
                if not amount:
                    bucket.unsure -= 1
                bucket.reserved -= amount
                count.reserved -= amount
                bucket.used += used
                count.used += used
        return overrun


def hold(asked: Sequence[Asked], amounts: Amounts, output: int, weight: float, now: float) -> Held:
    """Reserve `amounts`, for which there is room, in counts that were looked at `now`; `output`: what is granted."""
    charges: list[_Charge] = []
    standings: list[Standing] = []
    for limit, count, _, part in asked:
        amount, bucket = amounts[part], count.bucket or count.begin(now)
        if not amount:
            bucket.unsure += 1
        bucket.reserved += amount
        count.reserved = taken = count.reserved + amount
        ends_at = bucket.ends_at
        charges.append((count, bucket, amount, part, limit.strict))
        standings.append(_standing((limit, count.used, taken, None if ends_at == inf else ends_at)))
    return Held(Grant(output, standings, now), weight, charges)
