"""What tests of stores in Redis share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
from store_rig import limit

from parallama.ledger.redis_session import Terms
from parallama.ledger.redis_store import RedisStore
from parallama.limits import Meter, Period

CEILING_S = 60.0
PATIENT = Terms(answer_s=30.0, joining_s=0.0)
DAY = limit(10**6, period=Period.DAY)
SLOTS = limit(3, Meter.CONCURRENCY, Period.NOW)

Start = Callable[..., Awaitable[RedisStore]]


@contextmanager
def waited_for() -> Iterator[None]:
    """Whoever is made in the block waits for Redis: that a machine is slow is not under test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RedisStore.__init__.__kwdefaults__, "terms", Terms(answer_s=30.0))
        yield


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(CEILING_S):
        while not true():
            await asyncio.sleep(0.01)
