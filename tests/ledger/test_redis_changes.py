"""The store in Redis when limits change and when a process is given up: among processes, and when answers are lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from uuid import UUID, uuid4

import pytest
from redis_server import Between, RedisServer
from redis_stores import DAY, PATIENT, Start, until
from store_changes import unknown
from store_rig import USER, ZONE, Rig, limit

from parallama.ledger.redis_store import RedisStore
from parallama.ledger.store import Spent, Store
from parallama.limits import Meter, Period

MANY = limit(10**6, Meter.CONCURRENCY, Period.NOW)
MONTH_S = 31 * 86_400 + 3_600
"""Longest that a count is kept which nobody looks at."""


@pytest.fixture
async def between(server: RedisServer) -> AsyncIterator[Between]:
    async with Between(server).running() as between:
        yield between


async def keep(store: Store, requests: int) -> None:
    """So many that nobody ends."""
    for _ in range(requests):
        await Rig(store).granted([DAY, MANY])


async def lose(server: RedisServer, instance: str, *, requests: int) -> Collection[UUID]:
    """A process that has so many under way, and is not heard of for 30 seconds."""
    store = RedisStore(server.url, ZONE, instance=instance, terms=PATIENT)
    async with store.running():
        await keep(store, requests)
    server.say("DEL", f"parallama:{{ledger}}:alive:{instance}")
    return await store.held()


# limits that change


async def test_a_change_that_one_process_has_heard_of_concerns_all(start: Start) -> None:
    one, other = await start(), await start()
    id, _ = await Rig(one).granted(DAY)
    other.forget([USER])
    await other.paid()
    await Rig(one).granted(DAY)
    await Rig(one).settle(id)
    for left in await one.held():
        one.cancel(left)
    await one.paid()
    await unknown(Rig(other), DAY)


async def test_a_sum_of_a_process_that_has_not_heard_of_a_change_is_not_taken(start: Start) -> None:
    one, other = await start(), await start()
    asked = await unknown(Rig(one), DAY)
    other.forget([USER])
    await other.paid()
    await Rig(one).seed(DAY.counter, used=[], asked=asked)
    await unknown(Rig(other), DAY)


async def test_a_change_while_redis_hangs_is_told_when_it_is_back(server: RedisServer, start: Start) -> None:
    store = await start()
    await Rig(store).used(DAY)
    await store.paid()
    server.stop()
    try:
        await until(lambda: not store.answers)
        store.forget([USER])
        assert store.owed
    finally:
        server.go_on()
    await asyncio.gather(store.paid(), store.ready())
    await unknown(Rig(store), DAY)


async def test_a_change_is_remembered_longer_than_any_count(server: RedisServer, start: Start) -> None:
    store = await start()
    await Rig(store).used(limit(9, period=Period.MONTH))
    store.forget([USER])
    store.forget(None)
    await store.paid()
    names = server.names("changed")
    assert {name.rpartition(":")[2] for name in names} == {USER.hex, "all"}
    for name in names:
        assert int(server.say("TTL", name)[1:]) > MONTH_S


async def test_counts_of_every_process_are_told_however_many(start: Start) -> None:
    one, other = await start(), await start()
    months = [limit(9, period=Period.MONTH, subject=uuid4()) for _ in range(1200)]
    for store, some in ((one, months[::2]), (other, months[1::2])):
        await Rig(store).seed(*(rule.counter for rule in some), used=[])
    await Rig(one).used(months[0])
    await asyncio.gather(one.paid(), one.standings([DAY]), other.standings([DAY]))
    assert await other.counts() == {rule.counter: int(rule is months[0]) for rule in months}


async def test_counts_that_redis_has_let_go_are_told_no_more(server: RedisServer, start: Start) -> None:
    store = await start()
    await Rig(store).used(DAY)
    await store.paid()
    server.say("DEL", *server.names("count"))
    assert not await store.counts()


async def test_a_correction_whose_answer_is_lost_counts_once(between: Between, start: Start) -> None:
    store, other = await start(between.url), await start()
    await Rig(other).seed(DAY.counter)
    between.lose = b"*1\r\n$2\r\nok\r\n"
    store.correct(DAY.counter, 5)
    await between.lost.wait()
    await until(lambda: not store.answers)
    await store.ready()
    await store.standings([DAY])
    assert await Rig(other).sums(DAY) == (5, 0)


# a process that is given up


async def test_what_a_lost_process_has_reserved_is_released(server: RedisServer, start: Start) -> None:
    store = await start()
    rig = Rig(store)
    await keep(store, 2)
    await lose(server, "lost", requests=700)
    await lose(server, "other", requests=1)
    assert await rig.sums(DAY) == (0, 703)
    assert await store.left() == {"lost": 700, "other": 1}
    assert await store.abandon("lost") == 700
    assert await rig.sums(DAY) == (0, 3)
    assert (await rig.sums(MANY))[1] == 2  # whose process is not alive has no slots
    assert await store.abandon("lost") == 0
    assert await store.left() == {"other": 1}


async def test_a_request_that_is_released_is_settled_no_more(server: RedisServer, start: Start) -> None:
    store = await start()
    rig = Rig(store)
    (id,) = await lose(server, "lost", requests=1)
    await store.abandon("lost")
    store.settle(id, Spent(0, 1))
    await store.paid()
    assert await rig.sums(DAY) == (0, 0)


async def test_a_process_that_is_there_keeps_what_it_has_reserved(start: Start) -> None:
    store, there = await start(), await start(instance="there")
    rig = Rig(store)
    await keep(there, 1)
    with pytest.raises(ValueError, match="alive"):
        await store.abandon("there")
    assert await rig.sums(DAY) == (0, 1)
    assert (await rig.sums(MANY))[1] == 1


async def test_slots_of_a_lost_process_are_free_at_once(server: RedisServer, start: Start) -> None:
    store = await start()
    await lose(server, "lost", requests=1)
    (slots,) = (name for name in server.names("count") if ":concurrency:" in name)
    await store.abandon("lost")
    assert slots not in server.names("count")
