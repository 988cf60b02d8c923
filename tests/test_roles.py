"""Roles: what they give, what stands in the way of a change, and what gateways bring."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from e2e.databases import fresh_database
from running import PATIENT, eventually

from parallama.db.pool import Database
from parallama.db.query import Query
from parallama.errors import Conflict, Invalid, NotAllowed, NotFound, Outdated
from parallama.exchange import Caller
from parallama.identity.actor import SERVER, Actor
from parallama.identity.assignments import Assignments
from parallama.identity.audit import AuditTrail
from parallama.identity.roles import Roles, seed_gateway_permissions
from parallama.identity.users import Users

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAITING = Query(
    "waiting",
    (),
    "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(postgres: str) -> AsyncIterator[Database]:
    async with fresh_database(postgres) as url, Database(url, PATIENT).running() as running:
        yield running


@pytest.fixture
def roles(database: Database) -> Roles:
    return Roles(database)


@pytest.fixture
def name() -> str:
    """Of a role that there is not."""
    return f"r{uuid4().hex[:12]}"


def actor(permissions: Iterable[str], admin: bool = False) -> Actor:
    held = frozenset(permissions)
    caller = Caller(user_id=uuid4(), username="may", key_id=None, admin=admin, permissions=held)
    return Actor(name="may", via="api", user_id=caller.user_id, caller=caller)


async def test_the_seeded_roles_are_there(roles: Roles) -> None:
    seeded = {role.name: role for role in await roles.list() if role.seeded}
    assert {name: role.permissions for name, role in seeded.items()} == {
        "admin": ["manage_models", "manage_roles", "manage_users", "premium_rate_limits", "use_*", "view_metrics"],
        "premium": ["premium_rate_limits", "use_anthropic", "use_ollama", "use_openai"],
        "basic": ["basic_rate_limits", "use_ollama"],
    }


async def test_a_role_is_what_it_was_made(roles: Roles, name: str) -> None:
    made = await roles.create(name, permissions=["use_openai", "use_*", "use_openai"], description="For all.")
    assert (made.name, made.description, made.parent, made.seeded, made.users) == (name, "For all.", None, False, 0)
    assert (made.permissions, made.inherited, made.version) == (["use_*", "use_openai"], [], 1)
    assert await roles.get(name) == made


async def test_a_role_inherits_from_all_above_it(roles: Roles, name: str) -> None:
    await roles.create(f"{name}-a", permissions=["view_metrics", "use_openai"])
    await roles.create(f"{name}-b", parent=f"{name}-a", permissions=["use_ollama"])
    low = await roles.create(f"{name}-c", parent=f"{name}-b", permissions=["use_openai"])
    assert (low.parent, low.permissions) == (f"{name}-b", ["use_openai"])
    assert low.inherited == ["use_ollama", "use_openai", "view_metrics"]
    await roles.update(f"{name}-b", changes={"parent": None})
    assert (await roles.get(low.name)).inherited == ["use_ollama"]


async def test_a_change_changes_what_it_names(roles: Roles, name: str) -> None:
    made = await roles.create(name, permissions=["use_ollama"], parent="basic", description="One.")
    changes = {"add_permissions": ["use_openai", "view_metrics"], "remove_permissions": ["use_ollama", "manage_users"]}
    changed = await roles.update(name, changes=changes, version=made.version)
    assert changed.permissions == ["use_openai", "view_metrics"]
    assert (changed.parent, changed.description, changed.version) == ("basic", "One.", made.version + 1)
    renamed = await roles.update(name, changes={"name": f"{name}-x", "permissions": [], "description": "Two."})
    assert (renamed.name, renamed.permissions, renamed.description) == (f"{name}-x", [], "Two.")
    with pytest.raises(NotFound, match=f"there is no role '{name}'"):
        await roles.get(name)


async def test_who_changes_an_older_version_is_told(roles: Roles, name: str) -> None:
    version = (await roles.create(name)).version
    await roles.update(name, changes={"description": "Mine."}, version=version)
    for change in (
        roles.update(name, changes={"description": "Yours."}, version=version),
        roles.delete(name, version=version),
    ):
        with pytest.raises(Outdated, match="version 2"):
            await change
    assert (await roles.get(name)).description == "Mine."


async def test_a_name_is_taken_once(roles: Roles, name: str) -> None:
    await roles.create(name)
    with pytest.raises(Conflict, match=f"there is a role {name} already"):
        await roles.create(name)
    await roles.create(f"{name}-x")
    with pytest.raises(Conflict, match=f"there is a role {name} already"):
        await roles.update(f"{name}-x", changes={"name": name})


@pytest.mark.parametrize("bad", ["", "Upper", "1st", "a b", "a\0", "a" * 64, "é"])
async def test_a_bad_name_is_refused(roles: Roles, bad: str) -> None:
    with pytest.raises(Invalid, match="is no name of a role"):
        await roles.create(bad)
    with pytest.raises(NotFound):
        await roles.get(bad)


async def test_what_there_is_not_cannot_be_given(roles: Roles, name: str) -> None:
    with pytest.raises(Invalid, match=r"there is no permission 'use_nothing': it must be one of .*use_\*.*use_ollama"):
        await roles.create(name, permissions=["use_nothing"])
    with pytest.raises(Invalid, match=r"there is no role 'none': it must be one of admin, basic.*premium"):
        await roles.create(name, parent="none")
    with pytest.raises(Invalid, match="one line"):
        await roles.create(name, description="two\nlines")
    with pytest.raises(NotFound):
        await roles.get(name)


async def test_seeded_roles_keep_their_names_and_admin_keeps_all(roles: Roles) -> None:
    refused: list[dict[str, Any]] = [{"name": "king"}, {"description": "x"}, {"permissions": []}, {"parent": "basic"}]
    for changes in refused:
        with pytest.raises(Conflict, match="the role admin cannot be changed"):
            await roles.update("admin", changes=changes)
    for seeded in ("premium", "basic"):
        with pytest.raises(Conflict, match="cannot be renamed"):
            await roles.update(seeded, changes={"name": "other"})
        assert (await roles.update(seeded, changes={"add_permissions": ["view_metrics"]})).seeded
        await roles.update(seeded, changes={"remove_permissions": ["view_metrics"]})
    for seeded in ("admin", "premium", "basic"):
        with pytest.raises(Conflict, match="cannot be"):
            await roles.delete(seeded, cascade=True)


async def test_a_circle_is_refused(roles: Roles, name: str) -> None:
    await roles.create(f"{name}-a")
    await roles.create(f"{name}-b", parent=f"{name}-a")
    await roles.create(f"{name}-c", parent=f"{name}-b")
    for below in ("a", "b", "c"):
        with pytest.raises(Conflict, match="cannot be below"):
            await roles.update(f"{name}-a", changes={"parent": f"{name}-{below}"})


async def test_two_changes_at_once_make_no_circle(roles: Roles, name: str) -> None:
    for turn in range(5):
        one, two = f"{name}-{turn}a", f"{name}-{turn}b"
        await roles.create(one)
        await roles.create(two)
        changes = [roles.update(one, changes={"parent": two}), roles.update(two, changes={"parent": one})]
        outcomes = await asyncio.gather(*changes, return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict", "RoleRecord"]


async def test_a_role_that_is_held_or_above_another_stays(database: Database, roles: Roles, name: str) -> None:
    await roles.create(name, permissions=["use_openai"])
    await roles.create(f"{name}-low", parent=name)
    with pytest.raises(Conflict, match=f"is the parent of {name}-low"):
        await roles.delete(name)
    await roles.update(f"{name}-low", changes={"parent": None})
    await Users(database).create(name)
    given = await Assignments(database).assign(name, name)
    assert (await roles.get(name)).users == 1
    with pytest.raises(Conflict, match=r"is held \(users: 1\)"):
        await roles.delete(name)
    await Assignments(database).end(name, given.id)
    await roles.delete(name)
    with pytest.raises(NotFound):
        await roles.get(name)
    past = await Assignments(database).get(name, given.id)
    assert (past.role, past.state(datetime.now(UTC))) == (name, "ended")


async def test_cascade_takes_it_from_all(database: Database, roles: Roles, name: str) -> None:
    await roles.create(name, permissions=["use_openai"])
    await roles.create(f"{name}-low", parent=name)
    user = await Users(database).create(name, role=name)
    await roles.delete(name, cascade=True)
    assert ((low := await roles.get(f"{name}-low")).parent, low.inherited) == (None, [])
    assert (await Users(database).permissions_of(user.id)).permissions == frozenset()
    [past] = await Assignments(database).list(name, ended=True)
    assert (past.main, past.ended_by, past.role) == (True, "server", name)
    assert await Assignments(database).list(name) == []


@pytest.mark.parametrize("change", ["UPDATE assignments SET ended_at = now(), ended_by = 'me' WHERE user_id = $1",
                                    "DELETE FROM users WHERE id = $1"])  # fmt: skip
async def test_the_end_of_a_role_and_a_change_of_its_holder_do_not_wait_for_each_other(
    database: Database, roles: Roles, name: str, change: str
) -> None:
    await roles.create(name)
    user = await Users(database).create(name, role=name)
    async with asyncio.TaskGroup() as group, database.change(SERVER.told()) as one:
        await one.execute("SELECT FROM users WHERE id = $1 FOR UPDATE", user.id)  # as every change of a user begins
        group.create_task(roles.delete(name, cascade=True))
        await eventually(lambda: database.fetchrow(WAITING))
        await one.execute(change, user.id)
    with pytest.raises(NotFound):
        await roles.get(name)


async def test_nobody_makes_a_role_that_gives_more_than_they_hold(database: Database, name: str) -> None:
    mine = Roles(database, actor(["manage_roles", "use_ollama"]))
    await mine.create(name, permissions=["use_ollama"])
    with pytest.raises(NotAllowed, match="you lack use_openai"):
        await mine.create(f"{name}-x", permissions=["use_openai", "use_ollama"])
    with pytest.raises(NotAllowed, match="you lack"):
        await mine.create(f"{name}-x", parent="premium")
    with pytest.raises(NotAllowed, match="only an admin"):
        await mine.create(f"{name}-x", parent="admin")
    for changes in ({"add_permissions": ["use_*"]}, {"parent": "premium"}, {"parent": "admin"}):
        with pytest.raises(NotAllowed):
            await mine.update(name, changes=changes)
    assert (await mine.update(name, changes={"permissions": []})).permissions == []


async def test_nobody_touches_a_role_that_gives_more_than_they_hold(
    database: Database, roles: Roles, name: str
) -> None:
    await roles.create(name, permissions=["use_openai"])
    await roles.create(f"{name}-low", parent=name)
    await roles.create(f"{name}-king", parent="admin")
    mine = Roles(database, actor(["manage_roles", "use_ollama"]))
    for other in (name, f"{name}-low", f"{name}-king", "admin"):
        with pytest.raises(NotAllowed):
            await mine.update(other, changes={"description": "Mine."})
        with pytest.raises(NotAllowed):
            await mine.delete(other)
    await Roles(database, actor([], admin=True)).delete(f"{name}-king")


async def test_the_last_admin_does_not_go_with_a_role(postgres: str) -> None:
    async with fresh_database(postgres) as url, Database(url, PATIENT).running() as database:
        roles, users = Roles(database), Users(database)
        await roles.create("boss", parent="admin")
        await users.create("ann", role="boss")
        with pytest.raises(Conflict, match="make another admin first"):
            await roles.delete("boss", cascade=True)
        with pytest.raises(Conflict, match="make another admin first"):
            await roles.update("boss", changes={"parent": None})
        assert (await users.get("ann")).admin
        await users.create("flo", admin=True)
        await roles.delete("boss", cascade=True)


async def test_roles_are_listed_in_parts(roles: Roles) -> None:
    names = [role.name for role in await roles.list()]
    assert names == sorted(names)
    parts: list[str] = []
    while part := await roles.list(after=parts[-1] if parts else None, limit=2):
        parts += [role.name for role in part]
    assert parts == names
    with pytest.raises(Invalid):
        await roles.list(after="\0")


async def test_a_new_gateway_brings_its_permission_once(database: Database, roles: Roles, name: str) -> None:
    await roles.create(name)
    await seed_gateway_permissions(database, {name: ("premium", "admin", name, "none"), "ollama": ("premium",)})
    assert f"use_{name}" in await roles.permissions()
    assert f"use_{name}" in (await roles.get("premium")).permissions
    assert f"use_{name}" not in (await roles.get("basic")).permissions
    assert f"use_{name}" not in (await roles.get("admin")).permissions  # it has every gateway
    assert (await roles.get(name)).permissions == []  # not a seeded one
    version = (await roles.update("premium", changes={"remove_permissions": [f"use_{name}"]})).version
    await seed_gateway_permissions(database, {name: ("premium", "basic"), "ollama": ()})
    assert (await roles.get("premium")).version == version
    assert f"use_{name}" not in (await roles.get("basic")).permissions


async def test_servers_that_start_together_seed_once(database: Database, roles: Roles, name: str) -> None:
    families = {f"{name}{letter}": ("basic",) for letter in "abc"}
    before = (await roles.get("basic")).version
    await asyncio.gather(*(seed_gateway_permissions(database, families) for _ in range(6)))
    basic = await roles.get("basic")
    assert {f"use_{family}" for family in families} <= set(basic.permissions)
    assert basic.version == before + len(families)


async def test_the_audit_trail_tells_who_changed_a_role(database: Database, name: str) -> None:
    mine = actor(["manage_roles", "use_ollama"])
    await Roles(database, mine).create(name)
    await Roles(database, mine).update(name, changes={"permissions": ["use_ollama"]})
    [change] = await AuditTrail(database).list(action="role.change", actor="MAY", limit=1)
    assert (change.name, change.via, change.actor_id) == (name, "api", mine.user_id)
    assert (change.before, change.after) == ({"permissions": []}, {"permissions": ["use_ollama"]})
