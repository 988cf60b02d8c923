"""What one request holds of the counts in memory, from its grant until it is settled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from parallama.immutable import maker
from parallama.ledger.amounts import NOTHING, Amounts
from parallama.ledger.counts import Bucket, Count
from parallama.ledger.store import Grant, Standing, make_grant
from parallama.limits import Limit, Meter, Period
from parallama.quotas import Quota, make_quota

Asked = tuple[Limit, Count, int, int, bool, Meter, Period]
"""A limit with its count, the most that may be taken of it, the part of a request's Amounts that it counts, whether it
is strict, and of what it is."""
_Charge = tuple[Count, Bucket, int, int, bool]
"""One limit's part: where it is charged, how much, of what, and whether the limit is strict."""


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


_held = maker(Held)


def hold(asked: Sequence[Asked], amounts: Amounts, output: int, weight: float, now: float) -> Held | None:
    """Reserve `amounts`; `output`: what is granted with them. None: somewhere there is no room, and nothing is held."""
    charges: list[_Charge] = []
    quotas: list[Quota] = []
    scarce: list[Standing] = []
    held = _held((make_grant((output, quotas, scarce, now)), weight, charges))
    for limit, count, most, part, strict, meter, period in asked:
        if now >= count.until:
            count.look(now)
        amount, used = amounts[part], count.used
        reserved = count.reserved + amount
        left = most - used - reserved
        if left < 0 and (amount or most < 0):  # nothing has room everywhere, but in a limit of 0
            held.release(NOTHING)
            for charged, *_ in charges:
                charged.take_back()
            return None
        count.reserved = reserved
        bucket = count.bucket or count.begin(now)
        if not amount:
            bucket.unsure += 1
        charges.append((count, bucket, amount, part, strict))
        ends_at = None if period is Period.NOW else bucket.ends_at
        if left * 5 <= most:
            scarce.append(Standing(limit, used, reserved, ends_at))
            left = max(left, 0)
        quotas.append(make_quota((meter, period, most, left, ends_at)))
    return held
