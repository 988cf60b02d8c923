"""The counts of a store, compared with what the rows say was used: what a count lacks, or has too much.

Requests end meanwhile, so a count is read before the rows and after them, and must have been right at some moment
between. Of many users and keys a few are looked at at a time, in turn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from parallama.ledger.seeds import Seeds
from parallama.ledger.store import Store
from parallama.ledger.windows import Window, window
from parallama.limits import Counter, Limit, Meter, Period

_FEW = 200
"""Users and keys that are looked at at a time."""


class Gap(NamedTuple):
    """Between a count and the rows."""

    amount: int
    """What the count lacks; negative: what it has too much."""
    least: int = 0
    """What the rows say at most: so much must be left of the count, whoever else has put it right meanwhile."""


Missing = Mapping[Counter, Gap]
"""Of counts that are off."""


class Drift:
    """Of one store."""

    def __init__(
        self,
        store: Store,
        caught_up: Callable[[], Awaitable[bool]],
        seeds: Seeds,
        zone: str,
        weights: Mapping[str, float],
    ) -> None:
        """`caught_up`: until what has ended is in the database; False: it may not be, so that no count is known to have
        too much. `zone` is that of the calendar, an IANA name; `weights` as for Seeds."""
        self._store, self._caught_up, self._seeds, self._zone = store, caught_up, seeds, ZoneInfo(zone)
        self._rounded = any(weight != int(weight) for weight in weights.values())
        self._last = UUID(int=0)

    async def look(self, again: Collection[Counter] = ()) -> Missing:
        """What is off: of the next few users and keys, and of those whose counts are to be looked at `again`. Raises
        Unavailable and Uncountable."""
        before = await self._store.counts()
        return await self._compare(before, {*self._next(before), *(counter.subject for counter in again)})

    async def look_at(self, subjects: Collection[UUID]) -> Missing:
        """What is off of these users and keys. Raises Unavailable and Uncountable."""
        return await self._compare(await self._store.counts(), subjects)

    async def _compare(self, before: Mapping[Counter, int], subjects: Collection[UUID]) -> Missing:
        """`before`: the counts as of just now."""
        by_subject = _by_subject(before, subjects)
        if not by_subject:
            return {}
        windows = await self._windows(before)
        complete = await self._caught_up()
        used: dict[Counter, tuple[int, int]] = {}
        for counters in by_subject.values():
            used |= await self._used(counters, windows)
        after = await self._store.counts()
        same = windows.items() & (await self._windows(after)).items()
        kept = [one for one in used if one in after and (one.scope.period, windows[one.scope.period]) in same]
        gaps = {one: _gap(used[one], before[one], after[one]) for one in kept}
        return {one: gap for one, gap in gaps.items() if gap.amount > 0 or (gap.amount and complete)}

    async def _windows(self, counters: Collection[Counter]) -> Mapping[Period, Window]:
        """The present ones, by the clock that counts: those of other clocks may be others."""
        some = {counter.scope.period: counter for counter in counters}.values()
        found = await self._store.standings([Limit(subject=one.subject, scope=one.scope, amount=1) for one in some])
        ends = {one.limit.scope.period: one.reset_at for one in found if one.reset_at is not None}
        return {period: window(period, end - 1, self._zone) for period, end in ends.items()}

    def _next(self, counters: Collection[Counter]) -> Sequence[UUID]:
        """In the order of their ids, from the beginning again after the last."""
        subjects = sorted({counter.subject for counter in counters})
        following = [one for one in subjects if one > self._last] + [one for one in subjects if one <= self._last]
        chosen = following[:_FEW]
        self._last = chosen[-1] if chosen else self._last
        return chosen

    async def _used(
        self, counters: Collection[Counter], windows: Mapping[Period, Window]
    ) -> dict[Counter, tuple[int, int]]:
        """The least and the most that each may count, by the rows."""
        known = [counter for counter in counters if counter.scope.period in windows]
        found = await self._seeds.of({*known, *map(_requests, known)})
        sums = {one: _within(windows[one.scope.period], amounts) for one, amounts in found.items()}
        return {one: (sums[one], sums[one] + self._rounding(one, sums[_requests(one)])) for one in known}

    def _rounding(self, counter: Counter, requests: int) -> int:
        """How much more than the sum may be counted, where a token's weight is no whole number: each request is rounded
        up by itself."""
        return requests if self._rounded and counter.scope.meter is not Meter.REQUESTS else 0


def _by_subject(counters: Iterable[Counter], subjects: Collection[UUID]) -> Mapping[UUID, Sequence[Counter]]:
    """Those of these subjects."""
    found: dict[UUID, list[Counter]] = {}
    for counter in counters:
        if counter.subject in subjects:
            found.setdefault(counter.subject, []).append(counter)
    return found


def _requests(counter: Counter) -> Counter:
    """The counter of the requests in the same scope."""
    return counter._replace(scope=counter.scope._replace(meter=Meter.REQUESTS))


def _within(window: Window, amounts: Collection[tuple[float, int]]) -> int:
    return sum(amount for second, amount in amounts if window.start <= second < window.end)


def _gap(used: tuple[int, int], before: int, after: int) -> Gap:
    least, most = used
    low, high = sorted((before, after))
    return Gap(least - high if least > high else min(0, most - low), most)
