"""Which limits a caller has: found with the caller, true in every process, at no cost where it is remembered."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from calling import (
    Clock,
    Present,
    alice,
    auth,
    bearer,
    patient,
    process,
    token_of,
    until,
    without_waiting,
    write,
)
from multidict import CIMultiDict

from parallama.db.pool import Database
from parallama.exchange import Caller
from parallama.identity.access import ANONYMOUS
from parallama.identity.api_keys import ApiKeys
from parallama.identity.assignments import Assignments
from parallama.identity.callers import Callers
from parallama.identity.limits import Limits
from parallama.identity.roles import Roles
from parallama.identity.terms import Subject
from parallama.identity.users import Users
from parallama.limits import Limit, Meter, Period, Scope

__all__ = ["alice", "patient"]
pytestmark = pytest.mark.usefixtures("patient")


def told(caller: Caller) -> set[tuple[str, int]]:
    """Whose count it is, and how much."""
    return {("user" if one.subject == caller.user_id else "key", one.amount) for one in caller.limits}


async def limit(database: Database, amount: int, **subject: str) -> None:
    await Limits(database).create(Subject(**subject), "requests", "day", amount=amount)  # type: ignore[arg-type]


async def test_a_caller_has_the_limits_of_the_key_the_user_and_the_roles(database: Database, alice: str) -> None:
    key = (await ApiKeys(database).list("alice"))[0].id
    records = Limits(database)
    terms = {"amount": 7, "admission": "estimate", "outage": "open", "max_output_tokens": 5}
    await records.create(Subject(user="alice"), "total_tokens", "hour", gateway="openai", model="a*", **terms)
    await records.create(Subject(key=key), "concurrency", "now", amount=1)
    await records.create(Subject(role="basic"), "requests", "day", amount=3)
    caller = await Callers(database, auth(), Present()).identify(bearer(alice))
    assert set(caller.limits) == {
        Limit(
            subject=caller.user_id,
            scope=Scope("openai", "a*", Meter.TOTAL_TOKENS, Period.HOUR),
            amount=7,
            strict=False,
            open=True,
            max_output_tokens=5,
        ),
        Limit(subject=key, scope=Scope("*", None, Meter.CONCURRENCY, Period.NOW), amount=1),
        Limit(subject=caller.user_id, scope=Scope("*", None, Meter.REQUESTS, Period.DAY), amount=3),
    }


async def test_a_login_has_those_of_its_user(database: Database, alice: str) -> None:
    await limit(database, 4, user="alice")
    token, _ = await token_of(database, "alice")
    async with process(database) as (callers, _):
        assert told(await callers.identify(bearer(token))) == {("user", 4)}


async def test_admins_have_limits_too(database: Database) -> None:
    await Users(database).create("root", admin=True, role="admin")
    key = (await ApiKeys(database).create("root"))[0]
    await limit(database, 6, role="admin")
    caller = await Callers(database, auth(), Present()).identify(bearer(key))
    assert (caller.admin, told(caller)) == (True, {("user", 6)})


async def test_who_has_no_credential_has_the_limits_of_the_user_anonymous(database: Database) -> None:
    async with process(database, allow_anonymous=True) as (callers, _):
        await limit(database, 2, user=ANONYMOUS)
        caller = await callers.identify(CIMultiDict())
        assert (caller.username, told(caller)) == (ANONYMOUS, {("user", 2)})


async def test_a_remembered_caller_is_not_made_again(database: Database, alice: str) -> None:
    await limit(database, 1, user="alice")
    async with process(database) as (callers, _):
        first = await callers.identify(bearer(alice))
        assert without_waiting(callers, alice) is first


@pytest.mark.parametrize("kind", ["user", "key", "role"])
async def test_a_change_bites_in_every_process(database: Database, alice: str, kind: str) -> None:
    key, grace = (await ApiKeys(database).list("alice"))[0].id, timedelta(hours=1).total_seconds()
    rotated, _ = await ApiKeys(database).rotate(key, grace_s=grace)
    subject = Subject(**{kind: {"user": "alice", "key": key, "role": "basic"}[kind]})  # type: ignore[arg-type]
    whose = "key" if kind == "key" else "user"
    async with process(database) as (one, _), process(database) as (other, _):

        async def everywhere(*expected: int) -> None:
            for callers in (one, other):
                for secret in (alice, rotated):

                    async def bites(callers: Callers = callers, secret: str = secret) -> bool:
                        return told(await callers.identify(bearer(secret))) == {(whose, n) for n in expected}

                    await until(bites)

        await everywhere()
        made = await Limits(database).create(subject, "requests", "day", amount=1)
        await everywhere(1)
        await Limits(database).update(made.id, changes={"amount": 2})
        await everywhere(2)
        await write(database, "UPDATE limits SET amount = 0 WHERE id = $1", made.id)
        await everywhere(0)
        await Limits(database).delete(made.id)
        await everywhere()


async def test_the_limits_of_a_role_change_when_it_expires(database: Database, alice: str) -> None:
    clock, soon = Clock(), datetime.now(UTC) + timedelta(hours=1)
    await limit(database, 1, role="basic")
    await limit(database, 5, role="premium")
    await Assignments(database).assign("alice", "premium", expires_at=soon)
    async with process(database, clock=clock) as (callers, _):
        assert told(await callers.identify(bearer(alice))) == {("user", 5)}
        clock.ahead_s = 3601
        assert told(without_waiting(callers, alice)) == {("user", 1)}


async def test_who_loses_limits_with_a_role_that_expires_is_told_of_once(database: Database, alice: str) -> None:
    clock, lapsed = Clock(), list[UUID]()
    callers = Callers(database, auth(), Present(), now=clock.now, on_lapse=lapsed.append)
    await limit(database, 5, role="premium")
    ends = datetime.now(UTC) + timedelta(hours=1)
    await Assignments(database).assign("alice", "premium", expires_at=ends)
    await Roles(database).create("viewer")
    await Assignments(database).assign("alice", "viewer", expires_at=ends + timedelta(hours=1))
    caller = await callers.identify(bearer(alice))
    told_of = []
    for hours in (0, 2, 0, 2):
        clock.ahead_s += hours * 3600
        await callers.identify(bearer(alice))
        told_of.append(len(lapsed))
    assert (told_of, lapsed) == ([0, 1, 1, 1], [caller.user_id])


async def test_limits_go_with_whom_they_were_of(database: Database, alice: str) -> None:
    await limit(database, 1, user="alice")
    await Users(database).delete("alice")
    assert await Limits(database).list() == []
