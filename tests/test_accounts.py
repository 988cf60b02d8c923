"""The records of users and keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from parallama.db.pool import Database
from parallama.db.query import Query
from parallama.identity import keys
from parallama.identity.accounts import Accounts, Invalid, NameTaken, Unknown

STORED = Query("stored", (), "SELECT digest, hint FROM api_keys WHERE id = $1")


@pytest.fixture
def accounts(database: Database) -> Accounts:
    return Accounts(database)


async def test_a_new_user_is_active_and_basic(accounts: Accounts) -> None:
    made = await accounts.create_user("alice")
    assert (made.username, made.role, made.admin, made.active) == ("alice", "basic", False, True)
    assert abs(datetime.now(UTC) - made.created_at) < timedelta(minutes=5)
    assert made.created_at.utcoffset() == timedelta(0)
    assert await accounts.user("alice") == made


async def test_a_user_is_named_in_any_case_or_by_id(accounts: Accounts) -> None:
    made = await accounts.create_user("Alice")
    for name in ("alice", "ALICE", str(made.id), made.id.hex):
        assert await accounts.user(name) == made


async def test_a_name_is_given_once_in_whatever_case(accounts: Accounts) -> None:
    await accounts.create_user("alice")
    with pytest.raises(NameTaken, match="ALICE is taken"):
        await accounts.create_user("ALICE", admin=True)
    assert [user.admin for user in await accounts.users()] == [False]


@pytest.mark.parametrize("name", ["a", "0", "a.b_c@d-e", "x" * 63])
async def test_good_names(accounts: Accounts, name: str) -> None:
    assert (await accounts.create_user(name)).username == name


@pytest.mark.parametrize(
    "name", ["", " a", "a b", "-a", ".a", "a\n", "é", "x" * 64, "a\x00", str(UUID(int=1)), "a" * 32]
)
async def test_a_bad_name_is_refused_in_words(accounts: Accounts, name: str) -> None:
    with pytest.raises(Invalid, match=r"is no user name: it (must be a letter|reads as an id)"):
        await accounts.create_user(name)


async def test_an_unknown_role_is_refused_with_the_ones_there_are(accounts: Accounts) -> None:
    await accounts.create_user("alice")
    for attempt in (
        accounts.create_user("bob", "boss"),
        accounts.update_user("alice", role="boss"),
        accounts.users("boss"),
    ):
        with pytest.raises(Invalid, match="'boss': it must be one of admin, premium, basic"):
            await attempt


async def test_users_are_listed_by_name_and_by_role(accounts: Accounts) -> None:
    for name, role in (("Bob", "premium"), ("alice", "basic"), ("carol", "premium")):
        await accounts.create_user(name, role)
    assert [user.username for user in await accounts.users()] == ["alice", "Bob", "carol"]
    assert [user.username for user in await accounts.users("premium")] == ["Bob", "carol"]


async def test_an_admin_is_one_by_flag_or_role(accounts: Accounts) -> None:
    await accounts.create_user("flag", admin=True)
    await accounts.create_user("role", "admin")
    assert [user.admin for user in await accounts.users()] == [True, True]
    assert (await accounts.update_user("flag", admin=False)).admin is False
    assert (await accounts.update_user("role", role="basic")).admin is False


async def test_an_update_changes_only_what_is_named(accounts: Accounts) -> None:
    made = await accounts.create_user("alice", "premium", admin=True)
    changed = await accounts.update_user("alice", active=False)
    assert (changed.id, changed.role, changed.admin, changed.active) == (made.id, "premium", True, False)
    changed = await accounts.update_user(str(made.id), role="basic", admin=False, active=True)
    assert (changed.role, changed.admin, changed.active) == ("basic", False, True)


async def test_a_user_who_is_made_sure_of_is_made_once_and_left_alone(accounts: Accounts) -> None:
    await accounts.ensure_user("anonymous")
    await accounts.update_user("anonymous", active=False)
    await accounts.ensure_user("anonymous")
    assert [user.active for user in await accounts.users()] == [False]


async def test_a_deleted_user_goes_with_all_keys(accounts: Accounts) -> None:
    await accounts.create_user("alice")
    _, record = await accounts.create_key("alice")
    await accounts.delete_user("ALICE")
    with pytest.raises(Unknown, match="no user 'alice'"):
        await accounts.user("alice")
    with pytest.raises(Unknown, match=str(record.id)):
        await accounts.key(record.id)


@pytest.mark.parametrize("name", ["nobody", "", "no body", "n\x00", "0b92d34f-f64e-4067-af1e-0f565d5a3e72"])
async def test_a_user_who_is_not_there_is_named(accounts: Accounts, name: str) -> None:
    for attempt in (
        accounts.user(name),
        accounts.update_user(name, active=True),
        accounts.delete_user(name),
        accounts.create_key(name),
        accounts.keys(name),
        accounts.revoke_all(name),
    ):
        with pytest.raises(Unknown, match="there is no user"):
            await attempt


async def test_a_key_that_is_not_there_is_named(accounts: Accounts) -> None:
    key_id = uuid4()
    for attempt in (accounts.key(key_id), accounts.revoke(key_id), accounts.delete_key(key_id)):
        with pytest.raises(Unknown, match=str(key_id)):
            await attempt


async def test_only_the_digest_and_the_hint_of_a_key_are_stored(accounts: Accounts, database: Database) -> None:
    user = await accounts.create_user("alice")
    key, record = await accounts.create_key("alice", "laptop")
    assert keys.well_formed(key)
    stored = await database.fetchrow(STORED, record.id)
    assert stored is not None
    assert (stored["digest"], stored["hint"]) == (keys.digest(key), keys.hint(key))
    assert (record.user_id, record.username, record.description) == (user.id, "alice", "laptop")
    assert record.expires_at is record.revoked_at is record.last_used_at is None
    assert key not in repr(record)


async def test_a_key_keeps_its_expiry(accounts: Accounts) -> None:
    await accounts.create_user("alice")
    expires_at = datetime.now(UTC) + timedelta(days=30)
    _, record = await accounts.create_key("alice", expires_at=expires_at)
    assert record.expires_at == expires_at
    assert record.state(expires_at - timedelta(seconds=1)) == "active"
    assert record.state(expires_at) == "expired"


async def test_a_new_key_cannot_be_expired(accounts: Accounts) -> None:
    await accounts.create_user("alice")
    with pytest.raises(Invalid, match="future"):
        await accounts.create_key("alice", expires_at=datetime.now(UTC))
    assert await accounts.keys("alice", ended=True) == []


@pytest.mark.parametrize("text", ["two\nlines", "nul\x00", "x" * 201])
async def test_a_description_is_one_short_line(accounts: Accounts, text: str) -> None:
    await accounts.create_user("alice")
    with pytest.raises(Invalid, match="one line of at most 200 characters"):
        await accounts.create_key("alice", text)


async def test_ended_keys_are_listed_only_when_asked_for(accounts: Accounts, database: Database) -> None:
    await accounts.create_user("alice")
    soon = datetime.now(UTC) + timedelta(days=1)
    live, expired, revoked = [(await accounts.create_key("alice", expires_at=soon))[1].id for _ in range(3)]
    await accounts.revoke(revoked)
    await database.execute(Query("age", (), "UPDATE api_keys SET expires_at = now() WHERE id = $1"), expired)
    assert [record.id for record in await accounts.keys("alice")] == [live]
    ended = await accounts.keys("alice", ended=True)
    assert [record.id for record in ended] == [live, expired, revoked]
    assert [record.state(datetime.now(UTC) + timedelta(minutes=5)) for record in ended] == [
        "active",
        "expired",
        "revoked",
    ]


async def test_the_first_revocation_stands(accounts: Accounts) -> None:
    await accounts.create_user("alice")
    _, record = await accounts.create_key("alice")
    await accounts.revoke(record.id)
    first = (await accounts.key(record.id)).revoked_at
    assert first is not None
    await accounts.revoke(record.id)
    assert await accounts.revoke_all("alice") == 0
    assert (await accounts.key(record.id)).revoked_at == first


async def test_revoking_all_keys_spares_those_of_others(accounts: Accounts) -> None:
    for name in ("alice", "bob"):
        await accounts.create_user(name)
        await accounts.create_key(name)
    await accounts.create_key("alice")
    assert await accounts.revoke_all("alice") == 2
    assert (len(await accounts.keys("alice")), len(await accounts.keys("bob"))) == (0, 1)


async def test_a_deleted_key_leaves_no_record(accounts: Accounts) -> None:
    await accounts.create_user("alice")
    _, record = await accounts.create_key("alice")
    await accounts.delete_key(record.id)
    assert await accounts.keys("alice", ended=True) == []


async def test_our_rule_for_names_is_the_database_s(accounts: Accounts, database: Database) -> None:
    from parallama.identity.accounts import _USERNAME

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
