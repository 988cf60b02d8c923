"""Gateways under the load of two users with limits: those of one are `closed`, those of the other `open`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fleet import LOTS, Crowd, Fleet
from processes import Running
from running import eventually
from scale import CLIENTS
from truth import PROMISES, counts_agree, nothing_is_wrong

GATEWAYS = 2


@dataclass
class Loaded:
    """Gateways, each asked by both."""

    fleet: Fleet
    gateways: Sequence[Running]
    closed: Crowd
    open: Crowd

    async def served(self, crowd: Crowd, answers: int = 50) -> None:
        """Until so many more have a whole answer."""
        enough = len(crowd.told) + answers
        await eventually(lambda: len(crowd.told) >= enough)

    async def refused(self, crowd: Crowd, answers: int = 20) -> None:
        """Until so many more are told that nobody can count."""
        enough = len(crowd.refused) + answers
        await eventually(lambda: len(crowd.refused) >= enough)

    async def all_is_well(self, *, uncounted: bool = False, twice: int = 0) -> None:
        """When the load is over: nothing is wrong, and what is `closed` counts what the rows say. Until that is noticed
        by comparison, `uncounted` lack in what is `open`, and at most so many may count `twice`."""
        for running in self.gateways:
            await counts_agree(self.fleet, self.closed, running, twice=twice)
        promised = PROMISES - {"drift"} if twice or uncounted else PROMISES
        await nothing_is_wrong(self.fleet, self.closed, self.open, gateways=len(self.gateways), promised=promised)


@asynccontextmanager
async def loaded(fleet: Fleet, gateways: int = GATEWAYS) -> AsyncIterator[Loaded]:
    """Under load for the block, and until it is served again as if nothing had been."""
    closed, opened = await fleet.user("alice", LOTS), await fleet.user("bob", LOTS, outage="open")
    every = await asyncio.gather(*map(fleet.start, range(gateways)))
    found, ended = Loaded(fleet, every, closed, opened), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for crowd in (closed, opened):
            for running in every:
                group.create_task(crowd.run(running, CLIENTS, lambda: not ended.is_set()))
        await found.served(closed)
        yield found
        await found.served(closed)
        ended.set()
    assert 429 not in closed.refused.values()
