"""The migration to roles, sessions and the audit trail: nobody loses what they could do, and every change is kept."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest
import pytest_asyncio
from e2e.databases import fresh_database
from running import eventually

from parallama.db.migrate import migrate, migrations
from parallama.exchange import holds
from parallama.identity.grants import held, parse

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOW = datetime(2031, 1, 1, tzinfo=UTC)
USERS = [("ann", "admin", False), ("pam", "premium", False), ("bob", "basic", False), ("flo", "basic", True)]
SECRET = "hunter2-hunter2"

Heard = list[str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one(postgres: str) -> AsyncIterator[Any]:
    """A connection to a migrated database."""
    async with fresh_database(postgres) as url:
        connection = await asyncpg.connect(url)
        yield connection
        await connection.close()


@pytest_asyncio.fixture(loop_scope="module")
async def heard(one: Any) -> AsyncIterator[Heard]:
    """What the processes are told."""
    told: Heard = []

    def listen(connection: Any, pid: int, channel: str, payload: str) -> None:
        told.append(payload)

    await one.add_listener("parallama", listen)
    yield told
    await one.remove_listener("parallama", listen)


@pytest_asyncio.fixture(loop_scope="module")
async def user(one: Any) -> UUID:
    """The id of a user without roles."""
    found: UUID = await one.fetchval("INSERT INTO users (username) VALUES ($1) RETURNING id", f"u{uuid4().hex}")
    return found


async def assign(one: Any, user: UUID, role: str, expires_at: datetime | None = None) -> UUID:
    insert = (
        "INSERT INTO assignments (user_id, role_id, role, assigned_by, expires_at)"
        " SELECT $1, id, name, 'test', $3 FROM roles WHERE name = $2 RETURNING id"
    )
    made: UUID = await one.fetchval(insert, user, role, expires_at)
    return made


async def make_key(one: Any, user: UUID) -> UUID:
    insert = "INSERT INTO api_keys (user_id, digest, hint) VALUES ($1, $2, 'plm_..x') RETURNING id"
    made: UUID = await one.fetchval(insert, user, uuid4().bytes * 2)
    return made


def told(heard: Heard, payload: str) -> bool:
    return payload in heard


async def trail(one: Any, target: UUID | str) -> list[dict[str, Any]]:
    rows = await one.fetch("SELECT * FROM audit WHERE target = $1 ORDER BY id", str(target))
    return [{**row, **{side: row[side] and json.loads(row[side]) for side in ("before", "after")}} for row in rows]


async def version(one: Any, table: str, row: UUID) -> int:
    found: int = await one.fetchval(f"SELECT version FROM {table} WHERE id = $1", row)
    return found


async def test_users_who_were_there_keep_every_gateway(empty_database_url: str) -> None:
    await migrate(empty_database_url, migrations()[:2])
    one = await asyncpg.connect(empty_database_url)
    try:
        for row in [*USERS, ("anonymous", "basic", False)]:
            await one.execute("INSERT INTO users (username, role, admin) VALUES ($1, $2, $3)", *row)
        await migrate(empty_database_url, migrations()[:3])
        rows = await one.fetch("SELECT username, admin, grants(id) FROM users")
        may = {row["username"]: held(parse(row["grants"]), NOW) for row in rows}
        assert set(may) == {"ann", "pam", "bob", "flo", "anonymous"}
        assert all(holds(one.permissions, f"use_{family}") for one in may.values() for family in ("ollama", "third"))
        assert [name for name in may if may[name].admin] == ["ann"]
        assert [row["username"] for row in rows if row["admin"]] == ["flo"]
        assert not any("manage_users" in may[name].permissions for name in may if name != "ann")
        main = await one.fetch("SELECT u.username, a.role FROM assignments a JOIN users u ON u.id = user_id WHERE main")
        assert {row["username"]: row["role"] for row in main} == {name: role for name, role, _ in USERS} | {
            "anonymous": "basic"
        }
        assert await one.fetchval("SELECT count(*) FROM audit") == 0
    finally:
        await one.close()


async def test_a_fresh_database_has_the_seeded_roles_alone(one: Any) -> None:
    roles = await one.fetch("SELECT name, seeded FROM roles")
    assert dict(roles) == {"admin": True, "premium": True, "basic": True}


async def test_grants_climb_the_hierarchy_and_leave_out_what_has_ended(one: Any, user: UUID) -> None:
    low, top = f"l{user.hex[:9]}", f"t{user.hex[:9]}"
    await one.execute("INSERT INTO roles (name, permissions) VALUES ($1, '{use_x}')", top)
    await one.execute(
        "INSERT INTO roles (name, permissions, parent_id) SELECT $1, '{use_y}', id FROM roles WHERE name = $2", low, top
    )
    await assign(one, user, low, NOW)
    ended = await assign(one, user, "premium")
    await one.execute("UPDATE assignments SET ended_at = now() WHERE id = $1", ended)
    [grant] = parse(await one.fetchval("SELECT grants($1)", user))
    assert (grant.roles, grant.permissions, grant.expires_at) == ((low, top), ("use_x", "use_y"), NOW)
    assert not held([grant], NOW).roles
    assert held([grant], NOW - timedelta(microseconds=1)).until == NOW


async def test_grants_end_although_sql_made_a_circle(one: Any, user: UUID) -> None:
    name = f"c{user.hex[:9]}"
    await one.execute("INSERT INTO roles (name) VALUES ($1), ($1 || '-b')", name)
    turn = "UPDATE roles SET parent_id = (SELECT id FROM roles WHERE name = $2) WHERE name = $1"
    await one.execute(turn, name, f"{name}-b")
    await one.execute(turn, f"{name}-b", name)
    await assign(one, user, name)
    [grant] = parse(await one.fetchval("SELECT grants($1)", user))
    assert grant.roles == (name, f"{name}-b")


@pytest.mark.parametrize("statement", ["UPDATE audit SET actor = 'me'", "DELETE FROM audit", "TRUNCATE audit"])
async def test_the_audit_trail_only_grows(one: Any, user: UUID, statement: str) -> None:
    with pytest.raises(asyncpg.RaiseError, match="append-only"):
        await one.execute(statement)
    assert await trail(one, user)


async def test_the_audit_trail_tells_what_has_changed_and_by_whom(one: Any, user: UUID) -> None:
    who = {"name": "ann", "via": "api", "user_id": str(uuid4()), "request_id": str(uuid4()), "address": "10.0.0.1"}
    async with one.transaction():
        await one.execute("SELECT set_config('parallama.actor', $1, true)", orjson.dumps(who).decode())
        await one.execute("UPDATE users SET active = false WHERE id = $1", user)
    await one.execute("UPDATE users SET active = true WHERE id = $1", user)
    _, change, by_hand = await trail(one, user)
    assert (change["actor"], change["via"], change["address"]) == ("ann", "api", "10.0.0.1")
    assert [str(change[key]) for key in ("actor_id", "request_id")] == [who["user_id"], who["request_id"]]
    assert (change["action"], change["before"], change["after"]) == ("user.change", {"active": True}, {"active": False})
    assert (by_hand["via"], by_hand["actor_id"]) == ("sql", None)


async def test_what_changes_nothing_worth_telling_is_not_told(one: Any, user: UUID) -> None:
    key = await make_key(one, user)
    await one.execute("UPDATE users SET last_login_at = now(), active = active WHERE id = $1", user)
    await one.execute("UPDATE api_keys SET last_used_at = now() WHERE id = $1", key)
    assert [row["action"] for row in await trail(one, user)] == ["user.create"]
    assert [row["action"] for row in await trail(one, key)] == ["key.create"]


async def test_the_audit_trail_holds_no_secret(one: Any, user: UUID) -> None:
    await one.execute("UPDATE users SET password = $2 WHERE id = $1", user, SECRET)
    key = await make_key(one, user)
    value = {"upstream": {"api_key": SECRET, "client_secret": None}, "urls": [f"http://me:{SECRET}@host/x", 3, None]}
    await one.execute("INSERT INTO settings (name, value) VALUES ($1, $2)", user.hex, json.dumps(value))
    *_, change = await trail(one, user)
    assert (change["before"], change["after"]) == ({"password": None}, {"password": "********"})
    assert (await trail(one, key))[0]["after"]["digest"] == "********"
    assert (await trail(one, user.hex))[0]["after"]["value"] == {
        "upstream": {"api_key": "********", "client_secret": None},
        "urls": ["http://********@host/x", 3, None],
    }
    assert not await one.fetchval("SELECT EXISTS (SELECT FROM audit a WHERE a::text LIKE $1)", f"%{SECRET}%")


async def test_what_goes_with_a_user_is_told_as_theirs(one: Any, user: UUID) -> None:
    key, assignment = await make_key(one, user), await assign(one, user, "basic")
    name = await one.fetchval("SELECT username FROM users WHERE id = $1", user)
    await one.execute("DELETE FROM users WHERE id = $1", user)
    for target, kind in ((user, "user"), (key, "key"), (assignment, "assignment")):
        *_, gone = await trail(one, target)
        assert (gone["action"], gone["username"], gone["after"]) == (f"{kind}.delete", name, None)
        assert gone["before"]["id"] == str(target)


async def test_versions_count_what_may_collide(one: Any, user: UUID) -> None:
    key = await make_key(one, user)
    await one.execute("UPDATE users SET active = false WHERE id = $1", user)
    await one.execute("UPDATE users SET last_login_at = now() WHERE id = $1", user)
    await one.execute("UPDATE api_keys SET enabled = false WHERE id = $1", key)
    await one.execute("UPDATE api_keys SET last_used_at = now() WHERE id = $1", key)
    assert (await version(one, "users", user), await version(one, "api_keys", key)) == (2, 2)


async def test_every_process_hears_of_what_it_may_have_kept(one: Any, user: UUID, heard: Heard) -> None:
    role = await one.fetchval("INSERT INTO roles (name) VALUES ($1) RETURNING id", f"h{user.hex[:9]}")
    key, old, new = await make_key(one, user), uuid4().bytes * 2, uuid4().bytes * 2
    session = await one.fetchval(
        "INSERT INTO sessions (user_id, created_at, last_used_at, expires_at) VALUES ($1, now(), now(), now())"
        " RETURNING id", user
    )  # fmt: skip
    changes = [
        (f"user {user}", "UPDATE users SET active = false WHERE id = $1", user),
        (f"user {user}", "INSERT INTO assignments (user_id, role, assigned_by) VALUES ($1, 'x', 'test')", user),
        (f"user {user}", "UPDATE assignments SET ended_at = now() WHERE user_id = $1", user),
        (f"role {role}", "UPDATE roles SET permissions = '{use_x}' WHERE id = $1", role),
        (f"role {role}", "DELETE FROM roles WHERE id = $1", role),
        (f"session {session}", "UPDATE sessions SET generation = 1 WHERE id = $1", session),
        (f"session {session}", "UPDATE sessions SET revoked_at = now() WHERE id = $1", session),
        (f"session {session}", "DELETE FROM sessions WHERE id = $1", session),
        (f"settings {user}", "INSERT INTO settings (name, value) VALUES ($1::uuid::text, '{}')", user),
        (f"settings {user}", "UPDATE settings SET value = '{\"a\": 1}' WHERE name = $1::uuid::text", user),
        (f"settings {user}", "DELETE FROM settings WHERE name = $1::uuid::text", user),
    ]
    for payload, statement, of in changes:
        heard.clear()
        await one.execute(statement, of)
        await eventually(partial(told, heard, payload))
    heard.clear()
    await one.execute("UPDATE api_keys SET digest = $2, previous_digest = $3 WHERE id = $1", key, new, old)
    await eventually(lambda: {f"key {new.hex()}", f"key {old.hex()}"} < set(heard))  # and the one that it had


async def test_what_no_process_keeps_is_not_heard(one: Any, user: UUID, heard: Heard) -> None:
    key = await make_key(one, user)
    await eventually(lambda: any(told.startswith("key") for told in heard))
    heard.clear()
    await one.execute("UPDATE users SET last_login_at = now() WHERE id = $1", user)
    await one.execute("UPDATE api_keys SET last_used_at = now() WHERE id = $1", key)
    await one.execute("SELECT pg_notify('parallama', 'the end')")
    await eventually(lambda: "the end" in heard)
    assert heard == ["the end"]
