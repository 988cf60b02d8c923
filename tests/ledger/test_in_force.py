"""Which limits are in force of those who have used something, and when that has changed last by which they are made."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from usage_rows import make_row, store

from parallama.db.pool import Database
from parallama.identity.api_keys import ApiKeys
from parallama.identity.assignments import Assignments
from parallama.identity.in_force import InForce, limits_in_force
from parallama.identity.limits import Limits
from parallama.identity.roles import Roles
from parallama.identity.terms import Subject
from parallama.identity.users import Users


@pytest.fixture
async def alice(database: Database) -> Any:
    """Her record, and that of her key, with which she has asked."""
    user = await Users(database).create("Alice")
    _, key = await ApiKeys(database).create("Alice")
    await store(database, [make_row(user_id=user.id, key_id=key.id, username="Alice")])
    return user, key


async def found(database: Database) -> dict[tuple[str, str], InForce]:
    """By whose they are and what they count."""
    since = datetime.now(UTC) - timedelta(days=31)
    return {(one.whose, one.limit.scope.meter): one for one in await limits_in_force(database, since)}


async def long_ago(database: Database) -> None:
    async with database.connection() as one, one.transaction():
        await one.execute("SET LOCAL session_replication_role = replica")
        await one.execute("UPDATE audit SET at = at - interval '70 days'")


async def test_those_of_the_user_of_roles_and_of_keys(database: Database, alice: Any) -> None:
    user, key = alice
    limits = Limits(database)
    await Roles(database).create("staff")
    await Assignments(database).assign("alice", "staff")
    await limits.create(Subject(role="staff"), "requests", "day", amount=10)
    await limits.create(Subject(role="staff"), "total_tokens", "day", amount=20)
    await limits.create(Subject(user="alice"), "requests", "day", amount=5)
    await limits.create(Subject(key=key.id), "output_tokens", "day", amount=7)
    amounts = {
        (whose, meter): (one.limit.subject, one.limit.amount) for (whose, meter), one in (await found(database)).items()
    }
    assert amounts == {
        ("user alice", "requests"): (user.id, 5),
        ("user alice", "total_tokens"): (user.id, 20),
        (f"key {key.id} of alice", "output_tokens"): (key.id, 7),
    }


async def test_who_has_used_nothing_is_not_asked_for(database: Database, alice: Any) -> None:
    await Users(database).create("bob")
    await Limits(database).create(Subject(user="bob"), "requests", "day", amount=10)
    assert await found(database) == {}


async def test_every_change_by_which_a_limit_is_made_is_told(database: Database, alice: Any) -> None:
    limits = Limits(database)
    await Roles(database).create("staff")
    made = await limits.create(Subject(user="alice"), "requests", "day", amount=5)

    async def assign() -> None:
        await Assignments(database).assign("alice", "staff", expires_at=datetime.now(UTC) + timedelta(days=1))

    changes = [
        lambda: limits.update(made.id, changes={"amount": 6}),
        assign,
        lambda: limits.create(Subject(role="staff"), "total_tokens", "day", amount=20),
        lambda: Roles(database).update("staff", changes={"permissions": ["use_*"]}),
        lambda: Assignments(database).remove("alice", "staff"),
        lambda: limits.create(Subject(key=alice[1].id), "requests", "day", amount=7),
    ]
    for change in changes:
        await long_ago(database)
        assert (await found(database))["user alice", "requests"].since is None
        await change()
        since = (await found(database))["user alice", "requests"].since
        assert since is not None
        assert since > datetime.now(UTC) - timedelta(hours=1)


async def test_a_change_of_somebody_else_is_none(database: Database, alice: Any) -> None:
    await Users(database).create("bob")
    await Limits(database).create(Subject(user="alice"), "requests", "day", amount=5)
    await long_ago(database)
    await Limits(database).create(Subject(user="bob"), "requests", "day", amount=10)
    assert (await found(database))["user alice", "requests"].since is None


async def test_a_role_that_has_expired_is_a_change(database: Database, alice: Any) -> None:
    await Roles(database).create("staff")
    await Limits(database).create(Subject(user="alice"), "requests", "day", amount=5)
    await Assignments(database).assign("alice", "staff", expires_at=datetime.now(UTC) + timedelta(days=1))
    await long_ago(database)
    async with database.connection() as one:
        await one.execute("UPDATE assignments SET expires_at = now() - interval '1 minute' WHERE role = 'staff'")
    since = (await found(database))["user alice", "requests"].since
    assert since is not None
