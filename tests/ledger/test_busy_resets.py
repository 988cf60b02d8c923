"""A count in which requests are under way is nothing too soon after it was reset, and goes on from there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from asking import Gate
from limited_people import Person, new_person
from limited_people import in_one_loop as in_one_loop
from limited_people import node as node
from limited_people import served as served
from redis_server import redis_server
from redis_stores import waited_for
from running import RunningGateway, eventually

from parallama.app import STORE
from parallama.identity.users import Users
from parallama.limits import Counter, Meter, Period, Scope
from parallama.testing import Answer, FakeOllama

pytestmark = in_one_loop

METERS = (Meter.REQUESTS, Meter.TOTAL_TOKENS)


@pytest.fixture(scope="module", params=["memory", "redis"])
def gateway_settings(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    if request.param == "memory":
        yield {}
        return
    with redis_server() as server, waited_for():
        yield {"usage": {"flush_ms": 10}, "redis": {"url": server.url}}


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(served: tuple[RunningGateway, FakeOllama]) -> RunningGateway:
    return served[0]


async def reset(gateway: RunningGateway, /, **body: Any) -> None:
    url = f"{gateway.url}/admin/v1/limits/reset"
    async with gateway.http.post(url, json=body, headers=gateway.admin_auth) as answer:
        assert answer.status == 200, await answer.text()


async def used(gateway: RunningGateway, subject: str) -> list[int | None]:
    """Of each meter, of today; None: that is not known."""
    id, counts = (await Users(gateway.database).get(subject)).id, await gateway.app[STORE].counts()
    return [counts.get(Counter(id, Scope("*", None, meter, Period.DAY))) for meter in METERS]


async def until_used(person: Person, *amounts: int) -> None:
    async def so() -> bool:
        return await used(person.gateway, person.name) == [*amounts]

    await eventually(so)


async def limited(gateway: RunningGateway, *roles: str) -> Person:
    person = await new_person(gateway, *roles)
    for meter in METERS:
        await person.limit(meter.value, 10**6)
    return person


@asynccontextmanager
async def under_way(node: FakeOllama, *people: Person) -> AsyncIterator[None]:
    """One request of each, to the end of the block."""
    async with asyncio.TaskGroup() as group:
        gates = []
        for one in people:
            node.cue(Answer(hold_head=(gate := Gate())), "/api/generate")
            group.create_task(one.ask())
            await gate.reached.wait()
            gates.append(gate)
        yield
        for gate in gates:
            gate.set()


async def test_what_was_used_is_forgotten_while_requests_are_under_way(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    person = await limited(gateway)
    for _ in range(3):
        await person.ask()
    _, tokens = await used(gateway, person.name)
    assert tokens
    async with under_way(node, person):
        for _ in range(2):
            await reset(gateway, user=person.name)
            await until_used(person, 0, 0)
            await person.ask()
            await until_used(person, 1, tokens // 3)
    await eventually(lambda: gateway.app[STORE].holds == 0)
    await person.ask()
    await until_used(person, 3, tokens)


async def test_of_those_who_have_a_role_all_who_are_busy_begin_anew(gateway: RunningGateway, node: FakeOllama) -> None:
    people = [await limited(gateway) for _ in range(3)]
    for one in people:
        await one.ask()
    async with under_way(node, *people):
        await reset(gateway, role="tester")
        for one in people:
            await until_used(one, 0, 0)


async def test_the_count_of_another_gateway_is_not_touched(gateway: RunningGateway, node: FakeOllama) -> None:
    person = await limited(gateway)
    await person.ask()
    before = await used(gateway, person.name)
    async with under_way(node, person):
        await reset(gateway, user=person.name, gateway="openai")
        await reset(gateway, user=person.name, model="other:*")
        await person.ask()
        await until_used(person, *(2 * amount for amount in before if amount))
