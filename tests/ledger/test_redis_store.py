"""The store in Redis: all that stores promise, with a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import count
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from redis_server import RedisServer
from redis_stores import PATIENT
from store_machine import StoreMachine
from store_rig import HOUR_S, ZONE, Clock, Rig, limit
from store_suite import StoreSuite

from parallama.ledger.redis_store import RedisStore

_prefixes = (f"test{number}" for number in count())


@pytest.fixture
async def rig(server: RedisServer) -> AsyncIterator[Rig]:
    clock = Clock()
    store = RedisStore(server.url, ZONE, prefix=next(_prefixes), now=clock, terms=PATIENT)
    async with store.running():
        yield Rig(store, clock, store.paid)


class TestRedisStore(StoreSuite):
    """What all stores promise."""


async def test_a_window_that_has_ended_has_ended_for_all_counts(rig: Rig) -> None:
    rule = limit(1)
    await rig.used(rule)
    rig.clock.now += HOUR_S
    await rig.used(limit(1, subject=uuid4()))
    rig.clock.now -= HOUR_S
    assert await rig.sums(rule) == (0, 0)
    assert await rig.room(rule) == 1


def test_no_order_of_events_takes_a_limit_over_its_amount(server: RedisServer) -> None:
    class RedisMachine(StoreMachine):
        def rig(self) -> Rig:
            clock = Clock()
            self.redis = RedisStore(server.url, ZONE, prefix=next(_prefixes), now=clock, terms=PATIENT)
            self.stack = AsyncExitStack()
            self.run(self.stack.enter_async_context(self.redis.running()))
            return Rig(self.redis, clock)

        def quiet(self) -> None:
            self.run(self.redis.paid())
            assert (self.redis.holds, self.redis.owed) == (0, 0)
            self.run(self.stack.aclose())

    run_state_machine_as_test(RedisMachine, settings=settings(max_examples=60, stateful_step_count=40))
