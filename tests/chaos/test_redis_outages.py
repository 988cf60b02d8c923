"""Gateways whose Redis is emptied, killed, hung or slow, or loses its answers, under load: what is `closed` gains
nothing, what is `open` is served, and no row is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from fleet import Fleet
from loaded import GATEWAYS, Loaded, loaded
from redis_server import Between, RedisServer
from scale import CLIENTS, FLUSHES, HANG_S, LOST

pytestmark = pytest.mark.timeout(300)


@asynccontextmanager
async def behind(together: Fleet, redis: RedisServer) -> AsyncIterator[tuple[Loaded, Between]]:
    """Under load, with something between them and Redis; all is well afterwards."""
    async with Between(redis).running() as between:
        fleet = replace(together, env={"PARALLAMA__REDIS__URL": between.url})
        async with loaded(fleet) as load:
            yield load, between
        assert load.open.refused == {}
        await load.all_is_well(uncounted=True)


async def test_what_is_emptied_under_load_gives_nobody_more(together: Fleet, redis: RedisServer) -> None:
    async with loaded(together) as load:
        for _ in range(FLUSHES):
            redis.say("FLUSHALL")
            await load.refused(load.closed)
            await load.served(load.closed)
    assert load.open.refused == {}
    await load.all_is_well(twice=FLUSHES * GATEWAYS * CLIENTS)


async def test_what_is_killed_and_comes_back_empty_gives_nobody_more(together: Fleet, redis: RedisServer) -> None:
    async with loaded(together) as load:
        redis.kill()
        await load.refused(load.closed)
        await load.served(load.open)
        redis.start()
    assert load.open.refused == {}
    await load.all_is_well(twice=GATEWAYS * CLIENTS)


async def test_what_hangs_under_load_counts_all_when_it_goes_on(together: Fleet, redis: RedisServer) -> None:
    async with loaded(together) as load:
        redis.stop()
        await load.refused(load.closed)
        first = next(load.closed.numbers)  # who came before may have been let in, and have an answer yet to come
        await asyncio.sleep(HANG_S)
        await load.served(load.open)
        assert max(load.closed.told) < first < max(load.closed.refused)
        redis.go_on()
    assert load.open.refused == {}
    await load.all_is_well(uncounted=True)


async def test_answers_that_are_lost_under_load_leave_nothing_reserved_and_nothing_free(
    together: Fleet, redis: RedisServer
) -> None:
    async with behind(together, redis) as (_load, between):
        for _ in range(LOST):
            between.lost.clear()
            between.lose = b"grant"
            await between.lost.wait()


async def test_answers_that_are_late_under_load_leave_nothing_reserved_and_nothing_free(
    together: Fleet, redis: RedisServer
) -> None:
    async with behind(together, redis) as (load, between):
        for _ in range(LOST):
            between.open.clear()
            await load.refused(load.closed)
            between.open.set()
            await load.served(load.closed, 10)
