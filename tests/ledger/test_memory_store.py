"""The store in memory: all that stores promise, and that its memory stays small."""

from __future__ import annotations

from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from store_machine import StoreMachine
from store_rig import DAY_S, HOUR_S, ONE, ZONE, Clock, Rig, limit, together, tokens
from store_suite import StoreSuite

from parallama.ledger.memory import MemoryStore
from parallama.ledger.store import Grant, Refusal, Spent, Unknown
from parallama.limits import Limit, Meter, Period


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(ZONE, clock)


@pytest.fixture
def rig(store: MemoryStore, clock: Clock) -> Rig:
    return Rig(store, clock)


class TestMemoryStore(StoreSuite):
    """What all stores promise."""


async def test_when_all_is_quiet_nothing_is_reserved(rig: Rig, store: MemoryStore) -> None:
    limits = [
        limit(10_000, Meter.TOTAL_TOKENS),
        limit(99, period=Period.MINUTE),
        limit(9, Meter.CONCURRENCY, Period.NOW),
    ]
    ids = [(await rig.granted(limits, tokens(10, 20)))[0] for _ in range(9)]
    assert (store.holds, store.reserved) == (9, 9 * (30 + 1 + 1))
    await rig.refused(limits)
    rig.clock.now += 70
    for id in ids[:5]:
        await rig.settle(id)
    rig.clock.now += HOUR_S
    for id in ids[5:]:
        await rig.cancel(id)
    assert (store.holds, store.reserved) == (0, 0)


async def test_tokens_beyond_a_strict_limit_are_counted_for_the_operator(rig: Rig, store: MemoryStore) -> None:
    strict, friendly = limit(1000, Meter.OUTPUT_TOKENS), limit(1000, Meter.TOTAL_TOKENS, strict=False)
    await rig.used([strict, friendly], tokens(90, 20, estimate=30), Spent(90, 20))
    assert store.overrun == 0
    await rig.used([strict, limit(1000, Meter.TOTAL_TOKENS, Period.DAY)], tokens(90, 20), Spent(80, 25))
    assert store.overrun == 5
    await rig.used(strict, tokens(0, 1), Spent(0, 3))
    assert store.overrun == 7
    await rig.used(strict)
    assert store.overrun == 7


async def test_counters_without_any_use_are_forgotten(rig: Rig, store: MemoryStore) -> None:
    def limits() -> list[Limit]:
        user = uuid4()
        return [
            limit(9, period=Period.MINUTE, subject=user),
            limit(9, subject=user),
            limit(9, Meter.CONCURRENCY, Period.NOW, subject=user),
        ]

    for _ in range(100):
        await rig.used(limits())
    for _ in range(3):
        rig.clock.now += HOUR_S
        await rig.used(limits())
    assert store.known <= 3 * 3


async def test_counters_that_matter_are_remembered_however_idle(rig: Rig, store: MemoryStore) -> None:
    month, slots, hour = limit(9, period=Period.MONTH), limit(9, Meter.CONCURRENCY, Period.NOW), limit(9)
    await rig.used(month)
    await rig.granted([slots, hour])
    for _ in range(5):
        rig.clock.now += DAY_S
        await rig.used(limit(9, subject=uuid4()))
    assert await rig.sums(month) == (1, 0)
    assert await rig.sums(slots) == (0, 1)
    assert isinstance(await store.reserve(uuid4(), (hour,), ONE), Unknown)


async def test_a_count_that_is_asked_for_now_and_then_stays_known(rig: Rig, store: MemoryStore) -> None:
    minute, shown = limit(9, period=Period.MINUTE), limit(9, period=Period.MINUTE, subject=uuid4())
    await rig.used(minute)
    await rig.seed(shown.counter)
    for _ in range(100):
        rig.clock.now += 120
        assert await rig.sums(shown) == (0, 0)
        id = uuid4()
        assert isinstance(await store.reserve(id, together(minute), ONE), Grant), "without the database"
        await rig.settle(id)


async def test_ids_of_requests_that_are_over_do_not_pile_up(rig: Rig, store: MemoryStore) -> None:
    rule, late = limit(9), uuid4()
    await rig.seed(rule.counter)
    ids = [uuid4() for _ in range(30_000)]
    for id in ids:
        store.cancel(id)
    store.cancel(late)
    assert isinstance(await rig.ask(rule, id=ids[-1]), Refusal)
    assert len(store._ended) < 30_000


async def test_reserving_never_waits(store: MemoryStore) -> None:
    rule = limit(1)
    store.seed({rule.counter: []})
    for asked in (rule, rule, limit(1, period=Period.DAY)):
        with pytest.raises(StopIteration):
            store.reserve(uuid4(), (asked,), ONE).send(None)


class MemoryMachine(StoreMachine):
    def rig(self) -> Rig:
        clock = Clock()
        self.memory = MemoryStore(ZONE, clock)
        return Rig(self.memory, clock)

    def quiet(self) -> None:
        assert (self.memory.holds, self.memory.reserved) == (0, 0)


def test_no_order_of_events_takes_a_limit_over_its_amount() -> None:
    run_state_machine_as_test(MemoryMachine, settings=settings(max_examples=100, stateful_step_count=40))
