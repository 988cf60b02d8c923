"""The store of counts of gateways that are many: in a Redis that they share, where a script decides in one step.

What may be asked of it is in `db/scripts`; connections, outages and what is owed are the session's. A request that
waits longer than 50 ms for its reservation is told that nobody can count now, and the reservation is cancelled.
"""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import tzinfo
from itertools import compress, count
from uuid import UUID, uuid4

from parallama.ledger.redis_debts import Reply
from parallama.ledger.redis_session import Session, Terms
from parallama.ledger.redis_words import Spoken, Word, counter, name, seeded, standings
from parallama.ledger.store import Cost, Grant, Refusal, Spent, Standing, Uncountable, Unknown, make_grant
from parallama.ledger.windows import CALENDAR
from parallama.limits import Counter, Limit
from parallama.quotas import left_of

_ANY = Terms()
_SHIPPED_S = 3.0
"""Longest wait for the rows of other processes, which say every half second how far they are."""
_SHIPPED_AGAIN_S = 0.05


class RedisStore:
    """Implements Store. Works inside `running()`.

    What a process reserved counts until somebody settles it or its window ends, also when the process is gone; only
    its concurrency ends 30 seconds after it was last heard of. What is asked while Redis is away is Uncountable at
    once; what is settled meanwhile is told as soon as it is back.
    """

    def __init__(
        self,
        url: str,
        zone: tzinfo,
        *,
        instance: str | None = None,
        prefix: str = "parallama",
        now: Callable[[], float] | None = None,
        terms: Terms = _ANY,
    ) -> None:
        """`zone` is that of the calendar; `instance` names this process, None: some name; keys begin with `prefix`;
        `now` tells Unix seconds in place of Redis. Raises ConfigError for a `url` that cannot be used."""
        self.overrun = 0
        """Weighted tokens, since the start, that requests cost beyond what they had reserved of a strict limit."""
        self._session = Session(url, zone, instance or uuid4().hex, prefix, now, terms)
        self._spoken = Spoken()
        self._debts = count()

    @property
    def holds(self) -> int:
        """Requests of this process with a reservation."""
        return len(self._session.live)

    @property
    def owed(self) -> int:
        """Settlements and the like that Redis has not acknowledged yet."""
        return len(self._session.debts)

    @property
    def lost(self) -> int:
        """Those that were given up, as there were too many; what they had reserved counts until its window ends."""
        return self._session.debts.lost

    @property
    def answers(self) -> bool:
        """Whether Redis can be asked now."""
        return self._session.answers

    def follow(self, waiting_since: Callable[[], float | None]) -> None:
        """From now on tell the other processes how far the rows of this one are: they take nothing from a count while
        rows are missing. `waiting_since`: as Shipper says."""
        self._session.waiting_since = waiting_since

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Connected while Redis answers. Waits a few seconds at most for it; at the end a second for what is owed."""
        async with self._session.running():
            yield

    async def ready(self) -> None:
        """Wait until Redis can be asked."""
        await self._session.ready()

    async def paid(self) -> None:
        """Wait until nothing is owed."""
        await self._session.debts.settled()

    async def reserve(self, id: UUID, limits: tuple[Limit, ...], cost: Cost) -> Grant | Refusal | Unknown:
        """As Store says. When it raises Uncountable, or is cancelled, what it may have reserved is cancelled."""
        session, key = self._session, id.hex
        if (held := session.live.get(key)) is not None:
            return held[0]
        if not limits:
            return Grant(cost.output, None, (), session.time())
        if not session.answers:
            raise Uncountable
        spoken, policies = self._spoken.of(limits)
        least = min(cost.least_output, cost.output)
        words = (key, cost.output, least, cost.weight, cost.prompt, cost.prompt_estimate, spoken)
        answered = False
        try:
            reply = await session.answer("reserve", words)
            answered = True
        finally:
            if not answered:
                self.cancel(id)
        if reply[0] != b"grant":
            return _not_granted(limits, reply)
        _, output, at, used, reserved, ends, amounts = reply
        every = standings(limits, used, reserved, ends)
        grant = make_grant((output, *left_of(policies, every), float(at)))
        session.live[key] = grant, every, cost.weight, amounts
        return grant

    def settle(self, id: UUID, spent: Spent) -> None:
        """As Store says. Redis is told until it acknowledges."""
        self._finish(id.hex, spent)

    def cancel(self, id: UUID) -> None:
        """As Store says. Redis is told until it acknowledges."""
        self._finish(id.hex)

    def seed(
        self, used: Mapping[Counter, Sequence[tuple[float, int]]], asked: Mapping[Counter, str] | None = None
    ) -> None:
        """As Store says. If it does not arrive, the counters are still unknown."""
        words = [
            word for one, amounts in used.items() for word in seeded(one, amounts, asked.get(one, "") if asked else "")
        ]
        self._session.tell("seed", len(used), *words)

    async def standings(self, limits: Sequence[Limit]) -> Sequence[Standing]:
        """As Store says."""
        if not limits:
            return []
        reply = await self._session.ask("standings", len(limits), *[word for limit in limits for word in name(limit)])
        _, known, *figures = reply
        return [*compress(standings(limits, *figures), known)]

    def forget(self, subjects: Collection[UUID] | None) -> None:
        """As Store says. Redis is told until it acknowledges."""
        words = ["all"] if subjects is None else [subject.hex for subject in subjects]
        self._session.debts.owe(next(self._debts), "change", words, lambda _reply: None)

    async def counts(self) -> Mapping[Counter, int]:
        """As Store says, whichever process has counted."""
        found: dict[Counter, int] = {}
        async for texts in self._pages("names"):
            limits = [Limit(subject=subject, scope=scope, amount=0) for subject, scope in map(counter, texts)]
            calendar = [limit for limit in limits if limit.scope.period in CALENDAR]
            found |= {standing.limit.counter: standing.used for standing in await self.standings(calendar)}
        return found

    def correct(self, counter: Counter, amount: int, least: int = 0) -> None:
        """As Store says."""
        self._session.tell("correct", 1, *name(counter), amount, least)

    async def held(self) -> Collection[UUID]:
        """As Store says."""
        return [UUID(key) for key in self._session.live]

    async def shipped(self) -> bool:
        """Until what the other processes have settled by now is in the database, as far as they say; False: that may
        take long, since one of them cannot ship, or its journal waits until it is taken over. Raises Uncountable."""
        moment, waited = "", 0.0
        while waited < _SHIPPED_S:
            _, began, state = await self._session.ask("shipped", moment)
            if state:
                return bool(state > 0)
            moment = began.decode()
            await asyncio.sleep(_SHIPPED_AGAIN_S)
            waited += _SHIPPED_AGAIN_S
        return False

    def adopted(self, instance: str) -> None:
        """What a process that is no more has settled is in the database. Redis is told until it acknowledges."""
        self._session.debts.owe(next(self._debts), "complete", [instance], lambda _reply: None)

    async def abandon(self, instance: str) -> int:
        """Release what a process that will never come back has reserved, slots of concurrency too: of how many
        requests. What they have cost is not counted. Raises ValueError while the process may be there: it is taken for
        dead 30 seconds after it was last heard of. Raises Uncountable; then a part of it may be released."""
        return sum([released async for (released,) in self._pages("abandon", instance)])

    async def left(self) -> Mapping[str, int]:
        """The processes that are no more and have something reserved, each with the number of its requests, and with 0
        those whose rows are missed. Raises Uncountable."""
        _, *missed = await self._session.ask("missed")
        holding = Tally([name.decode() async for names in self._pages("left") for name in names])
        return {name.decode(): 0 for name in missed} | holding

    async def _pages(self, operation: str, *words: Word) -> AsyncIterator[Reply]:
        """What is answered from cursor to cursor. Raises Uncountable, and ValueError where nothing is done."""
        cursor = "0"
        while True:
            outcome, *page = await self._session.ask(operation, *words, cursor)
            if outcome != b"ok":
                raise ValueError(outcome.decode())
            cursor, found = page[0].decode(), page[1:]
            yield found
            if cursor == "0":
                return

    def _finish(self, key: str, spent: Sequence[int] = ()) -> None:
        self._session.live.pop(key, None)
        self._session.debts.owe(key, "finish", (key, *spent), self._finished)

    def _finished(self, reply: Reply) -> None:
        self.overrun += reply[1]


def _not_granted(limits: Sequence[Limit], reply: Reply) -> Refusal | Unknown:
    outcome, *parts = reply
    if outcome == b"unknown":
        return Unknown({limits[i].counter: word.decode() for i, word in zip(parts[::2], parts[1::2], strict=True)})
    worst, wait_s, under_way, *figures = parts
    every = standings(limits, *figures)
    return Refusal(every[worst], float(wait_s) if wait_s else None, bool(under_way), every)
