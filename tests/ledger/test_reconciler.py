"""Every round the counts of limits are compared with the rows, and what is held with what is under way; what is found
wrong twice is put right. With counts in memory and in Redis."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from asking import Gate
from limited_people import (
    Person,
    in_one_loop,
    node,
    person,
    served,
)
from redis_server import redis_server
from redis_stores import waited_for
from running import RunningGateway, eventually

from parallama.app import BOOKS, POOL, RECONCILER, STORE
from parallama.identity.users import Users
from parallama.ledger.store import Cost, Grant
from parallama.limits import Counter, Limit, Meter, Period, Scope
from parallama.proxy.mounts import METRICS
from parallama.testing import Answer, FakeOllama

pytestmark = in_one_loop
__all__ = ["node", "person", "served"]

REQUESTS = Scope("*", None, Meter.REQUESTS, Period.DAY)
COST = Cost(prompt=1, prompt_estimate=1, output=1)


@pytest.fixture(scope="module", params=["memory", "redis"])
def gateway_settings(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    if request.param == "memory":
        yield {}
        return
    with redis_server() as server, waited_for():
        yield {"usage": {"flush_ms": 10}, "redis": {"url": server.url}, "limits": {"weights": {"*": 0.3}}}


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(served: tuple[RunningGateway, FakeOllama]) -> RunningGateway:
    return served[0]


async def nothing_held(gateway: RunningGateway) -> None:
    await eventually(lambda: gateway.app[STORE].holds == 0)


async def counter_of(person: Person, scope: Scope = REQUESTS) -> Counter:
    return Counter((await Users(person.gateway.database).get(person.name)).id, scope)


async def used(gateway: RunningGateway, counter: Counter) -> int:
    return (await gateway.app[STORE].counts())[counter]


def found(gateway: RunningGateway) -> tuple[float, float]:
    """Counts that were off, and what was held for nobody, in the last round."""
    metrics = gateway.app[METRICS]
    values = metrics.ledger_drift.labels("counts").collect(), metrics.ledger_leaked.collect()
    drift, leaked = (families[0].samples[0].value for families in values)
    return drift, leaked


async def rounds(gateway: RunningGateway, count: int) -> list[tuple[float, float]]:
    """What so many rounds have found."""
    results = []
    for _ in range(count):
        await gateway.app[RECONCILER].round()
        results.append(found(gateway))
    return results


async def asked(person: Person, times: int) -> Counter:
    """A count that is right."""
    await person.limit("requests", 100)
    return await counted(person, times)


async def counted(person: Person, times: int) -> Counter:
    """The person's requests, after so many more that are all."""
    for _ in range(times):
        assert (await person.ask()).status == 200
    counter = await counter_of(person)
    await eventually(lambda: _is(times, person.gateway, counter))
    return counter


async def _is(count: int, gateway: RunningGateway, counter: Counter) -> bool:
    return (await gateway.app[STORE].counts()).get(counter) == count


@pytest.mark.parametrize("amount", [-2, 5])
async def test_a_count_that_is_off_is_right_after_two_rounds(
    gateway: RunningGateway, person: Person, caplog: pytest.LogCaptureFixture, amount: int
) -> None:
    counter = await asked(person, 3)
    gateway.app[STORE].correct(counter, amount)
    await eventually(lambda: _is(3 + amount, gateway, counter))
    assert await rounds(gateway, 1) == [(0, 0)]
    assert await used(gateway, counter) == 3 + amount
    caplog.set_level(logging.WARNING, "parallama.usage")
    assert await rounds(gateway, 1) == [(1, 0)]
    await eventually(lambda: _is(3, gateway, counter))
    (line,) = [one for one in caplog.records if "counts" in one.message]
    assert line.__dict__["fields"] == {"counts": 1, "amount": abs(amount)}
    assert await rounds(gateway, 1) == [(0, 0)]


async def test_what_goes_on_meanwhile_is_not_corrected(gateway: RunningGateway, person: Person) -> None:
    await person.limit("total_tokens", 10**6)
    await asked(person, 1)
    asking = asyncio.gather(*(_again_and_again(person, 10) for _ in range(4)))
    results = []
    while not asking.done():
        results += await rounds(gateway, 1)
    assert set(results) == {(0, 0)}
    assert await asking == [None] * 4
    counter = await counter_of(person)
    await eventually(lambda: _is(41, gateway, counter))
    assert await rounds(gateway, 2) == [(0, 0)] * 2


async def _again_and_again(person: Person, times: int) -> None:
    for _ in range(times):
        assert (await person.ask()).status == 200


async def test_a_request_that_was_under_way_when_a_limit_was_made_gets_into_its_count(
    gateway: RunningGateway, node: FakeOllama, person: Person
) -> None:
    node.cue(Answer(hold_head=(gate := Gate())), "/api/generate")
    async with asyncio.TaskGroup() as group:
        group.create_task(person.ask())
        await node.request_for("/api/generate")
        await person.limit("requests", 100)
        counter = await counter_of(person)
        await eventually(lambda: _asks_and_counts(person, counter))
        gate.set()
    before = await used(gateway, counter)
    await rounds(gateway, 1)
    assert await used(gateway, counter) == before
    await rounds(gateway, 1)
    await eventually(lambda: _is(before + 1, gateway, counter))


async def _asks_and_counts(person: Person, counter: Counter) -> bool:
    assert (await person.ask()).status == 200
    return counter in await person.gateway.app[STORE].counts()


async def test_what_is_held_for_nobody_is_released_in_the_second_round(gateway: RunningGateway, person: Person) -> None:
    counter = await asked(person, 1)
    limit = Limit(subject=counter.subject, scope=counter.scope, amount=100)
    assert isinstance(await gateway.app[STORE].reserve(uuid4(), (limit,), COST), Grant)
    assert await rounds(gateway, 1) == [(0, 0)]
    assert gateway.app[STORE].holds == 1
    assert await rounds(gateway, 2) == [(0, 1), (0, 0)]
    await nothing_held(gateway)
    assert await used(gateway, counter) == 1


async def test_a_slot_that_nobody_gives_back_is_told(gateway: RunningGateway) -> None:
    async with gateway.app[POOL].lease():
        assert await rounds(gateway, 2) == [(0, 0), (0, 1)]
    assert await rounds(gateway, 1) == [(0, 0)]


async def test_what_is_under_way_is_not_taken_for_held_by_nobody(
    gateway: RunningGateway, node: FakeOllama, person: Person
) -> None:
    await asked(person, 1)
    node.cue(Answer(hold_head=(gate := Gate())), "/api/generate")
    async with asyncio.TaskGroup() as group:
        group.create_task(person.ask())
        await gate.reached.wait()
        assert gateway.app[STORE].holds == 1
        assert await rounds(gateway, 2) == [(0, 0)] * 2
        gate.set()
    await nothing_held(gateway)
    assert not gateway.app[BOOKS].under_way
