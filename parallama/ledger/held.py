"""What one request holds of the counts in memory, from its grant until it is settled."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import inf
from typing import NamedTuple

from parallama.ledger.amounts import NOTHING, Amounts
from parallama.ledger.counts import Bucket, Count
from parallama.ledger.store import Grant, Standing
from parallama.limits import Limit

Asked = tuple[Limit, Count, int, int, bool]
"""A limit with its count, the most that may be taken of it, the part of a request's Amounts that it counts, and whether
it is strict."""
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
            if amount and bucket is count.bucket:
                count.reserved -= amount
                count.used += used
            else:
                count.settle(bucket, amount, used)
        return overrun


def hold(asked: Sequence[Asked], amounts: Amounts, output: int, weight: float, now: float) -> Held | None:
    """Reserve `amounts`; `output`: what is granted with them. None: somewhere there is no room, and nothing is held."""
    charges: list[_Charge] = []
    standings: list[Standing] = []
    held = Held(Grant(output, standings, now), weight, charges)
    for limit, count, most, part, strict in asked:
        if now >= count.until:
            count.look(now)
        amount, used = amounts[part], count.used
        reserved = count.reserved + amount
        if used + reserved > most and (amount or most < 0):  # nothing has room everywhere, but in a limit of 0
            held.release(NOTHING)
            return None
        count.reserved = reserved
        bucket = count.bucket or count.begin(now)
        if not amount:
            bucket.unsure += 1
        charges.append((count, bucket, amount, part, strict))
        ends_at = bucket.ends_at
        standings.append(_standing((limit, used, reserved, None if ends_at == inf else ends_at)))
    return held
