"""Whose counts a store is to forget, to sum them anew: of those whose limits or roles have changed, or who were reset.

While nothing limits a scope nothing is counted in it, so a limit that comes back must not go on from where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from uuid import UUID

from parallama.background import beside
from parallama.db import query
from parallama.db.pool import Database
from parallama.errors import Unavailable
from parallama.ledger.store import Store

_SQL = query.load("resets")
_AGAIN_S = 1.0


class Forgetting:
    """Give `on_change` and `on_reset` to the listener; use inside `running()`."""

    def __init__(
        self, store: Store, database: Database, recount: Callable[[Collection[UUID]], None] = lambda _: None
    ) -> None:
        """`recount` is told whose counts were reset: those that are not forgotten yet are to be put right."""
        self._store, self._database, self._recount = store, database, recount
        self._missed = asyncio.Event()

    def on_change(self, kind: str, changed: str) -> None:
        """Forget the counts of a `user`, those that `counts` and `reset` name by the id of a user or key, and
        everybody's when a `role` has changed; ignore other kinds."""
        if kind in ("user", "counts"):
            self._store.forget([UUID(changed)])
        elif kind == "reset":
            self._begin_anew([UUID(changed)])
        elif kind == "role":
            self._store.forget(None)

    def on_lapse(self, user_id: UUID) -> None:
        """Forget the counts of a user of whom a role has expired."""
        self._store.forget([user_id])

    def on_reset(self) -> None:
        """Forget the counts that were reset lately. Nothing else: while it was not told of changes, this process has
        counted by the limits that it knew."""
        self._missed.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Forgetting]:
        """Look for resets that were missed."""
        async with beside(self._look_always(), "missed resets"):
            yield self

    async def _look_always(self) -> None:
        while True:
            await self._missed.wait()
            self._missed.clear()
            try:
                rows = await self._database.fetch(_SQL.lately)
            except Unavailable:
                self._missed.set()
                await asyncio.sleep(_AGAIN_S)
            else:
                self._begin_anew([UUID(int=row["subject"].int) for row in rows])

    def _begin_anew(self, subjects: Collection[UUID]) -> None:
        self._store.forget(subjects)
        self._recount(subjects)
