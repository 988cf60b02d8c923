"""What is held for a request that is no longer under way: its part of limits, or a slot on a node."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple
from uuid import UUID

from parallama.ledger.store import Store


class Leaked(NamedTuple):
    """What was found held for nobody."""

    reservations: frozenset[UUID] = frozenset()
    leases: int = 0

    @property
    def total(self) -> int:
        """Of both."""
        return len(self.reservations) + self.leases

    def still(self, before: Leaked) -> Leaked:
        """What was so before too: something that is just ending is not."""
        return Leaked(self.reservations & before.reservations, min(self.leases, before.leases))


class Leaks:
    """Of one process."""

    def __init__(self, store: Store, under_way: Callable[[], Collection[UUID]], leased: Callable[[], int]) -> None:
        """`under_way`: the exchanges of this process; `leased`: slots that they hold on nodes."""
        self._store, self._under_way, self._leased = store, under_way, leased

    async def look(self) -> Leaked:
        """What is held for nobody at this moment. Raises Uncountable."""
        held = frozenset(await self._store.held())
        under_way = self._under_way()
        return Leaked(held.difference(under_way), max(0, self._leased() - len(under_way)))
