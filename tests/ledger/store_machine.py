"""Any requests at any moments against a store of counts: a state machine whose model is plain sums of what happened.

The promise: no grant takes a limit over the amount that it had at that moment, in any window, however the clock was
set; and nobody is refused who has room. A machine for a store is made by giving it a `rig`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from math import ceil, floor
from typing import Any, TypeVar
from uuid import UUID, uuid4

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule
from store_rig import CALENDAR, ZONE, Rig, at, together

from parallama.ledger.store import Cost, Grant, Refusal, Spent, Unknown
from parallama.limits import EVERY, Counter, Limit, Meter, Period, Scope

T = TypeVar("T")

_USER, _KEY, _WATCHER = uuid4(), uuid4(), uuid4()
COUNTERS = [
    Counter(_USER, Scope(EVERY, None, Meter.REQUESTS, Period.MINUTE)),
    Counter(_USER, Scope("ollama", None, Meter.TOTAL_TOKENS, Period.MINUTE)),
    Counter(_USER, Scope(EVERY, None, Meter.TOTAL_TOKENS, Period.HOUR)),
    Counter(_USER, Scope("ollama", "llama*", Meter.REQUESTS, Period.HOUR)),
    Counter(_USER, Scope(EVERY, None, Meter.PROMPT_TOKENS, Period.DAY)),
    Counter(_USER, Scope(EVERY, None, Meter.OUTPUT_TOKENS, Period.MONTH)),
    Counter(_USER, Scope(EVERY, None, Meter.CONCURRENCY, Period.NOW)),
    Counter(_KEY, Scope(EVERY, None, Meter.OUTPUT_TOKENS, Period.MINUTE)),
    Counter(_KEY, Scope(EVERY, None, Meter.REQUESTS, Period.DAY)),
]
_WATCHED = [
    Limit(subject=_WATCHER, scope=Scope(EVERY, None, Meter.REQUESTS, period), amount=1)
    for period in (Period.HOUR, Period.DAY, Period.MONTH)
]
_COSTS = st.builds(
    Cost,
    prompt=st.integers(0, 40),
    prompt_estimate=st.integers(0, 15),
    output=st.integers(0, 60),
    least_output=st.integers(1, 3),
    weight=st.sampled_from([0.5, 1.0, 1.25, 3.0]),
)
_ASKED = st.lists(
    st.tuples(st.sampled_from(COUNTERS), st.sampled_from([0, 1, 2, 3, 50, 51, 100, 200]), st.booleans()),
    min_size=1,
    max_size=5,
    unique_by=lambda asked: asked[0],
)
_QUARTERS = st.sampled_from(
    [1, 3, 4, 40, 119, 120, 236, 239, 240, 243, 244, 3600 * 4, 5000 * 4, 86_400 * 4, 31 * 86_400 * 4]
)


@dataclass(eq=False)
class Entry:
    """What one request reserved or used of one counter."""

    real: float
    """Seconds that have truly passed when it was made."""
    wall: float
    """What the clock said."""
    latest: float
    """The latest that the clock had said by then."""
    amount: int
    open: bool = True


@dataclass(eq=False)
class Request:
    """One that has a grant."""

    id: UUID
    cost: Cost
    grant: Grant
    limits: Sequence[Limit]
    entries: dict[Counter, Entry]


def cost_of(meter: Meter, prompt: int, output: int, weight: float) -> int:
    """What a limit counts, in exact fractions."""
    if meter in (Meter.REQUESTS, Meter.CONCURRENCY):
        return 1
    tokens = {Meter.PROMPT_TOKENS: prompt, Meter.OUTPUT_TOKENS: output, Meter.TOTAL_TOKENS: prompt + output}
    return ceil(tokens[meter] * Fraction(weight))


def bound(rule: Limit, cost: Cost, output: int) -> int:
    """What it reserves of a limit."""
    prompt = cost.prompt if rule.strict else cost.prompt_estimate
    return cost_of(rule.scope.meter, prompt, output, cost.weight)


def same_window(period: Period, one: float, other: float) -> bool:
    """Whether the calendar says that two moments are in one window."""
    here, there = (datetime.fromtimestamp(moment, ZONE) for moment in (one, other))
    length = {Period.MONTH: 7, Period.DAY: 10, Period.HOUR: 13}[period]
    same_offset = period is not Period.HOUR or here.utcoffset() == there.utcoffset()
    return same_offset and here.isoformat()[:length] == there.isoformat()[:length]


class StoreMachine(RuleBasedStateMachine):
    """Two subjects with nine limits, whose amounts change from one request to the next."""

    requests = Bundle("requests")

    def rig(self) -> Rig:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.it = self.rig()
        self.store, self.clock = self.it.store, self.it.clock
        self.clock.now = self.latest = at("2030-10-26 23:20:30")
        self.real = 0.0
        self.changed = self.set_back = False
        """Whether limits have changed, and the clock was set back."""
        self.entries: dict[Counter, list[Entry]] = {counter: [] for counter in COUNTERS}
        self.known: list[Request] = []

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coroutine)

    def sum(self, rule: Limit, *, most: bool = False) -> int:
        """What must count now of a limit, or what at `most` may: seconds are counted as wholes."""
        return sum(entry.amount for entry in self.entries[rule.counter] if self.counts(rule, entry, most))

    def counts(self, rule: Limit, entry: Entry, most: bool) -> bool:
        period = rule.scope.period
        if period is Period.NOW:
            return entry.open
        if period is Period.MINUTE:
            return self.clock.now < floor(entry.wall) + 61 if most else self.real < entry.real + 60
        # a count that nobody looked at before the clock was set back may still be in its old window
        moments = (self.latest, self.clock.now) if most else (self.latest,)
        return any(same_window(period, entry.latest, moment) for moment in moments)

    def lacks_room(self, rule: Limit, need: int) -> bool:
        return not rule.amount or (need > 0 and self.sum(rule, most=True) + need > rule.amount)

    # time

    def look(self) -> None:
        """Let the store see what the clock says."""
        self.latest = max(self.latest, self.clock.now)
        self.run(self.store.standings(_WATCHED))

    @initialize(before=st.lists(st.tuples(st.sampled_from(COUNTERS), st.integers(0, 40_000), st.integers(1, 30))))
    def start(self, before: Iterable[tuple[Counter, int, int]]) -> None:
        """With what was used before the store was there."""
        self.run(self.it.seed(*(rule.counter for rule in _WATCHED)))
        for counter, ago, amount in before:
            if counter.scope.period is not Period.NOW:
                wall = self.clock.now - ago / 4
                self.entries[counter].append(Entry(-ago / 4, wall, wall, amount, open=False))
        self.look()

    @rule(quarters=_QUARTERS)
    def time_passes(self, quarters: int) -> None:
        self.clock.now += quarters / 4
        self.real += quarters / 4
        self.look()

    @rule(quarters=st.integers(1, 4 * 3600))
    def clock_is_set_back(self, quarters: int) -> None:
        self.set_back = True
        self.clock.now -= quarters / 4
        self.look()

    # requests

    def ask(self, id: UUID, limits: Sequence[Limit], cost: Cost) -> Grant | Refusal:
        limits = together(limits)
        answer = self.run(self.store.reserve(id, limits, cost))
        if isinstance(answer, Unknown):
            for counter in answer.counters:
                assert counter in {rule.counter for rule in limits}
                self.run(self.it.seed(counter, used=self.rows(counter), asked=answer.counters))
            answer = self.run(self.store.reserve(id, limits, cost))
        assert not isinstance(answer, Unknown)
        return answer

    def rows(self, counter: Counter) -> list[tuple[float, int]]:
        """What a database would know of a counter."""
        minute = counter.scope.period is Period.MINUTE
        ended = [entry for entry in self.entries[counter] if not entry.open]
        return [(entry.wall if minute else entry.latest, entry.amount) for entry in ended]

    @rule(target=requests, asked=_ASKED, cost=_COSTS)
    def request(self, asked: Iterable[tuple[Counter, int, bool]], cost: Cost) -> Request | None:
        limits = [Limit(subject=c.subject, scope=c.scope, amount=amount, strict=strict) for c, amount, strict in asked]
        id = uuid4()
        answer = self.ask(id, limits, cost)
        if isinstance(answer, Grant):
            return self.granted(Request(id, cost, answer, limits, {}))
        self.refused(limits, cost, answer)
        return None

    def granted(self, request: Request) -> Request:
        cost, output = request.cost, request.grant.output
        assert min(cost.least_output, cost.output) <= output <= cost.output
        if output < cost.output:
            assert any(self.lacks_room(rule, bound(rule, cost, output + 1)) for rule in request.limits)
        for rule_ in request.limits:
            amount = bound(rule_, cost, output)
            assert rule_.amount > 0
            assert not amount or self.sum(rule_) + amount <= rule_.amount
            entry = request.entries[rule_.counter] = Entry(self.real, self.clock.now, self.latest, amount)
            self.entries[rule_.counter].append(entry)
        self.known.append(request)
        return request

    def refused(self, limits: Sequence[Limit], cost: Cost, refusal: Refusal) -> None:
        least = min(cost.least_output, cost.output)
        assert self.lacks_room(refusal.standing.limit, bound(refusal.standing.limit, cost, least))
        if refusal.under_way or refusal.retry_after_s is None:
            return
        self.clock.now += refusal.retry_after_s
        self.real += refusal.retry_after_s
        self.look()
        again = self.ask(id := uuid4(), limits, cost)
        if isinstance(again, Grant):
            self.granted(Request(id, cost, again, limits, {}))
        else:
            # what is seeded anew of a clock that was set back is of the future, and counts for a minute from now
            assert again.under_way or (self.changed and self.set_back)

    @rule(request=requests)
    def ask_again(self, request: Request | None) -> None:
        if request:
            answer = self.ask(request.id, request.limits, request.cost)
            over = not any(entry.open for entry in request.entries.values())
            assert isinstance(answer, Refusal) if over else answer == request.grant

    # ends

    @rule(
        request=requests, prompt=st.integers(0, 50), output=st.integers(0, 70), overrun=st.sampled_from([0, 0, 0, 99])
    )
    def settle(self, request: Request | None, prompt: int, output: int, overrun: int) -> None:
        if request:
            spent = Spent(min(prompt, request.cost.prompt), min(output, request.grant.output) + overrun)
            self.run(self.it.settle(request.id, spent))
            for counter, entry in request.entries.items():
                if entry.open:
                    entry.amount = cost_of(counter.scope.meter, *spent, request.cost.weight)
                    entry.open = False

    @rule(request=requests)
    def cancel(self, request: Request | None) -> None:
        if request:
            self.run(self.it.cancel(request.id))
            for entry in request.entries.values():
                if entry.open:
                    entry.amount, entry.open = 0, False

    @rule(counter=st.sampled_from(COUNTERS))
    def seed_late(self, counter: Counter) -> None:
        """Of somebody who had to wait for the database."""
        self.run(self.it.seed(counter, used=self.rows(counter)))

    @rule(subject=st.sampled_from([_USER, _KEY, None]))
    def limits_change(self, subject: UUID | None) -> None:
        self.changed = True
        self.run(self.it.forget(subject))
        self.run(self.it.seed(*(rule.counter for rule in _WATCHED)))

    @rule(counter=st.sampled_from(COUNTERS), amount=st.integers(1, 20))
    def correct(self, counter: Counter, amount: int) -> None:
        """What the store has missed, if it counts."""
        if counter in self.run(self.store.counts()):
            self.run(self.it.correct(Limit(subject=counter.subject, scope=counter.scope, amount=1), amount))
            self.entries[counter].append(Entry(self.real, self.clock.now, self.latest, amount, open=False))

    @rule()
    def compare(self) -> None:
        """The counts with the sums."""
        rules = [Limit(subject=counter.subject, scope=counter.scope, amount=1) for counter in COUNTERS]
        counts = self.run(self.store.counts())
        for standing in self.run(self.store.standings(rules)):
            counted = standing.used + standing.reserved
            assert self.sum(standing.limit) <= counted <= self.sum(standing.limit, most=True)
            counter = standing.limit.counter
            assert counts.get(counter) == (standing.used if counter.scope.period in CALENDAR else None)

    def teardown(self) -> None:
        with self.runner:
            for request in self.known:
                self.cancel(request)
            self.quiet()

    def quiet(self) -> None:
        """All requests have ended."""
