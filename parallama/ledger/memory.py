"""The store of counts of a gateway that is alone: all in this process's memory, so that nothing ever waits.

Whatever happens between two awaits of the caller is one step, which is what makes a reservation all or nothing. What
was used before this process began is seeded by whoever asks first.
"""

from __future__ import annotations

import asyncio
import time
from builtins import id as identity
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import tzinfo
from itertools import count as numbers
from math import inf
from uuid import UUID

from parallama.ledger.amounts import NOTHING, amounts_of, amounts_spent
from parallama.ledger.counts import Count, clocks
from parallama.ledger.held import Asked, Held, asked_of, hold
from parallama.ledger.room import least_output, most_output, refusal
from parallama.ledger.store import Cost, Grant, Refusal, Spent, Standing, Unknown
from parallama.ledger.windows import CALENDAR
from parallama.limits import Counter, Limit, Period, Scope

_MARKS = 1_000
"""So many ids at least are remembered after their end; few, so that the processor's cache keeps them."""
_KEPT = 10_000
"""Combinations of limits."""
_SWEEP_S = 3600.0
_FEW = 100
"""Counts that are looked at at a time."""


class MemoryStore:
    """Implements Store.

    A counter is forgotten when it holds nothing and nobody asked for an hour or two, or when its limits have changed;
    then it is Unknown once more. A clock that was set back ends no calendar window again, and delays the end of what
    the last minute holds by a minute at most.
    """

    def __init__(self, zone: tzinfo, now: Callable[[], float] = time.time) -> None:
        """`zone` is that of the calendar; `now` tells Unix seconds."""
        self.overrun = 0
        """Weighted tokens, since the start, that requests cost beyond what they had reserved of a strict limit."""
        self._now, self._last = now, -inf
        self._clocks = clocks(zone)
        # by plain numbers, here and below: a UUID takes long to be hashed
        self._counts: dict[tuple[int, Scope], Count] = {}
        """By subject and scope."""
        self._kept: dict[int, tuple[tuple[Limit, ...], Asked]] = {}
        """Limits that were asked for together, by the identity of the tuple, while all of their counts are known."""
        self._wanted: set[Count] = set()
        """Those that came since the last sweep, or whose standing somebody asked for."""
        self._scopes: dict[UUID, set[Scope]] = {}
        """Of the counts, by subject."""
        self._held: dict[int, Held] = {}
        self._ended: set[int] = set()
        self._ended_before: set[int] = set()
        self._stale: set[Count] = set()
        """To be forgotten once nothing is reserved in them."""
        self._asked: dict[Counter, str] = {}
        """Counters that somebody was told are not known, each with a word of its own."""
        self._words = numbers()
        self._sweep_at = now() + _SWEEP_S

    @property
    def holds(self) -> int:
        """Requests with a reservation."""
        return len(self._held)

    @property
    def reserved(self) -> int:
        """The sum of what is reserved of all counters, whatever they count; 0 when nothing is held."""
        return sum(count.reserved for count in self._counts.values())

    @property
    def known(self) -> int:
        """Counters in memory."""
        return len(self._counts)

    async def reserve(self, id: UUID, limits: tuple[Limit, ...], cost: Cost) -> Grant | Refusal | Unknown:
        """As Store says. Never waits, never raises."""
        if (held := self._held.get(id.int)) is not None:
            return held.grant
        if (now := self._now()) < self._last:
            self._doubt()
        self._last = now
        if not limits:
            return Grant(cost.output, None, (), now)
        if now >= self._sweep_at:
            self._sweep(now)
        if self._stale:
            self._let_go(self._of(limits), now)
        kept = self._kept.get(identity(limits))
        asked = self._keep(limits) if kept is None else kept[1]
        if isinstance(asked, Unknown):
            return asked
        if id.int in self._ended or id.int in self._ended_before:
            return _refused(asked, now)
        _, _, output, _, weight, _ = cost
        reserved = hold(asked, amounts_of(cost, output), output, weight, now) or _squeezed(asked, cost, now)
        if isinstance(reserved, Refusal):
            return reserved
        self._held[id.int] = reserved
        return reserved[0]  # the grant; by its name it would take longer

    def settle(self, id: UUID, spent: Spent | None) -> None:
        """As Store says; None: it never reached a node."""
        number = id.int
        self._ended.add(number)  # it gets no other reservation
        if len(self._ended) >= _MARKS:
            self._ended_before, self._ended = self._ended, set()
        if (held := self._held.pop(number, None)) is not None:
            self.overrun += held.release(NOTHING if spent is None else amounts_spent(spent, held.weight))

    def cancel(self, id: UUID) -> None:
        """As Store says."""
        self.settle(id, None)

    def seed(
        self, used: Mapping[Counter, Sequence[tuple[float, int]]], asked: Mapping[Counter, str] | None = None
    ) -> None:
        """As Store says."""
        now = self._time()
        for counter, amounts in used.items():
            forgotten = asked is not None and asked.get(counter, "") != self._asked.get(counter, "")
            if self._known(counter) is None and not forgotten:
                self._asked.pop(counter, None)
                self._add(counter).fill(amounts, now)

    async def standings(self, limits: Sequence[Limit]) -> Sequence[Standing]:
        """As Store says. Never waits, never raises."""
        now = self._time()
        self._let_go(self._of(limits), now)
        unknown = self._unknown(limits)
        known = [(limit, self._known(limit.counter)) for limit in limits if limit.counter not in unknown]
        self._wanted.update(count for _, count in known if count)
        return [_looked(count, now).standing(limit, now) for limit, count in known if count]

    def forget(self, subjects: Collection[UUID] | None) -> None:
        """As Store says."""
        now = self._time()
        for counter in [one for one in self._asked if subjects is None or one.subject in subjects]:
            del self._asked[counter]
        for subject in [*(self._scopes if subjects is None else subjects)]:
            for scope in [*self._scopes.get(subject, ())]:
                if scope.period is not Period.NOW:
                    count = self._counts[subject.int, scope]
                    self._stale.add(count)
                    self._let_go([count], now)

    async def counts(self) -> Mapping[Counter, int]:
        """As Store says, of each counter as of some moment. Never raises."""
        self._let_go([*self._stale], self._time())
        found: dict[Counter, int] = {}
        every = [count.counter for count in self._counts.values() if count.counter.scope.period in CALENDAR]
        for begin in range(0, len(every), _FEW):
            await asyncio.sleep(0)  # whatever else there is to do comes between
            now = self._time()
            for counter in every[begin : begin + _FEW]:
                if (count := self._known(counter)) is not None:
                    count.look(now)
                    found[counter] = count.used
        return found

    def correct(self, counter: Counter, amount: int, least: int = 0) -> None:
        """As Store says."""
        if (count := self._known(counter)) is not None:
            now = self._time()
            count.look(now)
            count.correct(max(amount, min(0, least - count.used)), now)

    async def held(self) -> Collection[UUID]:
        """As Store says. Never waits, never raises."""
        return [UUID(int=id) for id in self._held]

    def _time(self) -> float:
        now = self._now()
        if now < self._last:
            self._doubt()
        self._last = now
        return now

    def _doubt(self) -> None:
        """The clock was set back."""
        for count in self._counts.values():
            count.doubt()

    def _keep(self, limits: tuple[Limit, ...]) -> Asked | Unknown:
        """The limits with their counts. No count goes while they are kept, and neither does the tuple."""
        if unknown := self._unknown(limits):
            return Unknown({one: self._asked.setdefault(one, str(next(self._words))) for one in unknown})
        asked = asked_of((limit, self._counts[limit.subject.int, limit.scope]) for limit in limits)
        if len(self._kept) >= _KEPT:
            self._kept.clear()
        self._kept[identity(limits)] = limits, asked
        return asked

    def _unknown(self, limits: Sequence[Limit]) -> Collection[Counter]:
        """Those to be seeded. Requests under way are all this process's own, so concurrency begins at nothing."""
        missing = [limit.counter for limit in limits if self._known(limit.counter) is None]
        for counter in missing:
            if counter.scope.period is Period.NOW:
                self._add(counter)
        return [counter for counter in missing if self._known(counter) is None]

    def _of(self, limits: Sequence[Limit]) -> Sequence[Count]:
        """The counts that are known."""
        return [count for limit in limits if (count := self._known(limit.counter))]

    def _known(self, counter: Counter) -> Count | None:
        return self._counts.get((counter.subject.int, counter.scope))

    def _let_go(self, counts: Iterable[Count], now: float) -> None:
        """Drop those that are to be forgotten and await nothing any more."""
        for count in counts:
            if count in self._stale:
                count.look(now)
                if not count.awaits:
                    self._drop(count)

    def _add(self, counter: Counter) -> Count:
        subject, scope = counter
        count = self._counts[subject.int, scope] = Count(counter, self._clocks[scope.period])
        self._wanted.add(count)
        self._scopes.setdefault(subject, set()).add(scope)
        return count

    def _drop(self, count: Count) -> None:
        subject, scope = count.counter
        self._stale.discard(count)
        self._wanted.discard(count)
        self._kept.clear()
        del self._counts[subject.int, scope]
        scopes = self._scopes[subject]
        scopes.remove(scope)
        if not scopes:
            del self._scopes[subject]

    def _sweep(self, now: float) -> None:
        """Forget counters that hold nothing and for which nobody asked since the last sweep."""
        self._sweep_at = now + _SWEEP_S
        self._asked.clear()  # who still waits asks again
        wanted = self._wanted | {part[0] for _, asked in self._kept.values() for part in asked.parts}
        self._wanted.clear()
        self._kept.clear()
        self._let_go([*self._stale], now)
        for count in [*self._counts.values()]:
            count.look(now)
            if not (count.used or count.awaits or count in wanted):
                self._drop(count)


def _squeezed(asked: Asked, cost: Cost, now: float) -> Held | Refusal:
    """With less output, where there is no room for all of it."""
    counts = _looked_at(asked, now)
    output = min([most_output(limit, count, cost) for limit, count in counts])
    held = hold(asked, amounts_of(cost, output), output, cost.weight, now) if output >= least_output(cost) else None
    return held or refusal(counts, cost, now)


def _refused(asked: Asked, now: float) -> Refusal:
    """Of a request that has ended."""
    standings = [count.standing(limit, now) for limit, count in _looked_at(asked, now)]
    return Refusal(standings[0], None, False, standings)


def _looked_at(asked: Asked, now: float) -> Sequence[tuple[Limit, Count]]:
    """The limits with their counts as they are now."""
    return [(limit, _looked(count, now)) for count, *_, limit in asked.parts]


def _looked(count: Count, now: float) -> Count:
    """As it is now."""
    count.look(now)
    return count
