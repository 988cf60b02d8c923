"""What is said to the scripts of counts, and what they say: names of counters, reservations, standings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import floor
from uuid import UUID

import orjson

from parallama.immutable import maker
from parallama.ledger.store import Grant, Standing
from parallama.limits import Counter, Limit, Meter, Period, Scope
from parallama.quotas import Policies, policies_of_limits

Word = str | int | float | orjson.Fragment
"""What JSON can say."""
Held = tuple[Grant, Sequence[Standing], float, Sequence[int]]
"""A reservation: its grant, how its limits stood, the weight of its tokens, and what it holds of each limit."""

_MOST = 4096
"""Tuples of limits whose words are kept: those of as many callers."""
_standing = maker(Standing)


class Spoken:
    """What the script is told of limits, made once for those of a caller, which come again with each request."""

    def __init__(self) -> None:
        self._words: dict[int, tuple[tuple[Limit, ...], tuple[orjson.Fragment, Policies]]] = {}
        """By the id of a tuple, which stays its own since the tuple is kept too: to hash limits takes longer."""

    def of(self, limits: tuple[Limit, ...]) -> tuple[orjson.Fragment, Policies]:
        """A list of their number, and of each what `name` says, its amount, and 1 if it is strict; and how they are
        told to clients."""
        if (found := self._words.get(id(limits))) is None:
            if len(self._words) >= _MOST:
                self._words.clear()
            found = self._words[id(limits)] = limits, (_spoken(limits), policies_of_limits(limits))
        return found[1]


def _spoken(limits: Sequence[Limit]) -> orjson.Fragment:
    words = [word for limit in limits for word in (*name(limit), limit.amount, int(limit.strict))]
    return orjson.Fragment(orjson.dumps([len(limits), *words]))


def registered(id: str, held: Held) -> Iterable[Word]:
    """A reservation, for a server that does not know it."""
    _, standings, weight, amounts = held
    yield from (id, weight, len(amounts))
    for standing, amount in zip(standings, amounts, strict=True):
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


def standings(
    limits: Iterable[Limit], used: Iterable[int], reserved: Iterable[int], ends: Iterable[float | None]
) -> Sequence[Standing]:
    """From what the script says of each limit, in their order."""
    return [*map(_standing, zip(limits, used, reserved, ends, strict=True))]
