"""Assignments of roles: from when to when they hold, what stands in their way, and who may make them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
import pytest_asyncio
from e2e.databases import fresh_database
from running import PATIENT

from parallama.db.pool import Database
from parallama.errors import Conflict, Invalid, NotAllowed, NotFound
from parallama.exchange import Caller
from parallama.identity.actor import Actor
from parallama.identity.assignments import Assignments
from parallama.identity.audit import AuditTrail
from parallama.identity.roles import Roles
from parallama.identity.users import Users

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOW = datetime(2031, 1, 1, tzinfo=UTC)
SOON = NOW + timedelta(seconds=1)
BASIC, PREMIUM = (
    {"basic_rate_limits", "use_ollama"},
    {"premium_rate_limits", "use_anthropic", "use_ollama", "use_openai"},
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(postgres: str) -> AsyncIterator[Database]:
    async with fresh_database(postgres) as url, Database(url, PATIENT).running() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def bob(database: Database) -> str:
    """The name of a basic user."""
    return (await Users(database).create(f"bob-{uuid4().hex[:9]}")).username


@pytest.fixture
def assignments(database: Database) -> Assignments:
    return at(database, NOW)


def at(database: Database, moment: datetime) -> Assignments:
    return Assignments(database, now=lambda: moment)


def by(database: Database, permissions: Iterable[str], admin: bool = False) -> Assignments:
    """Of somebody who holds these permissions."""
    caller = Caller(user_id=uuid4(), username="may", key_id=None, admin=admin, permissions=frozenset(permissions))
    return Assignments(database, Actor(name="may", via="api", caller=caller), now=lambda: NOW)


async def may(database: Database, name: str, moment: datetime = NOW) -> set[str]:
    users = Users(database, now=lambda: moment)
    return set((await users.permissions_of((await users.get(name)).id)).permissions)


async def test_a_role_is_held_to_the_moment_of_its_expiry(
    database: Database, assignments: Assignments, bob: str
) -> None:
    made = await assignments.assign(bob.upper(), "premium", expires_at=SOON)
    assert (made.username, made.role, made.main, made.assigned_by) == (bob, "premium", False, "server")
    assert (made.assigned_at, made.expires_at, made.ended_at, made.state(NOW)) == (NOW, SOON, None, "active")
    assert await may(database, bob, SOON - timedelta(microseconds=1)) == BASIC | PREMIUM
    assert await may(database, bob, SOON) == BASIC
    assert [one.role for one in await at(database, SOON).list(bob)] == ["basic"]
    past = await at(database, SOON).get(bob, made.id)
    assert (past, past.state(SOON)) == (made, "expired")


async def test_a_role_is_held_once_at_a_time(database: Database, assignments: Assignments, bob: str) -> None:
    made = await assignments.assign(bob, "premium", expires_at=SOON)
    with pytest.raises(Conflict, match=rf"{bob} has the role premium already \(assignment {made.id}\): change its"):
        await assignments.assign(bob, "premium")
    with pytest.raises(Conflict, match="for good, as the main role"):
        await assignments.assign(bob, "basic", expires_at=SOON)
    again = await at(database, SOON).assign(bob, "premium")
    assert again.id != made.id
    assert [one.state(SOON) for one in await at(database, SOON).list(bob, ended=True)].count("expired") == 1


async def test_of_many_who_assign_at_once_one_does(assignments: Assignments, bob: str) -> None:
    for _ in range(6):  # the first time they come one after the other, for want of connections
        changes = [assignments.assign(bob, "premium") for _ in range(5)]
        outcomes = await asyncio.gather(*changes, return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["AssignmentRecord", *["Conflict"] * 4]
        await assignments.remove(bob, "premium")


@pytest.mark.parametrize("moment", [NOW, NOW - timedelta(days=1), datetime(9999, 12, 31, tzinfo=UTC)])
async def test_an_expiry_lies_ahead(assignments: Assignments, bob: str, moment: datetime) -> None:
    with pytest.raises(Invalid, match="must lie in the future"):
        await assignments.assign(bob, "premium", expires_at=moment)
    made = await assignments.assign(bob, "premium")
    with pytest.raises(Invalid, match="must lie in the future"):
        await assignments.change(bob, made.id, expires_at=moment)


async def test_an_expiry_can_be_moved_and_taken_away(database: Database, assignments: Assignments, bob: str) -> None:
    made = await assignments.assign(bob, "premium")
    assert (await assignments.change(bob, made.id, expires_at=SOON)).expires_at == SOON
    assert await may(database, bob, SOON) == BASIC
    with pytest.raises(Conflict, match="has expired already"):
        await at(database, SOON).change(bob, made.id, expires_at=None)
    assert (await assignments.change(bob, made.id, expires_at=None)).expires_at is None
    assert await may(database, bob, SOON) == BASIC | PREMIUM


async def test_the_main_role_does_not_expire(assignments: Assignments, bob: str) -> None:
    [main] = await assignments.list(bob)
    assert main.main
    with pytest.raises(Conflict, match=f"basic is the main role of {bob}"):
        await assignments.change(bob, main.id, expires_at=SOON)


async def test_what_is_taken_away_is_gone_at_once_and_kept_as_history(
    database: Database, assignments: Assignments, bob: str
) -> None:
    made = await assignments.assign(bob, "premium")
    ended = await assignments.end(bob, made.id)
    assert (ended.ended_at, ended.ended_by, ended.state(NOW)) == (NOW, "server", "ended")
    assert await may(database, bob) == BASIC
    with pytest.raises(Conflict, match="has ended already"):
        await assignments.end(bob, made.id)
    assert made.id in [one.id for one in await assignments.list(bob, ended=True)]


async def test_a_role_is_removed_by_its_name(database: Database, assignments: Assignments, bob: str) -> None:
    await assignments.assign(bob, "premium", expires_at=SOON)
    assert (await assignments.remove(bob, "premium")).ended_at == NOW
    for role in ("premium", "none", "a\0"):
        with pytest.raises(NotFound, match="does not have the role"):
            await assignments.remove(bob, role)
    assert (await assignments.remove(bob, "basic")).main
    assert await may(database, bob) == set()
    assert (await Users(database).get(bob)).role is None


async def test_a_renamed_role_is_held_by_its_new_name(database: Database, assignments: Assignments, bob: str) -> None:
    name = f"r{uuid4().hex[:9]}"
    await Roles(database).create(name, permissions=["view_metrics"])
    made = await assignments.assign(bob, name)
    await Roles(database).update(name, changes={"name": f"{name}-x"})
    assert (await assignments.get(bob, made.id)).role == f"{name}-x"
    assert await may(database, bob) == BASIC | {"view_metrics"}
    await Roles(database).delete(f"{name}-x", cascade=True)
    assert (await assignments.get(bob, made.id)).role == f"{name}-x"


async def test_what_there_is_not_is_named(assignments: Assignments, bob: str) -> None:
    for name in ("nobody", str(uuid4()), "a\0b"):
        with pytest.raises(NotFound, match="there is no user"):
            await assignments.assign(name, "basic")
    with pytest.raises(Invalid, match="there is no role 'none': it must be one of"):
        await assignments.assign(bob, "none")
    with pytest.raises(NotFound, match=f"{bob} has no assignment with the id"):
        await assignments.end(bob, uuid4())


async def test_an_assignment_is_had_by_its_user_alone(database: Database, assignments: Assignments, bob: str) -> None:
    made = await assignments.assign(bob, "premium")
    pam = (await Users(database).create(f"pam-{uuid4().hex[:9]}")).username
    with pytest.raises(NotFound):
        await assignments.get(pam, made.id)
    with pytest.raises(NotFound):
        await assignments.end(pam, made.id)


async def test_assignments_are_listed_in_parts(database: Database, assignments: Assignments, bob: str) -> None:
    for turn in range(4):
        made = await at(database, NOW + turn * timedelta(seconds=1)).assign(bob, "premium")
        await at(database, NOW + turn * timedelta(seconds=1)).end(bob, made.id)
    whole, parts = await assignments.list(bob, ended=True), await assignments.list(bob, ended=True, limit=2)
    assert [one.assigned_at for one in whole] == sorted(one.assigned_at for one in whole)
    while part := await assignments.list(bob, ended=True, after=(parts[-1].assigned_at, parts[-1].id), limit=2):
        parts += part
    assert (len(parts), parts) == (5, whole)


async def test_nobody_gives_or_takes_more_than_they_hold(
    database: Database, assignments: Assignments, bob: str
) -> None:
    mine = by(database, ["manage_roles", *BASIC])
    with pytest.raises(NotAllowed, match="you lack premium_rate_limits, use_anthropic, use_openai"):
        await mine.assign(bob, "premium")
    with pytest.raises(NotAllowed, match="only an admin"):
        await mine.assign(bob, "admin")
    made = await assignments.assign(bob, "premium")
    for change in (mine.change(bob, made.id, expires_at=SOON), mine.end(bob, made.id), mine.remove(bob, "premium")):
        with pytest.raises(NotAllowed):
            await change
    assert (await by(database, PREMIUM).end(bob, made.id)).ended_by == "may"
    assert (await by(database, [], admin=True).assign(bob, "admin")).assigned_by == "may"
    with pytest.raises(NotAllowed, match="only an admin"):  # bob is one now
        await mine.remove(bob, "basic")


async def test_the_last_admin_stays_one(postgres: str) -> None:
    async with fresh_database(postgres) as url, Database(url, PATIENT).running() as database:
        assignments, users = at(database, NOW), Users(database, now=lambda: NOW)
        await users.create("ann")
        made = await assignments.assign("ann", "admin")
        await users.create("flo", admin=True)
        await users.update("flo", active=False)
        for change in (assignments.end("ann", made.id), assignments.remove("ann", "admin")):
            with pytest.raises(Conflict, match="make another admin first"):
                await change
        await users.update("flo", active=True)
        assert (await assignments.end("ann", made.id)).ended_at == NOW


async def test_an_admin_for_a_while_is_not_the_last_one(postgres: str) -> None:
    async with fresh_database(postgres) as url, Database(url, PATIENT).running() as database:
        assignments, users = at(database, NOW), Users(database, now=lambda: NOW)
        await users.create("ann")
        made = await assignments.assign("ann", "admin")
        await users.create("flo")
        short = await assignments.assign("flo", "admin", expires_at=SOON)
        with pytest.raises(Conflict, match="no admin whose role does not expire would be left"):
            await assignments.end("ann", made.id)
        with pytest.raises(Conflict, match="make another admin first"):
            await assignments.change("ann", made.id, expires_at=SOON)
        with pytest.raises(Conflict, match="make another admin first"):
            await users.delete("ann")
        await assignments.change("flo", short.id, expires_at=None)
        assert (await assignments.change("ann", made.id, expires_at=SOON)).expires_at == SOON


async def test_two_admins_cannot_both_go_at_once(postgres: str) -> None:
    async with fresh_database(postgres) as url, Database(url, PATIENT).running() as database:
        assignments = at(database, NOW)
        for name in ("ann", "flo"):
            await Users(database).create(name, role="admin")
        outcomes = await asyncio.gather(
            *(assignments.remove(name, "admin") for name in ("ann", "flo")), return_exceptions=True
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["AssignmentRecord", "Conflict"]


async def test_the_audit_trail_tells_of_assignments(database: Database, assignments: Assignments, bob: str) -> None:
    made = await assignments.assign(bob, "premium")
    await assignments.end(bob, made.id)
    ended, given = await AuditTrail(database).list(target=str(made.id))
    assert (given.action, given.name, given.username) == ("assignment.create", "premium", bob)
    assert ended.after is not None
    assert (ended.action, set(ended.after)) == ("assignment.change", {"ended_at", "ended_by"})
