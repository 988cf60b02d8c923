"""Counts that were reset begin at nothing, and stay so; what is used from then on counts."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any
from uuid import uuid4

import pytest
from asking import Gate
from limited_people import GENERATE, Person, new_person, statuses
from limited_people import gateway as gateway
from limited_people import in_one_loop as in_one_loop
from limited_people import node as node
from limited_people import person as person
from limited_people import served as served
from running import RunningGateway

from parallama.identity.audit import AuditTrail
from parallama.identity.limits import Limits
from parallama.identity.roles import Roles
from parallama.identity.terms import Subject
from parallama.identity.users import Users
from parallama.ledger.seeds import Seeds
from parallama.limits import Counter, Meter, Period, Scope
from parallama.testing import Answer, FakeOllama

pytestmark = in_one_loop

WEIGHTS = {"qwen3*": 0.3}
WEIGHED = {**GENERATE, "model": "qwen3:0.6b"}
TOKENS = (Meter.PROMPT_TOKENS, Meter.OUTPUT_TOKENS, Meter.TOTAL_TOKENS)


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, Any]:
    return {"limits": {"weights": WEIGHTS}}


async def reset(gateway: RunningGateway, /, **body: Any) -> Any:
    """How many had their counts reset."""
    url = f"{gateway.url}/admin/v1/limits/reset"
    async with gateway.http.post(url, json=body, headers=gateway.admin_auth) as answer:
        found = await answer.json()
        assert answer.status == 200, found
        return found["reset"]


async def use_up(person: Person, times: int, body: Any = GENERATE) -> None:
    """So many are let in, and no more."""
    answers = [await person.ask(body) for _ in range(times + 1)]
    assert statuses(answers) == ({200: times, 429: 1} if times else {429: 1})


async def summed(person: Person, meters: Collection[Meter]) -> list[int]:
    """What who begins to count now finds of each meter, of today."""
    database = person.gateway.database
    user = await Users(database).get(person.name)
    counters = [Counter(user.id, Scope("*", None, meter, Period.DAY)) for meter in meters]
    found = await Seeds(database, "UTC", WEIGHTS).of(counters)
    return [sum(amount for _, amount in found[one]) for one in counters]


@pytest.mark.parametrize("period", ["minute", "hour", "day", "month"])
async def test_the_next_request_after_a_reset_counts_from_nothing(
    gateway: RunningGateway, node: FakeOllama, person: Person, period: str
) -> None:
    await person.limit("requests", 2, period)
    for _ in range(3):
        await use_up(person, 2)
        assert await reset(gateway, user=person.name) == 1


async def test_a_reset_counts_for_limits_that_are_made_later(
    gateway: RunningGateway, node: FakeOllama, person: Person
) -> None:
    assert statuses(await person.together(3)) == {200: 3}
    await reset(gateway, user=person.name)
    await person.limit("requests", 2)
    await use_up(person, 2)


async def test_of_tokens_only_those_since_the_reset_count_whatever_they_weigh(
    gateway: RunningGateway, node: FakeOllama, person: Person
) -> None:
    await person.ask(WEIGHED)
    await person.rows(1)
    one = await summed(person, TOKENS)
    for _ in range(2):
        await person.ask(WEIGHED)
    await reset(gateway, user=person.name)
    assert (await summed(person, TOKENS), min(one) > 0) == ([0, 0, 0], True)
    await person.ask(WEIGHED)
    await person.rows(4)
    assert await summed(person, TOKENS) == one


async def test_what_is_under_way_at_a_reset_counts_when_it_has_ended(
    gateway: RunningGateway, node: FakeOllama, person: Person
) -> None:
    await person.limit("requests", 2)
    await use_up(person, 2)
    await reset(gateway, user=person.name)
    node.requests.clear()
    node.cue(Answer(hold_head=(gate := Gate())), "/api/generate")
    async with asyncio.TaskGroup() as group:
        under_way = group.create_task(person.ask())
        await node.request_for("/api/generate")
        await reset(gateway, user=person.name)
        gate.set()
    assert under_way.result().status == 200
    await use_up(person, 1)


async def test_a_key_is_reset_alone(gateway: RunningGateway, node: FakeOllama, person: Person) -> None:
    await person.limit("requests", 1, of_key=True)
    await person.limit("requests", 2)
    await use_up(person, 1)
    assert await reset(gateway, user=person.name) == 1
    await use_up(person, 0)
    assert await reset(gateway, key=str(person.key_id)) == 1
    await use_up(person, 1)


async def test_everybody_who_has_a_role_or_one_below_it_is_reset(gateway: RunningGateway, node: FakeOllama) -> None:
    upper, lower = (f"r{uuid4().hex[:10]}" for _ in range(2))
    await Roles(gateway.database).create(upper)
    await Roles(gateway.database).create(lower, parent=upper)
    await Limits(gateway.database).create(Subject(role=upper), "requests", "day", amount=1)
    people = [await new_person(gateway, "tester", role) for role in (upper, lower)]
    for one in people:
        await use_up(one, 1)
    assert await reset(gateway, role=upper) == 2
    for one in people:
        await use_up(one, 1)


@pytest.mark.parametrize("scope", [{"gateway": "ollama"}, {"model": "qwen3:*"}])
async def test_a_reset_may_be_for_the_limits_of_one_gateway_or_pattern(
    gateway: RunningGateway, node: FakeOllama, person: Person, scope: dict[str, str]
) -> None:
    await person.limit("requests", 2, **scope)
    await person.limit("requests", 3)
    await use_up(person, 2, WEIGHED)
    assert await reset(gateway, user=person.name, **scope) == 1
    await use_up(person, 1, WEIGHED)
    assert await reset(gateway, user=person.name) == 1
    await use_up(person, 2, WEIGHED)


async def test_a_reset_is_on_record_and_takes_nothing_from_reports(
    gateway: RunningGateway, node: FakeOllama, person: Person
) -> None:
    await person.ask()
    await reset(gateway, user=person.name, gateway="ollama", model="Qwen3")
    (found,) = await AuditTrail(gateway.database).list(action="limit_reset", username=person.name)
    assert (found.action, found.actor, found.name) == ("limit_reset.create", "root", "ollama qwen3:latest")
    assert found.after is not None
    assert not {"used", "rows"} & found.after.keys()
    async with gateway.database.connection() as one:
        sums = await one.fetchval("SELECT sum(requests) FROM usage_hours WHERE username = $1", person.name)
    assert (sums, len(await person.rows(1))) == (1, 1)


async def test_records_of_resets_go_when_no_window_needs_them(
    gateway: RunningGateway, node: FakeOllama, person: Person
) -> None:
    other = await new_person(gateway)
    for scope in ({"gateway": "ollama"}, {"gateway": "openai"}, {}):
        await reset(gateway, user=person.name, **scope)
    async with gateway.database.connection() as one:
        count = "SELECT count(*) FROM limit_resets WHERE user_id = (SELECT id FROM users WHERE username = $1)"
        assert await one.fetchval(count, person.name) == 1
        await one.execute("UPDATE limit_resets SET reset_at = reset_at - interval '33 days'")
        await reset(gateway, user=other.name)
        assert (await one.fetchval(count, person.name), await one.fetchval(count, other.name)) == (0, 1)
