"""The records of keys: what is stored of one, its limits, its rotation and its end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from parallama.db.pool import Database
from parallama.db.query import Query
from parallama.errors import Conflict, Invalid, NotFound, Outdated
from parallama.identity import keys as forms
from parallama.identity.actor import Actor
from parallama.identity.api_keys import MAX_GRACE_S, ApiKeys, KeyLimits
from parallama.identity.users import Users

STORED = Query("stored", (), "SELECT digest, hint, previous_digest, previous_until FROM api_keys WHERE id = $1")
AGED = Query("aged", (), "UPDATE api_keys SET expires_at = $2 WHERE id = $1")
TRAIL = Query("trail", (), "SELECT * FROM audit WHERE action LIKE 'key.%' ORDER BY id")


@pytest.fixture
async def keys(database: Database) -> ApiKeys:
    """The records of keys, where alice and bob are and have none."""
    users = Users(database)
    for name in ("alice", "bob"):
        await users.create(name)
    return ApiKeys(database)


async def test_only_the_digest_and_the_hint_of_a_key_are_stored(keys: ApiKeys, database: Database) -> None:
    key, record = await keys.create("Alice", description="laptop")
    assert forms.well_formed(key)
    stored = await database.fetchrow(STORED, record.id)
    assert stored is not None
    assert tuple(stored) == (forms.digest(key), forms.hint(key), None, None)
    assert (record.username, record.description, record.enabled, record.version) == ("alice", "laptop", True, 1)
    assert record.expires_at is record.revoked_at is record.last_used_at is record.rotated_at is None
    assert record.models is record.gateways is record.networks is None
    assert record.priority_ceiling is None
    assert key not in repr(record)
    assert await keys.get(record.id) == record
    assert orjson.loads(orjson.dumps(record))["user_id"] == str(record.user_id)


async def test_a_key_keeps_its_limits_and_networks_take_their_usual_form(keys: ApiKeys) -> None:
    limits = KeyLimits(
        models=["llama3*", "registry/a b:70b"],
        gateways=("openai",),
        networks=["192.0.2.7", "FD00::/8"],
        priority_ceiling="low",
    )
    _, record = await keys.create("alice", limits=limits)
    assert (record.models, record.gateways) == (["llama3*", "registry/a b:70b"], ["openai"])
    assert (record.networks, record.priority_ceiling) == (["192.0.2.7/32", "fd00::/8"], "low")
    freed = await keys.update(record.id, changes={"models": [], "gateways": None, "networks": None})
    assert (freed.models, freed.gateways, freed.networks, freed.priority_ceiling) == ([], None, None, "low")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"models": ["llama3", " "]}, "1 to 256 printable"),
        ({"models": ["x" * 257]}, "1 to 256 printable"),
        ({"models": ["a\x00"]}, "1 to 256 printable"),
        ({"networks": ["10.0.0.1/8"]}, "must be an address or a range"),
        ({"networks": ["here"]}, "must be an address or a range"),
        ({"priority_ceiling": "urgent"}, "one of low, normal, high"),
        ({"description": "two\nlines"}, "one line of at most 200 characters"),
        ({"description": "nul\x00"}, "one line of at most 200 characters"),
        ({"description": "x" * 201}, "one line of at most 200 characters"),
        ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, "future"),
    ],
)
async def test_a_value_that_no_key_may_have_is_refused(changes: dict[str, Any], told: str) -> None:
    keys = ApiKeys(None)  # type: ignore[arg-type]  # it is refused before the database is asked
    limits = KeyLimits(**{name: value for name, value in changes.items() if name in KeyLimits.__slots__})
    others = {name: value for name, value in changes.items() if name not in KeyLimits.__slots__}
    for attempt in (keys.create("alice", limits=limits, **others), keys.update(uuid4(), changes=changes)):
        with pytest.raises(Invalid, match=told) as refused:
            await attempt
        assert refused.value.param == next(iter(changes))


@pytest.mark.parametrize("family", ["Open AI", "opnai", "open\0ai", "a" * 64])
async def test_a_gateway_that_there_is_not_is_refused(keys: ApiKeys, family: str) -> None:
    _, record = await keys.create("alice", limits=KeyLimits(gateways=("openai",)))
    limits = KeyLimits(gateways=("openai", family))
    for attempt in (keys.create("alice", limits=limits), keys.update(record.id, changes={"gateways": [family]})):
        with pytest.raises(
            Invalid, match=r"there is no gateway .* must be one of anthropic, ollama, openai"
        ) as refused:
            await attempt
        assert refused.value.param == "gateways"


async def test_only_what_a_key_has_to_change_is_changed(keys: ApiKeys) -> None:
    _, record = await keys.create("alice")
    for name in ("digest", "user_id", "revoked_at", "version"):
        with pytest.raises(Invalid, match=f"a key has no {name} to change"):
            await keys.update(record.id, changes={name: None})
    assert await keys.get(record.id) == record


async def test_an_update_changes_only_what_is_named(keys: ApiKeys) -> None:
    _, record = await keys.create("alice", description="laptop", limits=KeyLimits(models=["llama3"]))
    expires_at = datetime.now(UTC) + timedelta(days=1)
    changed = await keys.update(record.id, changes={"enabled": False, "expires_at": expires_at}, version=1)
    assert (changed.enabled, changed.expires_at, changed.version) == (False, expires_at, 2)
    assert (changed.description, changed.models) == ("laptop", ["llama3"])
    assert changed.state(datetime.now(UTC)) == "disabled"
    changed = await keys.update(record.id, changes={"enabled": True, "expires_at": None, "description": ""})
    assert (changed.expires_at, changed.description, changed.state(datetime.now(UTC))) == (None, "", "active")


async def test_who_would_change_what_was_changed_meanwhile_is_told(keys: ApiKeys) -> None:
    _, record = await keys.create("alice")
    changed = await keys.update(record.id, changes={"description": "mine"})
    for attempt in (
        keys.update(record.id, changes={"description": "theirs"}, version=record.version),
        keys.revoke(record.id, record.version),
        keys.delete(record.id, record.version),
    ):
        with pytest.raises(Outdated, match="it is at version 2"):
            await attempt
    assert await keys.get(record.id) == changed


async def test_a_key_keeps_its_expiry(keys: ApiKeys) -> None:
    expires_at = datetime.now(UTC) + timedelta(days=30)
    _, record = await keys.create("alice", expires_at=expires_at)
    assert record.expires_at == expires_at
    assert record.state(expires_at - timedelta(seconds=1)) == "active"
    assert record.state(expires_at) == "expired"


async def test_a_rotated_key_keeps_all_but_its_secret_and_the_old_one_for_the_grace_time(
    database: Database, keys: ApiKeys
) -> None:
    now = datetime.now(UTC)
    old, record = await keys.create("alice", description="laptop", limits=KeyLimits(models=["llama3"]))
    new, rotated = await ApiKeys(database, now=lambda: now).rotate(record.id, grace_s=90)
    assert forms.well_formed(new)
    assert (rotated.id, rotated.description, rotated.models) == (record.id, "laptop", ["llama3"])
    assert (rotated.hint, rotated.rotated_at, rotated.version) == (forms.hint(new), now, 2)
    until = now + timedelta(seconds=90)
    assert rotated.previous_until == until
    stored = await database.fetchrow(STORED, record.id)
    assert stored is not None
    assert tuple(stored) == (forms.digest(new), forms.hint(new), forms.digest(old), until)


async def test_a_second_rotation_ends_the_secret_before_at_once(database: Database, keys: ApiKeys) -> None:
    _, record = await keys.create("alice")
    second, _ = await keys.rotate(record.id, grace_s=3600)
    third, _ = await keys.rotate(record.id, grace_s=3600)
    stored = await database.fetchrow(STORED, record.id)
    assert stored is not None
    assert (stored["digest"], stored["previous_digest"]) == (forms.digest(third), forms.digest(second))


async def test_without_grace_time_no_other_secret_is_left(database: Database, keys: ApiKeys) -> None:
    _, record = await keys.create("alice")
    await keys.rotate(record.id, grace_s=3600)
    last, rotated = await keys.rotate(record.id, grace_s=0)
    stored = await database.fetchrow(STORED, record.id)
    assert stored is not None
    assert (stored["digest"], stored["previous_digest"], rotated.previous_until) == (forms.digest(last), None, None)


@pytest.mark.parametrize("grace_s", [-1, MAX_GRACE_S + 1, float("nan"), float("inf")])
async def test_a_grace_time_beyond_bounds_is_refused(grace_s: float) -> None:
    with pytest.raises(Invalid, match="0 to 2592000 seconds"):
        await ApiKeys(None).rotate(uuid4(), grace_s=grace_s)  # type: ignore[arg-type]  # before the database is asked


async def test_a_key_that_has_ended_is_not_rotated(database: Database, keys: ApiKeys) -> None:
    _, revoked = await keys.create("alice")
    _, expired = await keys.create("alice")
    await keys.revoke(revoked.id)
    await database.execute(AGED, expired.id, datetime.now(UTC))
    for key_id, state in ((revoked.id, "revoked"), (expired.id, "expired")):
        with pytest.raises(Conflict, match=f"is {state}: make a new one"):
            await keys.rotate(key_id, grace_s=60)


async def test_a_key_of_another_user_is_as_unknown_as_none(keys: ApiKeys) -> None:
    _, record = await keys.create("alice")
    bob = (await keys.create("bob"))[1].user_id
    for key_id, of in ((record.id, bob), (uuid4(), None), (uuid4(), bob)):
        for attempt in (
            *(keys.get(key_id, of=of), keys.update(key_id, changes={"description": "mine"}, of=of)),
            *(keys.rotate(key_id, grace_s=0, of=of), keys.revoke(key_id, of=of), keys.delete(key_id, of=of)),
        ):
            with pytest.raises(NotFound, match=str(key_id)):
                await attempt
    assert await keys.get(record.id, of=record.user_id) == record


async def test_ended_keys_are_listed_only_when_asked_for(keys: ApiKeys, database: Database) -> None:
    live, expired, revoked = [(await keys.create("alice"))[1].id for _ in range(3)]
    await keys.revoke(revoked)
    await database.execute(AGED, expired, datetime.now(UTC))
    assert [record.id for record in await keys.list("alice")] == [live]
    ended = await keys.list("alice", ended=True)
    assert [record.id for record in ended] == [live, expired, revoked]
    assert [record.state(datetime.now(UTC)) for record in ended] == ["active", "expired", "revoked"]


async def test_keys_are_listed_in_parts_of_one_user_or_of_all(database: Database, keys: ApiKeys) -> None:
    moment = datetime.now(UTC)
    at_once = ApiKeys(database, now=lambda: moment)
    made = {(await at_once.create(name))[1].id for name in ("alice", "alice", "bob", "alice")}
    seen: list[UUID] = []
    after = None
    while part := await keys.list(after=after, limit=3):
        seen += [record.id for record in part]
        after = (part[-1].created_at, part[-1].id)
    assert (len(seen), set(seen)) == (4, made)
    assert [record.username for record in await keys.list("bob")] == ["bob"]


async def test_the_first_revocation_stands(keys: ApiKeys) -> None:
    _, record = await keys.create("alice")
    first = await keys.revoke(record.id)
    assert first.revoked_at is not None
    assert await keys.revoke(record.id) == first
    assert await keys.revoke_all("alice") == 0
    assert await keys.get(record.id) == first


async def test_revoking_all_keys_spares_those_of_others(keys: ApiKeys) -> None:
    for name in ("alice", "alice", "bob"):
        await keys.create(name)
    assert await keys.revoke_all("alice") == 2
    assert (len(await keys.list("alice")), len(await keys.list("bob"))) == (0, 1)


async def test_a_deleted_key_leaves_no_record(keys: ApiKeys) -> None:
    _, record = await keys.create("alice")
    await keys.delete(record.id)
    assert await keys.list("alice", ended=True) == []


async def test_every_change_is_put_down_to_its_actor_without_the_secret(database: Database, keys: ApiKeys) -> None:
    actor = Actor(name="op", via="command", request_id=uuid4())
    keys = ApiKeys(database, actor)
    text, record = await keys.create("alice", description="laptop")
    other, _ = await keys.rotate(record.id, grace_s=60)
    await keys.update(record.id, changes={"enabled": False})
    await keys.revoke(record.id)
    await keys.delete(record.id)
    rows = [dict(row) for row in await database.fetch(TRAIL)]
    assert [row["action"] for row in rows] == ["key.create", *["key.change"] * 3, "key.delete"]
    digests = [forms.digest(secret).hex() for secret in (text, other)]
    for row in rows:
        assert (row["actor"], row["via"], str(row["request_id"])) == ("op", "command", str(actor.request_id))
        assert (row["target"], row["username"]) == (str(record.id), "alice")
        assert not any(digest in str(row) for digest in digests)
    assert orjson.loads(rows[2]["after"]) == {"enabled": False}
    assert orjson.loads(rows[1]["after"])["digest"] == "********"
