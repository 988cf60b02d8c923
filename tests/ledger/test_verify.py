"""The five promises as numbers: 0 while they are kept, and something else as soon as one is broken by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from asking import Gate
from limited_people import Person, in_one_loop, node, person, served
from redis_server import redis_server
from redis_stores import waited_for
from running import RunningGateway, eventually

from parallama.admin.control import serving
from parallama.app import CONTROL, POOL, RECONCILER, SHIPPER, STORE
from parallama.cli.context import Context
from parallama.cli.promises import promises
from parallama.config import Settings
from parallama.identity.users import Users
from parallama.ledger.store import Cost, Grant
from parallama.limits import Counter, Limit, Meter, Period, Scope
from parallama.testing import Answer, FakeOllama

pytestmark = in_one_loop
__all__ = ["node", "person", "served"]

REQUESTS = Scope("*", None, Meter.REQUESTS, Period.DAY)
FAST = {"flush_ms": 10}
KEPT = {"overspent": 0, "lost": 0, "double": 0, "leaked": 0, "drift": 0}


@pytest.fixture(scope="module", params=["memory", "redis"])
def gateway_settings(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    if request.param == "memory":
        yield {"usage": FAST}
        return
    with redis_server() as server, waited_for():
        yield {"usage": FAST, "redis": {"url": server.url}}


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(served: tuple[RunningGateway, FakeOllama]) -> AsyncIterator[RunningGateway]:
    """A gateway whose control socket answers, and whose promises are kept before a test and after it."""
    gateway = served[0]
    gateway.app[RECONCILER].moment_s = 0.01
    async with serving(gateway.app[CONTROL], state(gateway)):
        yield gateway
        assert await numbers(gateway, wait_s=5) == KEPT


def state(gateway: RunningGateway) -> Path:
    return gateway.app[SHIPPER].journal.home.parents[1]


async def say(gateway: RunningGateway, sql: str, *args: Any) -> None:
    async with gateway.database.connection() as one:
        await one.execute(sql, *args)


async def numbers(gateway: RunningGateway, wait_s: float = 0) -> dict[str, int]:
    ctx = Context(Settings.model_validate({}), state(gateway))
    return {one.name: one.number for one in await promises(ctx, gateway.database, wait_s)}


async def used(person: Person, times: int) -> Counter:
    await person.limit("requests", 100)
    for _ in range(times):
        assert (await person.ask()).status == 200
    await person.rows(times)
    return Counter((await Users(person.gateway.database).get(person.name)).id, REQUESTS)


async def test_under_load_all_are_kept(gateway: RunningGateway, person: Person, node: FakeOllama) -> None:
    await used(person, 1)
    node.cue(Answer(hold_head=(gate := Gate())), "/api/generate")
    async with asyncio.TaskGroup() as group:
        group.create_task(person.ask())
        await gate.reached.wait()
        others = [group.create_task(person.ask()) for _ in range(20)]
        assert await numbers(gateway, wait_s=5) == KEPT
        gate.set()
    assert {one.result().status for one in others} == {200}
    assert await numbers(gateway, wait_s=5) == KEPT


async def test_a_row_that_is_gone_is_lost(gateway: RunningGateway, person: Person) -> None:
    await used(person, 3)
    await say(gateway, "CREATE TABLE kept AS SELECT * FROM usage WHERE username = $1 LIMIT 1", person.name)
    await say(gateway, "DELETE FROM usage WHERE id = (SELECT id FROM kept)")
    assert await numbers(gateway) == {**KEPT, "lost": 1, "double": 1, "drift": 1}
    await say(gateway, "INSERT INTO usage SELECT * FROM kept")
    await say(gateway, "DROP TABLE kept")


async def test_a_request_that_is_counted_twice_is_double(gateway: RunningGateway, person: Person) -> None:
    await used(person, 2)
    await say(gateway, "UPDATE usage_hours SET requests = 2 * requests WHERE username = $1", person.name)
    assert await numbers(gateway) == {**KEPT, "double": 2, "drift": 1}
    await say(gateway, "UPDATE usage_hours SET requests = requests / 2 WHERE username = $1", person.name)


async def test_a_count_that_is_off_is_drift(gateway: RunningGateway, person: Person) -> None:
    counter = await used(person, 2)
    gateway.app[STORE].correct(counter, 3)
    await eventually(lambda: _is(5, gateway, counter))
    assert await numbers(gateway) == {**KEPT, "drift": 1}
    gateway.app[STORE].correct(counter, -3)


async def test_what_is_held_for_nobody_is_leaked(gateway: RunningGateway, person: Person) -> None:
    counter = await used(person, 1)
    limit, id = Limit(subject=counter.subject, scope=counter.scope, amount=100), uuid4()
    cost = Cost(prompt=1, prompt_estimate=1, output=1)
    assert isinstance(await gateway.app[STORE].reserve(id, (limit,), cost), Grant)
    async with gateway.app[POOL].lease():
        assert await numbers(gateway) == {**KEPT, "leaked": 2}
    gateway.app[STORE].cancel(id)


async def test_a_limit_that_was_passed_is_overspent(gateway: RunningGateway, person: Person) -> None:
    await used(person, 3)
    await say(
        gateway, "UPDATE limits SET amount = 1 WHERE user_id = (SELECT id FROM users WHERE username = $1)", person.name
    )
    assert await numbers(gateway) == KEPT  # it was made in this window
    await long_ago(gateway)
    assert await numbers(gateway) == {**KEPT, "overspent": 2}
    await say(gateway, "UPDATE limits SET outage = 'open'")
    await long_ago(gateway)
    assert await numbers(gateway) == KEPT


async def long_ago(gateway: RunningGateway) -> None:
    """As if nothing had been changed for months."""
    async with gateway.database.connection() as one, one.transaction():
        await one.execute("SET LOCAL session_replication_role = replica")
        await one.execute("UPDATE audit SET at = at - interval '70 days'")


async def _is(count: int, gateway: RunningGateway, counter: Counter) -> bool:
    return (await gateway.app[STORE].counts()).get(counter) == count
