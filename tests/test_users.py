"""The records of users: names, roles, who may change whom, and what the audit trail keeps of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from parallama.cli.quickstart import ADMIN, _first_key
from parallama.config import Settings
from parallama.db.pool import Database
from parallama.db.query import Query
from parallama.errors import Conflict, Invalid, NotAllowed, NotFound, Outdated
from parallama.exchange import Caller
from parallama.identity import keys
from parallama.identity.actor import Actor
from parallama.identity.api_keys import ApiKeys
from parallama.identity.users import _USERNAME, Users

OPEN_SESSION = Query(
    "open",
    (),
    "INSERT INTO sessions (user_id, created_at, last_used_at, expires_at)"
    " VALUES ($1, now(), now(), now() + interval '1 day')",
)
SESSIONS = Query("sessions", (), "SELECT revoked_for FROM sessions WHERE user_id = $1")
TRAIL = Query("trail", (), "SELECT * FROM audit ORDER BY id")
LEAD = Query("lead", (), "INSERT INTO roles (name, permissions) VALUES ('lead', '{manage_users,use_*}')")
BELOW_ADMIN = Query(
    "deputy", (), "INSERT INTO roles (name, parent_id) SELECT 'deputy', id FROM roles WHERE name = 'admin'"
)
ASSIGN = Query(
    "assign",
    (),
    "INSERT INTO assignments (user_id, role_id, role, assigned_by, expires_at)"
    " SELECT $1, id, name, 'test', $3 FROM roles WHERE name = $2",
)


@pytest.fixture
def users(database: Database) -> Users:
    return Users(database)


def acting(*permissions: str, admin: bool = False) -> Actor:
    """One who asks by the API and holds these permissions."""
    user_id = uuid4()
    caller = Caller(user_id=user_id, username="boss", key_id=uuid4(), admin=admin, permissions=frozenset(permissions))
    return Actor(name="boss", via="api", user_id=user_id, request_id=uuid4(), address="192.0.2.7", caller=caller)


BASIC = ("basic_rate_limits", "use_ollama")


async def test_a_new_user_is_active_and_basic(users: Users) -> None:
    made = await users.create("alice")
    assert (made.username, made.role, made.roles, made.admin) == ("alice", "basic", ["basic"], False)
    assert (made.active, made.has_password, made.last_login_at, made.version) == (True, False, None, 1)
    assert abs(datetime.now(UTC) - made.created_at) < timedelta(minutes=5)
    assert made.created_at.utcoffset() == timedelta(0)
    assert await users.get("alice") == made
    assert orjson.loads(orjson.dumps(made))["id"] == str(made.id)


async def test_a_user_is_named_in_any_case_or_by_id(users: Users) -> None:
    made = await users.create("Alice")
    for name in ("alice", "ALICE", str(made.id), made.id.hex):
        assert await users.get(name) == made


async def test_a_name_is_given_once_in_whatever_case(users: Users) -> None:
    await users.create("alice")
    with pytest.raises(Conflict, match="ALICE is taken"):
        await users.create("ALICE", admin=True)
    assert [user.admin for user in await users.list()] == [False]


async def test_a_user_may_be_renamed_but_not_to_a_name_that_is_taken(users: Users) -> None:
    made = await users.create("alice")
    await users.create("bob")
    assert (await users.update("alice", username="Alice.B")).username == "Alice.B"
    with pytest.raises(Conflict, match="BOB is taken"):
        await users.update(str(made.id), username="BOB", active=False)
    assert (await users.get("alice.b")).active is True


@pytest.mark.parametrize("name", ["a", "0", "a.b_c@d-e", "x" * 63])
def test_good_names(name: str) -> None:
    assert _USERNAME.fullmatch(name)


@pytest.mark.parametrize(
    "name", ["", " a", "a b", "-a", ".a", "a\n", "é", "x" * 64, "a\x00", str(UUID(int=1)), "a" * 32]
)
async def test_a_bad_name_is_refused_in_words(name: str) -> None:
    users = Users(None)  # type: ignore[arg-type]  # it is refused before the database is asked
    for attempt in (users.create(name), users.update("alice", username=name), users.ensure(name)):
        with pytest.raises(Invalid, match=r"is no user name: it (must be a letter|reads as an id)"):
            await attempt


async def test_an_unknown_role_is_refused_with_the_ones_there_are(users: Users) -> None:
    await users.create("alice")
    for role in ("boss", "bo\x00ss"):
        for attempt in (users.create("bob", role=role), users.update("alice", role=role), users.list(role)):
            with pytest.raises(Invalid, match="it must be one of admin, basic, premium"):
                await attempt
    assert [user.role for user in await users.list()] == ["basic"]


async def test_users_are_listed_by_name_role_and_state_in_parts(users: Users, database: Database) -> None:
    for name, role in (("Bob", "premium"), ("alice", "basic"), ("carol", "premium")):
        await users.create(name, role=role)
    await users.update("carol", active=False)

    async def names(*args: Any, **kwargs: Any) -> list[str]:
        return [user.username for user in await users.list(*args, **kwargs)]

    assert await names() == ["alice", "Bob", "carol"]
    assert await names("premium") == ["Bob", "carol"]
    assert await names("premium", active=True) == ["Bob"]
    assert await names(active=False) == ["carol"]
    assert await names(limit=2) == ["alice", "Bob"]
    assert await names(after="bob", limit=2) == ["carol"]
    with pytest.raises(Invalid):
        await users.list(after="b\x00")
    alice = await users.get("alice")
    await database.execute(ASSIGN, alice.id, "premium", None)
    assert await names("premium") == ["alice", "Bob", "carol"]


async def test_an_assignment_counts_until_the_second_of_its_expiry(database: Database) -> None:
    clock = [datetime.now(UTC)]
    users = Users(database, now=lambda: clock[0])
    await users.create("root", admin=True)
    alice = await users.create("alice")
    end = clock[0] + timedelta(hours=1)
    await database.execute(ASSIGN, alice.id, "admin", end)
    clock[0] = end - timedelta(milliseconds=1)
    assert (await users.permissions_of(alice.id)).admin is True
    assert ((await users.get("alice")).admin, (await users.get("alice")).roles) == (True, ["admin", "basic"])
    clock[0] = end
    assert await users.permissions_of(alice.id) == (frozenset(BASIC), False)
    assert ((await users.get("alice")).admin, (await users.get("alice")).roles) == (False, ["basic"])


async def test_an_admin_is_one_by_flag_by_role_or_by_a_role_below_it(users: Users, database: Database) -> None:
    await database.execute(BELOW_ADMIN)
    await users.create("flag", admin=True)
    await users.create("role", role="admin")
    await users.create("deputy", role="deputy")
    assert [user.admin for user in await users.list()] == [True, True, True]
    assert (await users.update("flag", admin=False)).admin is False
    assert (await users.update("role", role="basic")).admin is False


async def test_an_update_changes_only_what_is_named(users: Users) -> None:
    await users.create("root", admin=True)
    made = await users.create("alice", role="premium", admin=True)
    changed = await users.update("alice", active=False)
    assert (changed.id, changed.role, changed.admin, changed.active) == (made.id, "premium", True, False)
    changed = await users.update(str(made.id), role="basic", admin=False, active=True)
    assert (changed.role, changed.admin, changed.active) == ("basic", False, True)


async def test_another_main_role_ends_the_one_before_and_keeps_the_others(users: Users, database: Database) -> None:
    made = await users.create("alice")
    await database.execute(LEAD)
    for role in ("lead", "premium"):
        await database.execute(ASSIGN, made.id, role, None)
    changed = await users.update("alice", role="premium")
    assert (changed.role, changed.roles, changed.version) == ("premium", ["lead", "premium"], made.version + 1)
    history = Query("history", (), "SELECT role, ended_by FROM assignments WHERE main ORDER BY ended_at")
    rows = await database.fetch(history)
    assert [tuple(row) for row in rows] == [("basic", "server"), ("premium", None)]


async def test_who_would_change_what_was_changed_meanwhile_is_told(users: Users) -> None:
    made = await users.create("alice")
    changed = await users.update("alice", active=False, version=made.version)
    for attempt in (
        users.update("alice", role="premium", version=made.version),
        users.set_password("alice", "x", version=made.version),
        users.delete("alice", version=made.version),
    ):
        with pytest.raises(Outdated, match=f"it is at version {changed.version}"):
            await attempt
    assert await users.get("alice") == changed


async def test_of_two_changes_of_one_version_one_is_told(users: Users) -> None:
    made = await users.create("alice")
    attempts = [users.update("alice", role=role, version=made.version) for role in ("premium", "admin")]
    told = await asyncio.gather(*attempts, return_exceptions=True)
    assert [type(one) for one in told].count(Outdated) == 1


async def test_the_last_admin_stays_one(users: Users, database: Database) -> None:
    root = await users.create("root", admin=True)
    idle = await users.create("idle", role="admin")
    await users.update("idle", active=False)
    for attempt in (
        users.update("root", admin=False),
        users.update("root", active=False),
        users.delete("root"),
    ):
        with pytest.raises(Conflict, match="make another admin first"):
            await attempt
    assert await users.get("root") == root
    await users.update("idle", active=True)
    await users.delete("root")
    with pytest.raises(Conflict, match="make another admin first"):
        await users.update(str(idle.id), role="premium")


async def test_two_who_leave_at_once_do_not_leave_nobody(users: Users) -> None:
    for name in ("one", "two"):
        await users.create(name, admin=True)
    told = await asyncio.gather(users.delete("one"), users.delete("two"), return_exceptions=True)
    assert [type(one) for one in told if one is not None] == [Conflict]
    assert [user.admin for user in await users.list()] == [True]


async def test_where_there_never_was_an_admin_users_may_still_go(users: Users) -> None:
    await users.create("alice")
    await users.update("alice", active=False)
    await users.delete("alice")
    assert await users.list() == []


async def test_who_manages_users_cannot_touch_those_who_may_more(database: Database) -> None:
    server, actor = Users(database), acting("manage_users", *BASIC)
    await server.create("root", admin=True)
    await server.create("paid", role="premium")
    users, their_keys = Users(database, actor), ApiKeys(database, actor)
    _, record = await ApiKeys(database).create("root")
    attempts: list[Awaitable[object]] = [
        *(users.update("root", active=False), users.set_password("root", "x"), users.delete("root")),
        *(users.update("paid", username="mine"), users.set_password("paid", "x"), users.delete("paid")),
        *(
            their_keys.create("root"),
            their_keys.create("paid"),
            their_keys.rotate(record.id, grace_s=0),
            their_keys.delete(record.id),
        ),
        *(
            their_keys.update(record.id, changes={"enabled": False}),
            their_keys.revoke(record.id),
            their_keys.revoke_all("root"),
        ),
    ]
    for attempt in attempts:
        with pytest.raises(NotAllowed, match=r"only an admin may|you lack"):
            await attempt
    assert {user.username: user.version for user in await server.list()} == {"paid": 1, "root": 1}
    assert [key.version for key in await their_keys.list()] == [1]


async def test_who_manages_users_hands_out_no_more_than_they_hold(database: Database) -> None:
    users = Users(database, acting("manage_users", *BASIC))
    made = await users.create("alice")
    for attempt, told in (
        (users.create("eve", admin=True), "only an admin may make"),
        (users.create("eve", role="admin"), "only an admin may make"),
        (users.create("eve", role="premium"), "you lack premium_rate_limits, use_anthropic, use_openai"),
        (users.update("alice", admin=True), "only an admin may make"),
        (users.update("alice", role="admin"), "only an admin may give the role admin"),
        (users.update("alice", role="premium"), "to give the role premium .* you lack"),
    ):
        with pytest.raises(NotAllowed, match=told):
            await attempt
    assert await users.list() == [made]


async def test_who_holds_as_much_may_change_and_hand_it_out(database: Database) -> None:
    await Users(database).create("paid", role="premium")
    users = Users(database, acting("manage_users", "use_*", "premium_rate_limits", "basic_rate_limits"))
    assert (await users.update("paid", role="basic")).role == "basic"
    assert (await users.update("paid", role="premium")).role == "premium"
    await Users(database, acting(admin=True)).create("root", admin=True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"active": False}, "inactive"), ({"password": "x"}, "password"), ({"password": None}, "password")],
)
async def test_deactivation_and_another_password_end_all_sessions(
    users: Users, database: Database, change: dict[str, Any], reason: str
) -> None:
    alice, bob = await users.create("alice", password_hash="old"), await users.create("bob")
    for user in (alice, alice, bob):
        await database.execute(OPEN_SESSION, user.id)
    if "password" in change:
        assert (await users.set_password("alice", change["password"])).has_password is (change["password"] is not None)
    else:
        await users.update("alice", **change)
    assert [row["revoked_for"] for row in await database.fetch(SESSIONS, alice.id)] == [reason, reason]
    assert [row["revoked_for"] for row in await database.fetch(SESSIONS, bob.id)] == [None]


async def test_other_changes_leave_the_sessions(users: Users, database: Database) -> None:
    alice = await users.create("alice")
    await database.execute(OPEN_SESSION, alice.id)
    await users.update("alice", role="premium", username="al", active=True)
    assert [row["revoked_for"] for row in await database.fetch(SESSIONS, alice.id)] == [None]


async def test_a_login_is_noted_and_a_rehash_ends_no_session(users: Users, database: Database) -> None:
    alice = await users.create("Alice", password_hash="old")
    await database.execute(OPEN_SESSION, alice.id)
    await users.logged_in(alice.id, None)
    noted = await users.get("alice")
    assert noted.last_login_at is not None
    assert noted.version == alice.version
    await users.logged_in(alice.id, "better", instead_of="old")
    found = await users.password_of("ALICE")
    assert found is not None
    assert (found.user_id, found.username, found.active, found.password) == (alice.id, "Alice", True, "better")
    assert [row["revoked_for"] for row in await database.fetch(SESSIONS, alice.id)] == [None]


async def test_a_rehash_does_not_undo_a_change_of_the_password(users: Users) -> None:
    alice = await users.create("alice", password_hash="old")
    await users.set_password("alice", "new")
    await users.logged_in(alice.id, "old, rehashed", instead_of="old")
    found = await users.password_of("alice")
    assert found is not None
    assert found.password == "new"


@pytest.mark.parametrize("name", ["nobody", "", "n\x00"])
async def test_a_login_as_nobody_is_judged_by_nothing(users: Users, name: str) -> None:
    assert await users.password_of(name) is None


async def test_a_user_who_is_made_sure_of_is_made_once_and_left_alone(users: Users) -> None:
    await users.ensure("anonymous")
    assert (await users.get("anonymous")).role == "basic"
    await users.update("anonymous", active=False)
    await users.ensure("ANONYMOUS")
    assert [(user.active, user.username) for user in await users.list()] == [(False, "anonymous")]


async def test_a_deleted_user_goes_with_all_keys(users: Users, database: Database) -> None:
    await users.create("alice")
    _, record = await ApiKeys(database).create("alice")
    await users.delete("ALICE")
    with pytest.raises(NotFound, match="no user 'alice'"):
        await users.get("alice")
    with pytest.raises(NotFound, match=str(record.id)):
        await ApiKeys(database).get(record.id)


async def test_a_user_who_is_not_there_is_named(users: Users, database: Database) -> None:
    records = ApiKeys(database)
    for name in ("nobody", "", "no body", "n\x00", "0b92d34f-f64e-4067-af1e-0f565d5a3e72"):
        for attempt in (
            *(users.get(name), users.update(name, active=True), users.set_password(name, "x"), users.delete(name)),
            *(records.create(name), records.list(name), records.revoke_all(name)),
        ):
            with pytest.raises(NotFound, match="there is no user"):
                await attempt
    with pytest.raises(NotFound, match="there is no user"):
        await users.permissions_of(uuid4())


async def test_every_change_is_put_down_to_its_actor_without_the_password(database: Database) -> None:
    actor = acting(admin=True)
    users = Users(database, actor)
    made = await users.create("alice", password_hash="$argon2id$canary")
    await users.set_password("alice", "$argon2id$canary-2")
    await users.update("alice", active=False)
    await users.update("alice", active=False)
    await users.delete("alice")
    rows = [dict(row) for row in await database.fetch(TRAIL)]
    about = [row for row in rows if row["action"].startswith("user.")]
    assert [row["action"] for row in about] == ["user.create", "user.change", "user.change", "user.delete"]
    for row in rows:
        assert (row["actor"], row["via"], row["address"]) == ("boss", "api", "192.0.2.7")
        assert (str(row["actor_id"]), str(row["request_id"])) == (str(actor.user_id), str(actor.request_id))
        assert "canary" not in str(row)
    assert {(row["target"], row["name"]) for row in about} == {(str(made.id), "alice")}
    changes = [(orjson.loads(row["before"]), orjson.loads(row["after"])) for row in about[1:3]]
    assert changes == [({"password": "********"}, {"password": "********"}), ({"active": True}, {"active": False})]


async def test_the_first_admin_has_a_key_and_no_password(database: Database, database_url: str) -> None:
    key = await _first_key(Settings(), database_url)
    assert key is not None
    (admin,) = await Users(database).list()
    assert (admin.username, admin.role, admin.admin, admin.has_password) == (ADMIN, "admin", True, False)
    assert [record.hint for record in await ApiKeys(database).list()] == [keys.hint(key)]
    assert {row["via"] for row in await database.fetch(TRAIL)} == {"command"}
    assert await _first_key(Settings(), database_url) is None


async def test_our_rule_for_names_is_the_database_s(database: Database) -> None:
    rule = Query("rule", (), "SELECT $1::text ~ '^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$' AS fits")
    constraint = Query(
        "constraint",
        (),
        "SELECT pg_get_constraintdef(oid) AS text FROM pg_constraint"
        " WHERE conrelid = 'users'::regclass AND contype = 'c'",
    )
    row = await database.fetchrow(constraint)
    assert row is not None
    assert "'^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$'" in row["text"]
    for name in ("a", "a" * 63, "a" * 64, "a\n", "é", "-", "a b", ""):
        fits = await database.fetchrow(rule, name)
        assert fits is not None
        assert fits["fits"] == bool(_USERNAME.fullmatch(name)), name
