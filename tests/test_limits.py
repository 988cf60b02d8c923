"""Limits on record: who may set which, what none may be, and which are in force for whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from e2e.databases import fresh_database
from running import PATIENT, eventually

from parallama.db.pool import Database
from parallama.errors import Conflict, Invalid, NotAllowed, NotFound, Outdated
from parallama.exchange import Caller
from parallama.identity.actor import Actor
from parallama.identity.api_keys import ApiKeys
from parallama.identity.assignments import Assignments
from parallama.identity.audit import AuditTrail
from parallama.identity.limits import Limits
from parallama.identity.roles import Roles
from parallama.identity.terms import MAX_AMOUNT, Change, LimitRecord, Subject, place
from parallama.identity.users import Users
from parallama.limits import Limit, Meter, Period, Rules, Scope, effective

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(postgres: str) -> AsyncIterator[Database]:
    async with fresh_database(postgres) as url, Database(url, PATIENT).running() as running:
        yield running


@pytest.fixture
def limits(database: Database) -> Limits:
    return Limits(database)


async def some_user(database: Database, role: str = "basic") -> str:
    name = f"u-{uuid4().hex[:10]}"
    await Users(database).create(name, role=role)
    return name


async def some_role(database: Database, parent: str | None = None) -> str:
    name = f"r{uuid4().hex[:10]}"
    await Roles(database).create(name, parent=parent)
    return name


@pytest_asyncio.fixture(loop_scope="module")
async def bob(database: Database) -> str:
    return await some_user(database)


def manager(*permissions: str, admin: bool = False) -> Actor:
    held = frozenset({"manage_users", *permissions})
    caller = Caller(user_id=uuid4(), username="boss", key_id=uuid4(), admin=admin, permissions=held)
    return Actor(name="boss", via="api", user_id=caller.user_id, caller=caller)


def amounts(records: list[LimitRecord]) -> dict[tuple[str, str | None, str, str], int]:
    return {(one.gateway, one.model, one.meter, one.period): one.amount for one in records}


# what is put down


async def test_a_limit_is_made_read_changed_and_deleted(limits: Limits, bob: str) -> None:
    of_bob = Subject(user=bob.upper())
    made = await limits.create(of_bob, "total_tokens", "day", gateway="openai", amount=1000)
    assert (made.user, made.key, made.role) == (bob, None, None)
    assert (made.admission, made.outage, made.max_output_tokens, made.version) == ("strict", "closed", None, 1)
    assert await limits.get(made.id) == made
    changes = {"amount": 5, "admission": "estimate", "outage": "open", "max_output_tokens": 64}
    changed = await limits.update(made.id, changes=changes, version=1)
    assert {name: getattr(changed, name) for name in changes} == changes
    assert (changed.version, changed.updated_at > made.updated_at) == (2, True)
    again = await limits.update(made.id, changes={"max_output_tokens": None})
    assert (again.amount, again.admission, again.max_output_tokens) == (5, "estimate", None)
    with pytest.raises(Outdated, match="version 3"):
        await limits.delete(made.id, version=2)
    await limits.delete(made.id, version=3)
    with pytest.raises(NotFound, match=str(made.id)):
        await limits.get(made.id)


async def test_a_scope_has_one_limit_however_its_model_is_spelled(limits: Limits, bob: str) -> None:
    of_bob = Subject(user=bob)
    made = await limits.create(of_bob, "requests", "hour", model="Llama3", amount=1)
    assert made.model == "llama3:latest"
    with pytest.raises(Conflict, match=r"requests per hour for all gateways and llama3:latest already"):
        await limits.create(of_bob, "requests", "hour", model="library/llama3:LATEST", amount=2)
    for other in ({"model": None}, {"model": "llama3*"}, {"model": "llama3", "gateway": "ollama"}):
        await limits.create(of_bob, "requests", "hour", amount=2, **other)


async def test_several_limits_are_set_at_once_and_what_is_not_named_stays(limits: Limits, bob: str) -> None:
    of_bob = Subject(user=bob)
    terms = {"amount": 100, "outage": "open", "max_output_tokens": 9}
    await limits.set(of_bob, [Change("total_tokens", "day", terms), Change("requests", "hour", {"amount": 5})])
    found = await limits.set(
        of_bob, [Change("total_tokens", "day", {"amount": 200}), Change("concurrency", "now", {"amount": 0})]
    )
    assert amounts(found) == {
        ("*", None, "concurrency", "now"): 0,
        ("*", None, "requests", "hour"): 5,
        ("*", None, "total_tokens", "day"): 200,
    }
    tokens = next(one for one in found if one.meter == "total_tokens")
    assert (tokens.outage, tokens.max_output_tokens, tokens.admission) == ("open", 9, "strict")
    left = await limits.set(of_bob, [Change("total_tokens", "day", {"amount": None})])
    assert [one.meter for one in left] == ["concurrency", "requests"]
    assert await limits.set(of_bob, [], model="q*") == []


async def test_of_several_changes_all_are_made_or_none(limits: Limits, bob: str) -> None:
    good, bad = Change("requests", "day", {"amount": 1}), Change("requests", "hour", {"amount": -1})
    with pytest.raises(Invalid, match="amount"):
        await limits.set(Subject(user=bob), [good, bad])
    assert await limits.list(Subject(user=bob)) == []


@pytest.mark.parametrize(
    ("given", "param", "right"),
    [
        ({"gateway": "opnai"}, "gateway", r"must be one of \*, anthropic, ollama, openai"),
        ({"gateway": ""}, "gateway", "must be one of"),
        ({"meter": "tokens"}, "meter", "requests, prompt_tokens, output_tokens, total_tokens, concurrency"),
        ({"period": "week"}, "period", "minute, hour, day, month$"),
        ({"period": "now"}, "period", "minute, hour, day, month$"),
        ({"meter": "concurrency"}, "period", "must be one of now"),
        ({"model": " "}, "model", "printable"),
        ({"model": "a\0"}, "model", "printable"),
        ({"model": "m" * 257}, "model", "1 to 256"),
        ({"amount": -1}, "amount", "whole number from 0"),
        ({"amount": True}, "amount", "whole number"),
        ({"amount": 1.5}, "amount", "whole number"),
        ({"amount": MAX_AMOUNT + 1}, "amount", str(MAX_AMOUNT)),
        ({"amount": None}, "amount", "give its amount"),
        ({"admission": "lax"}, "admission", "strict, estimate"),
        ({"outage": None}, "outage", "closed, open"),
        ({"max_output_tokens": 0}, "max_output_tokens", "from 1"),
        ({"colour": 1}, "colour", "only amount, admission, outage, max_output_tokens"),
    ],
)
async def test_what_no_limit_may_be_is_refused_with_what_would_be_right(
    limits: Limits, bob: str, given: dict[str, Any], param: str, right: str
) -> None:
    with pytest.raises(Invalid, match=right) as refused:
        await limits.create(Subject(user=bob), **{"meter": "requests", "period": "day", "amount": 1, **given})
    assert refused.value.param == param
    assert await limits.list(Subject(user=bob)) == []


async def test_a_limit_is_of_exactly_one() -> None:
    for given in ({}, {"user": "bob", "role": "basic"}, {"user": "bob", "key": uuid4()}):
        with pytest.raises(Invalid, match="one of user, key and role"):
            Subject(**given)  # type: ignore[arg-type]


async def test_whom_there_is_not_is_not_limited(limits: Limits) -> None:
    for subject in (Subject(user="nobody"), Subject(role="nothing"), Subject(key=uuid4())):
        with pytest.raises(NotFound):
            await limits.create(subject, "requests", "day", amount=1)
        with pytest.raises(NotFound):
            await limits.effective(subject)


async def test_the_list_is_whole_however_it_is_cut(limits: Limits, database: Database, bob: str) -> None:
    key = (await ApiKeys(database).create(bob))[1].id
    for subject in (Subject(user=bob), Subject(key=key), Subject(role=await some_role(database))):
        for gateway in ("*", "ollama"):
            for model in (None, "a*", "b"):
                await limits.create(subject, "requests", "day", gateway=gateway, model=model, amount=1)
    found: list[LimitRecord] = []
    while part := await limits.list(after=place(found[-1]) if found else None, limit=4):
        found += part
    assert [one.id for one in found] == [one.id for one in await limits.list()]
    assert len({one.id for one in found}) == len(found)
    assert [place(one) for one in found] == sorted(place(one) for one in found)
    of_bob = await limits.list(Subject(user=bob), gateway="ollama")
    assert [(one.gateway, one.model) for one in of_bob] == [
        ("ollama", None),
        ("ollama", "a*"),
        ("ollama", "b:latest"),
    ]
    assert {one.key for one in await limits.list(Subject(key=key))} == {key}


async def test_a_reset_leaves_what_the_roles_give(limits: Limits, database: Database) -> None:
    role = await some_role(database)
    bob = await some_user(database, role)
    of_bob = Subject(user=bob)
    await limits.create(Subject(role=role), "requests", "day", amount=7)
    await limits.create(of_bob, "requests", "day", amount=1)
    await limits.create(of_bob, "requests", "day", gateway="openai", amount=1)
    assert await limits.reset(of_bob, gateway="openai") == 1
    assert await limits.reset(of_bob) == 1
    assert [(one.role, one.amount) for one in await limits.effective(of_bob)] == [(role, 7)]
    with pytest.raises(Invalid, match="gateway"):
        await limits.reset(of_bob, gateway="opnai")


async def test_changes_at_once_are_made_one_after_the_other(limits: Limits, bob: str) -> None:
    of_bob, periods = Subject(user=bob), ["minute", "hour", "day", "month"]

    async def set_all(amount: int, order: list[str]) -> None:
        await limits.set(of_bob, [Change("requests", period, {"amount": amount}) for period in order])

    await asyncio.gather(*(set_all(n, periods if n % 2 else periods[::-1]) for n in range(8)))
    assert len({one.amount for one in await limits.list(of_bob)}) == 1
    tries = [limits.create(of_bob, "concurrency", "now", amount=n) for n in range(5)]
    made = await asyncio.gather(*tries, return_exceptions=True)
    assert [type(one) for one in made].count(Conflict) == 4


@pytest.mark.parametrize("kind", ["user", "key", "role"])
async def test_who_is_deleted_meanwhile_is_not_limited(limits: Limits, database: Database, kind: str) -> None:
    role = await some_role(database)
    bob = await some_user(database)
    key = (await ApiKeys(database).create(bob))[1].id
    subject = {"user": Subject(user=bob), "key": Subject(key=key), "role": Subject(role=role)}[kind]
    delete, what = {
        "user": ("DELETE FROM users WHERE username = $1", bob),
        "key": ("DELETE FROM api_keys WHERE id = $1", key),
        "role": ("DELETE FROM roles WHERE name = $1", role),
    }[kind]
    waits = (
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database())"
    )
    async with database.connection() as one, database.connection() as other:
        async with one.transaction():
            await one.execute(delete, what)
            create = limits.create(subject, "requests", "day", amount=1)
            attempt = asyncio.get_running_loop().create_task(create, name="a limit")
            await eventually(lambda: other.fetchval(waits))
        with pytest.raises(NotFound, match=f"the {kind} .* was deleted meanwhile"):
            await attempt


# who may


async def test_nobody_limits_who_may_more_than_they_do(database: Database, limits: Limits, bob: str) -> None:
    premium, key = await some_user(database, "premium"), (await ApiKeys(database).create(bob))[1].id
    over_basic = Limits(database, manager("basic_rate_limits", "use_ollama"))
    for subject in (Subject(user=bob), Subject(key=key), Subject(role="basic")):
        made = await over_basic.create(subject, "requests", "minute", amount=1)
        await over_basic.delete(made.id)
    key_of_premium = (await ApiKeys(database).create(premium))[1].id
    for subject in (Subject(user=premium), Subject(key=key_of_premium), Subject(role="premium")):
        made = await limits.create(subject, "requests", "minute", amount=1)
        for attempt in (
            over_basic.create(subject, "requests", "day", amount=1),
            over_basic.set(subject, [Change("requests", "minute", {"amount": 2})]),
            over_basic.update(made.id, changes={"amount": 2}),
            over_basic.delete(made.id),
            over_basic.reset(subject),
        ):
            with pytest.raises(NotAllowed, match="limit the "):
                await attempt
        assert await limits.get(made.id) == made
    with pytest.raises(NotAllowed, match="only an admin may limit the role admin"):
        await over_basic.create(Subject(role="admin"), "requests", "day", amount=1)
    root = Limits(database, manager(admin=True))
    await root.delete((await root.create(Subject(role="admin"), "requests", "day", amount=1)).id)
    await limits.reset(Subject(role="premium"))


async def test_every_change_is_on_record(database: Database, bob: str) -> None:
    records, role = Limits(database, manager(admin=True)), await some_role(database)
    key = (await ApiKeys(database).create(bob))[1]
    own = await records.create(Subject(user=bob), "requests", "day", gateway="openai", amount=1)
    await records.update(own.id, changes={"amount": 2})
    of_key = await records.create(Subject(key=key.id), "total_tokens", "hour", model="a*", amount=3)
    of_role = await records.create(Subject(role=role), "requests", "month", amount=4)
    await Users(database).delete(bob)
    await Roles(database).delete(role)

    async def told(limit: UUID) -> list[Any]:
        found = await AuditTrail(database).list(target=str(limit))
        return [(one.action, one.name, one.username) for one in reversed(found)]

    names = {own.id: "openai requests day", of_key.id: f"{key.hint} * a* total_tokens hour"}
    assert await told(own.id) == [(f"limit.{verb}", names[own.id], bob) for verb in ("create", "change", "delete")]
    assert await told(of_key.id) == [(f"limit.{verb}", names[of_key.id], bob) for verb in ("create", "delete")]
    assert await told(of_role.id) == [
        (f"limit.{verb}", f"{role} * requests month", None) for verb in ("create", "delete")
    ]
    change = (await AuditTrail(database).list(target=str(own.id), action="limit.change"))[0]
    assert (change.actor, change.before, change.after) == ("boss", {"amount": 1}, {"amount": 2})


# what is in force


async def test_a_role_has_what_the_roles_above_it_have_unless_it_has_its_own(
    limits: Limits, database: Database
) -> None:
    top = await some_role(database)
    low = await some_role(database, parent=top)
    for role, period, amount in ((top, "day", 1), (top, "hour", 2), (low, "day", 3)):
        await limits.create(Subject(role=role), "requests", period, amount=amount)
    found = [(one.role, one.period, one.amount) for one in await limits.effective(Subject(role=low))]
    assert found == [(low, "day", 3), (top, "hour", 2)]
    user = await some_user(database, low)
    assert await limits.effective(Subject(user=user)) == await limits.effective(Subject(role=low))


async def test_what_is_in_force_says_whose_limit_it_is(limits: Limits, database: Database) -> None:
    role, other = await some_role(database), await some_role(database)
    bob = await some_user(database, role)
    key = (await ApiKeys(database).create(bob))[1].id
    await Assignments(database).assign(bob, other)
    for subject, meter, gateway, amount in (
        (Subject(role=role), "requests", "*", 1),
        (Subject(role=other), "requests", "*", 2),
        (Subject(role=role), "total_tokens", "openai", 3),
        (Subject(user=bob), "total_tokens", "openai", 1),
        (Subject(key=key), "total_tokens", "openai", 9),
        (Subject(role=other), "output_tokens", "ollama", 4),
    ):
        await limits.create(subject, meter, "day", gateway=gateway, amount=amount)
    found = await limits.effective(Subject(key=key))
    whose = [(one.user, one.key, one.role, one.meter, one.amount) for one in found]
    assert whose == [
        (None, None, other, "requests", 2),
        (None, None, other, "output_tokens", 4),
        (bob, None, None, "total_tokens", 1),
        (None, key, None, "total_tokens", 9),
    ]
    for_openai = await limits.effective(Subject(user=bob), gateway="openai")
    assert [one.meter for one in for_openai] == ["requests", "total_tokens"]


async def test_the_limits_of_a_role_end_with_it(database: Database, limits: Limits, bob: str) -> None:
    role, soon = await some_role(database), datetime.now(UTC) + timedelta(hours=1)
    await limits.create(Subject(role=role), "requests", "day", amount=1)
    await Assignments(database).assign(bob, role, expires_at=soon)
    assert len(await limits.effective(Subject(user=bob))) == 1
    assert await Limits(database, now=lambda: soon).effective(Subject(user=bob)) == []


def rule(subject: UUID, amount: int, period: Period = Period.DAY) -> Limit:
    return Limit(subject=subject, scope=Scope("*", None, Meter.REQUESTS, period), amount=amount)


async def test_the_limits_of_a_request_are_counted_for_the_user_or_the_key() -> None:
    user, key, low, top, wide = (uuid4() for _ in range(5))
    held = [
        Rules("low", ((rule(low, 1),), (rule(top, 9), rule(top, 5, Period.HOUR)))),
        Rules("wide", ((rule(wide, 2),),)),
    ]
    assert set(effective(user, (), (), held)) == {rule(user, 2), rule(user, 5, Period.HOUR)}
    own = [rule(user, 0)]
    assert set(effective(user, own, [rule(key, 4)], held)) == {
        rule(user, 0),
        rule(user, 5, Period.HOUR),
        rule(key, 4),
    }
    assert effective(user, (), (), ()) == ()
