"""The store in Redis when something breaks: Redis emptied, killed, hung or slow, answers lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from socket import socketpair
from uuid import UUID, uuid4

import pytest
import uvloop
from redis_server import Between, RedisServer, redis_server
from redis_stores import CEILING_S, DAY, SLOTS, Start, until
from store_rig import ONE, ZONE, Rig, limit

from parallama.ledger.redis_session import Terms
from parallama.ledger.redis_store import RedisStore
from parallama.ledger.store import Grant, Spent, Uncountable, Unknown
from parallama.ledger.windows import window
from parallama.limits import Limit, Period


@pytest.fixture
async def between(server: RedisServer) -> AsyncIterator[Between]:
    async with Between(server).running() as between:
        yield between


class Truth:
    """What a database would know, and requests that come and go."""

    def __init__(self, rule: Limit) -> None:
        self.rule = rule
        self.admitted = self.ended = self.uncountable = 0

    async def ask(self, store: RedisStore) -> UUID | None:
        """Reserve; None: refused."""
        while True:
            try:
                answer = await store.reserve(id := uuid4(), (self.rule,), ONE)
            except Uncountable:
                self.uncountable += 1
                await store.ready()
                continue
            if not isinstance(answer, Unknown):
                break
            now = window(self.rule.scope.period, time.time(), ZONE).start
            store.seed({counter: [(now, self.ended)] for counter in answer.counters})
        if not isinstance(answer, Grant):
            return None
        self.admitted += 1
        return id

    def has_ended(self, requests: int) -> bool:
        return self.ended >= requests

    async def come_and_go(self, store: RedisStore) -> None:
        while (id := await self.ask(store)) is not None:
            await asyncio.sleep(0.001)
            self.ended += 1
            store.settle(id, Spent(0, 1))


async def test_an_emptied_redis_under_load_lets_nobody_over_a_limit(server: RedisServer, start: Start) -> None:
    terms = Terms(answer_s=5.0, joining_s=1.2)
    stores = [await start(terms=terms) for _ in range(3)]
    truth = Truth(limit(5000, period=Period.MONTH))
    async with asyncio.timeout(CEILING_S), asyncio.TaskGroup() as tasks:
        for store in stores * 5:
            tasks.create_task(truth.come_and_go(store))
        for part in (1000, 3000):
            await until(partial(truth.has_ended, part))
            server.say("FLUSHALL")
    assert truth.uncountable
    assert 5000 - 2 * 15 <= truth.admitted <= 5000
    assert sum(store.holds + store.owed for store in stores) == 0
    used, reserved = await Rig(stores[0]).sums(truth.rule)
    assert reserved == 0
    assert used >= truth.admitted


async def test_an_emptied_redis_admits_nobody_before_all_have_said_what_they_hold(
    server: RedisServer, start: Start
) -> None:
    terms = Terms(answer_s=5.0, joining_s=2.0)
    one, idle = await start(terms=terms), await start(terms=terms)
    truth = Truth(limit(1, period=Period.MONTH))
    assert await truth.ask(idle)
    await asyncio.gather(one.standings([truth.rule]), idle.standings([truth.rule]))
    server.say("FLUSHALL")
    assert await truth.ask(one) is None
    assert await Rig(one).sums(truth.rule) == (0, 1)


@pytest.mark.parametrize("saved", [False, True], ids=["empty", "with old counts"])
async def test_a_redis_that_was_killed_gets_back_what_is_under_way(saved: bool) -> None:
    with redis_server() as server:
        one, other = (RedisStore(server.url, ZONE, terms=Terms(5.0, 1.0)) for _ in range(2))
        async with one.running(), other.running():
            rule = limit(7, period=Period.MONTH)
            rig = Rig(one)
            await rig.used(rule)
            if saved:
                server.say("SAVE")
            held = [await rig.granted([rule, SLOTS]), await Rig(other).granted([rule, SLOTS])]
            await Rig(other).used(rule)
            await asyncio.gather(one.paid(), other.paid())
            server.kill()
            await until(lambda: not one.answers and not other.answers)
            with pytest.raises(Uncountable):
                await one.reserve(uuid4(), (rule,), ONE)
            server.start()
            await asyncio.gather(one.ready(), other.ready())
            answer = await one.reserve(uuid4(), (rule,), ONE)
            assert isinstance(answer, Unknown)
            await rig.seed(rule.counter, used=[(time.time(), 2)])
            assert (await rig.sums(rule), await rig.sums(SLOTS)) == ((2, 2), (0, 2))
            one.settle(held[0][0], Spent(0, 1))
            other.cancel(held[1][0])
            await asyncio.gather(one.paid(), other.paid())
            assert (await rig.sums(rule), await rig.sums(SLOTS)) == ((3, 0), (0, 0))


async def test_a_redis_that_hangs_is_not_waited_for_and_loses_nothing(server: RedisServer, start: Start) -> None:
    store, other = await start(terms=Terms(0.4, 0.0)), await start()
    rig, rule = Rig(other), limit(10**6, period=Period.MONTH)
    await rig.seed(rule.counter)
    granted = [await Rig(store).granted(rule) for _ in range(5)]
    server.stop()
    failed = 0
    try:
        for _ in range(100):
            with pytest.raises(Uncountable):
                await store.reserve(uuid4(), (rule,), ONE)
            failed += 1
        for id, _ in granted:
            store.settle(id, Spent(0, 1))
        await until(lambda: not other.answers)  # its connection is given up
        assert store.owed >= 5
    finally:
        server.go_on()
    await asyncio.gather(store.paid(), store.ready(), other.ready())
    assert failed == 100
    assert await rig.sums(rule) == (5, 0)


async def test_a_grant_whose_answer_is_lost_is_taken_back(between: Between, start: Start) -> None:
    store, other = await start(between.url), await start()
    await Rig(other).seed(DAY.counter)
    between.lose = b"grant"
    with pytest.raises(Uncountable):
        await store.reserve(uuid4(), (DAY, SLOTS), ONE)
    assert between.lost.is_set()
    await asyncio.gather(store.ready(), store.paid())
    assert (await Rig(other).sums(DAY), await Rig(other).sums(SLOTS)) == ((0, 0), (0, 0))
    assert store.holds == 0


async def test_who_connects_again_reserves_nothing_twice(between: Between, start: Start) -> None:
    store, other = await start(between.url), await start()
    limits = [DAY, limit(9, period=Period.MINUTE), SLOTS]
    id, _ = await Rig(store).granted(limits)
    between.lose = b"ok"
    await between.lost.wait()
    await until(lambda: not store.answers)
    await store.ready()
    assert [await Rig(other).sums(rule) for rule in limits] == [(0, 1)] * 3
    await Rig(store).settle(id)
    await store.paid()
    assert [await Rig(other).sums(rule) for rule in limits] == [(1, 0), (1, 0), (0, 0)]


async def test_a_settlement_whose_answer_is_lost_counts_once(between: Between, start: Start) -> None:
    store, other = await start(between.url), await start()
    id, _ = await Rig(store).granted(DAY)
    between.lose = b"$2\r\nok\r\n:0\r\n"
    store.settle(id, Spent(0, 1))
    await between.lost.wait()
    await store.paid()
    assert await Rig(other).sums(DAY) == (1, 0)


async def test_a_slow_redis_is_asked_no_more_until_it_is_fast(between: Between, start: Start) -> None:
    store, other = await start(between.url, Terms(0.2, 0.0)), await start()
    await Rig(other).seed(DAY.counter)
    await Rig(store).used(DAY)
    between.open.clear()
    before = between.asked.count(b"reserve")
    while store.answers:
        with pytest.raises(Uncountable):
            await store.reserve(uuid4(), (DAY,), ONE)
    asked = between.asked.count(b"reserve")
    assert asked <= before + 3
    for _ in range(50):
        with pytest.raises(Uncountable):
            await store.reserve(uuid4(), (DAY,), ONE)
    assert between.asked.count(b"reserve") == asked
    between.open.set()
    await asyncio.gather(store.ready(), store.paid())
    await Rig(store).used(DAY)
    await store.paid()
    assert await Rig(other).sums(DAY) == (2, 0)


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_an_answer_that_came_while_the_process_was_busy_is_in_time(
    server: RedisServer, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def reserve_while_busy() -> object:
        running, store = asyncio.get_running_loop(), RedisStore(server.url, ZONE, terms=Terms(1.0, 0.0))
        readable, writable = socketpair()

        def work() -> None:
            running.remove_reader(readable)
            server.go_on()
            while time.monotonic() < began + 1.1:
                server.say("PING")

        with readable, writable:
            async with store.running():
                server.stop()
                began = time.monotonic()
                task = running.create_task(store.reserve(uuid4(), (SLOTS,), ONE))
                for _ in range(20):  # turns, in which it is sent
                    await asyncio.sleep(0)
                running.add_reader(readable, work)  # there uvloop looks at the time before it reads what has come
                writable.send(b"x")
                return await task

    with asyncio.Runner(loop_factory=loop) as runner:
        assert isinstance(runner.run(reserve_while_busy()), Grant)


async def test_who_leaves_while_reserving_holds_nothing(between: Between, start: Start) -> None:
    store, other = await start(between.url), await start()
    await Rig(other).seed(DAY.counter)
    between.open.clear()
    task = asyncio.get_running_loop().create_task(store.reserve(uuid4(), (DAY,), ONE))
    await until(lambda: b"reserve" in between.asked)
    task.cancel()
    await asyncio.wait({task})
    between.open.set()
    await store.paid()
    assert await Rig(other).sums(DAY) == (0, 0)


async def test_a_server_that_forgets_its_scripts_gets_them_again(server: RedisServer, start: Start) -> None:
    store = await start()
    id, _ = await Rig(store).granted(DAY)
    server.say("SCRIPT", "FLUSH")
    store.settle(id, Spent(0, 1))
    await store.paid()
    await store.ready()
    assert await Rig(store).sums(DAY) == (1, 0)


async def test_a_full_server_takes_settlements_when_it_has_room(server: RedisServer, start: Start) -> None:
    store = await start()
    id, _ = await Rig(store).granted(DAY)
    server.say("CONFIG", "SET", "maxmemory", "1")
    try:
        store.settle(id, Spent(0, 1))
        with pytest.raises(Uncountable):
            await store.reserve(uuid4(), (DAY,), ONE)
        assert store.owed
    finally:
        server.say("CONFIG", "SET", "maxmemory", "0")
    await asyncio.gather(store.paid(), store.ready())
    assert await Rig(store).sums(DAY) == (1, 0)


async def test_what_is_owed_to_a_server_that_stays_away_has_a_bound() -> None:
    store = RedisStore("unix:///nowhere", ZONE)
    ids = [uuid4() for _ in range(100_003)]
    for id in ids:
        store.settle(id, Spent(1, 1))
    assert (store.owed, store.lost) == (100_000, 3)
