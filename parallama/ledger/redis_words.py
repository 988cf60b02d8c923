"""What is said to the scripts of counts, and what they say: names of counters, reservations, standings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import floor
from typing import NamedTuple
from uuid import UUID

from parallama.db.redis import Word
from parallama.ledger.store import Grant, Standing
from parallama.limits import Counter, Limit, Meter, Period, Scope


class Held(NamedTuple):
    """A reservation."""

    grant: Grant
    weight: float
    amounts: Sequence[int]
    """Of each of its limits."""

    def words(self, id: UUID) -> Iterable[Word]:
        """For a server that does not know it."""
        yield from (id.hex, repr(self.weight), len(self.amounts))
        for standing, amount in zip(self.grant.standings, self.amounts, strict=True):
            yield from name(standing.limit)
            yield from (amount, int(standing.limit.strict), int(standing.reset_at or 0))


def name(counted: Limit | Counter) -> tuple[str, str, str]:
    """Of a counter, and what the scripts must know of it: its period and its meter."""
    gateway, model, meter, period = counted.scope
    # the model comes last: it may hold any character
    text = f"{counted.subject.hex}:{gateway}:{meter.value}:{period.value}:{'' if model is None else '=' + model}"
    return text, period.value, meter.value


def counter(name: bytes) -> Counter:
    """That is called so."""
    subject, gateway, meter, period, model = name.decode().split(":", 4)
    return Counter(UUID(subject), Scope(gateway, model[1:] if model else None, Meter(meter), Period(period)))


def seeded(counter: Counter, amounts: Iterable[tuple[float, int]], asked: str) -> Iterable[Word]:
    """What was used of it, and since which change of its limits that is true; "": the last."""
    seconds = by_second(amounts)
    return (*name(counter), asked, len(seconds), *(word for pair in seconds for word in pair))


def by_second(amounts: Iterable[tuple[float, int]]) -> Sequence[tuple[int, int]]:
    """In their order. No window begins in the middle of a second."""
    sums: dict[int, int] = {}
    for moment, amount in amounts:
        sums[floor(moment)] = sums.get(floor(moment), 0) + amount
    return sorted(sums.items())


def granted(limits: Sequence[Limit], output: int, at: float, weight: float, figures: Sequence[int]) -> Held:
    """From four figures a limit."""
    threes = zip(figures[::4], figures[1::4], figures[2::4], strict=True)
    standings = [standing(limit, three) for limit, three in zip(limits, threes, strict=True)]
    return Held(Grant(output, standings, at), weight, figures[3::4])


def standing(limit: Limit, figures: tuple[int, int, int]) -> Standing:
    """From what was used, what is reserved, and an end that is 0 where there is none."""
    used, reserved, ends_at = figures
    return Standing(limit, used, reserved, float(ends_at) if ends_at else None)


def standings(limits: Sequence[Limit], figures: Sequence[int]) -> Sequence[Standing]:
    """From three figures a limit."""
    threes = zip(figures[::3], figures[1::3], figures[2::3], strict=True)
    return [standing(limit, three) for limit, three in zip(limits, threes, strict=True)]
