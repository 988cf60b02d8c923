"""A store of counts with a clock that a test sets, and short ways to ask it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

from parallama.ledger.store import Cost, Grant, Refusal, Spent, Standing, Store, Unknown
from parallama.limits import EVERY, Counter, Limit, Meter, Period, Scope

ZONE = ZoneInfo("Europe/Berlin")
HOUR_S, DAY_S = 3600, 86_400
CALENDAR = (Period.HOUR, Period.DAY, Period.MONTH)
_SPENT = Spent(0, 1)
ONE = Cost(prompt=0, prompt_estimate=0, output=1)
"""Of a request of which only the number matters."""
USER = uuid4()
_TOGETHER: dict[tuple[Limit, ...], tuple[Limit, ...]] = {}


def at(text: str) -> float:
    """Unix seconds of a moment in ZONE."""
    return datetime.fromisoformat(text).replace(tzinfo=ZONE).timestamp()


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = at("2030-05-15 10:20:30")

    def __call__(self) -> float:
        return self.now


def limit(
    amount: int,
    meter: Meter = Meter.REQUESTS,
    period: Period = Period.HOUR,
    *,
    subject: UUID = USER,
    gateway: str = EVERY,
    strict: bool = True,
) -> Limit:
    """One for any model."""
    return Limit(subject=subject, scope=Scope(gateway, None, meter, period), amount=amount, strict=strict)


def tokens(prompt: int, output: int, *, estimate: int | None = None, least: int = 1, weight: float = 1.0) -> Cost:
    """A cost whose estimate is right unless it is given."""
    estimated = prompt if estimate is None else estimate
    return Cost(prompt=prompt, prompt_estimate=estimated, output=output, least_output=least, weight=weight)


def together(limits: Limit | Sequence[Limit]) -> tuple[Limit, ...]:
    """The very same tuple for the same limits, as a gateway has it."""
    asked = (limits,) if isinstance(limits, Limit) else tuple(limits)
    return _TOGETHER.setdefault(asked, asked)


async def _at_once() -> None:
    """For a store that applies a settlement within the call."""


@dataclass
class Rig:
    """A store and the clock it looks at."""

    store: Store
    clock: Clock = field(default_factory=Clock)
    applied: Callable[[], Awaitable[None]] = _at_once
    """Waits until settlements and the like are in force."""

    async def ask(self, limits: Limit | Sequence[Limit], cost: Cost = ONE, id: UUID | None = None) -> Grant | Refusal:
        """Reserve, with counters that were never used if they are not known."""
        limits = together(limits)
        id = id or uuid4()
        answer = await self.store.reserve(id, limits, cost)
        if isinstance(answer, Unknown):
            await self.seed(*answer.counters)
            answer = await self.store.reserve(id, limits, cost)
        assert not isinstance(answer, Unknown)
        return answer

    async def granted(self, limits: Limit | Sequence[Limit], cost: Cost = ONE) -> tuple[UUID, Grant]:
        """Reserve what there must be room for. The request's id and its grant."""
        id = uuid4()
        grant = await self.ask(limits, cost, id)
        assert isinstance(grant, Grant), grant
        return id, grant

    async def refused(self, limits: Limit | Sequence[Limit], cost: Cost = ONE) -> Refusal:
        """Ask for what there must be no room for."""
        refusal = await self.ask(limits, cost)
        assert isinstance(refusal, Refusal), refusal
        return refusal

    async def used(self, limits: Limit | Sequence[Limit], cost: Cost = ONE, spent: Spent = _SPENT) -> None:
        """A request that comes and goes."""
        id, _ = await self.granted(limits, cost)
        await self.settle(id, spent)

    async def room(self, rule: Limit) -> int:
        """How many requests it admits now; they are cancelled."""
        ids: list[UUID] = []
        while isinstance(await self.ask(rule, id=(id := uuid4())), Grant):
            ids.append(id)
        for id in ids:
            await self.cancel(id)
        return len(ids)

    async def settle(self, id: UUID, spent: Spent = _SPENT) -> None:
        self.store.settle(id, spent)
        await self.applied()

    async def cancel(self, id: UUID) -> None:
        self.store.cancel(id)
        await self.applied()

    async def seed(
        self,
        *counters: Counter,
        used: Iterable[tuple[float, int]] = (),
        asked: Mapping[Counter, str] | None = None,
    ) -> None:
        self.store.seed({counter: list(used) for counter in counters}, asked)
        await self.applied()

    async def forget(self, *subjects: UUID | None) -> None:
        """Those, or all for None."""
        self.store.forget([subject for subject in subjects if subject] or None)
        await self.applied()

    async def correct(self, rule: Limit, amount: int, least: int = 0) -> None:
        self.store.correct(rule.counter, amount, least)
        await self.applied()

    async def standing(self, rule: Limit) -> Standing:
        (standing,) = await self.store.standings([rule])
        return standing

    async def sums(self, rule: Limit) -> tuple[int, int]:
        """What is used and what is reserved."""
        standing = await self.standing(rule)
        return standing.used, standing.reserved
