"""What a credential is worth at this moment: limits of keys, secrets after a rotation, roles, sessions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from calling import (
    CEILING_S,
    TOKENS,
    Clock,
    Present,
    Wire,
    alice,
    auth,
    bearer,
    patient,
    process,
    refused,
    remote,
    session_of,
    token_of,
    until,
    wire,
    without_waiting,
    write,
)
from multidict import CIMultiDict

from parallama.db.pool import Database
from parallama.errors import NotAllowed, NotAuthenticated, Unavailable
from parallama.exchange import KeyPolicy, Priority
from parallama.identity.api_keys import ApiKeys, KeyLimits
from parallama.identity.callers import Callers
from parallama.identity.users import Users
from parallama.networks import networks

__all__ = ["alice", "patient", "remote", "wire"]

BASIC = frozenset({"basic_rate_limits", "use_ollama"})

ASSIGN = (
    "INSERT INTO assignments (user_id, role_id, role, assigned_by, expires_at)"
    " SELECT u.id, r.id, r.name, 'test', $3 FROM users u, roles r WHERE u.username = $1 AND r.name = $2"
)


def served(callers: Callers, credential: str) -> Callable[[], Awaitable[bool]]:
    async def served() -> bool:
        return not await refused(callers, credential)

    return served


def may(callers: Callers, credential: str, permission: str) -> Callable[[], Awaitable[bool]]:
    async def may() -> bool:
        return (await callers.identify(bearer(credential))).may(permission)

    return may


async def key_with(database: Database, **limits: Any) -> str:
    return (await ApiKeys(database).create("alice", limits=KeyLimits(**limits)))[0]


# keys


async def test_what_a_key_is_limited_to_is_told_of_its_caller(database: Database, alice: str) -> None:
    callers = Callers(database, auth(), Present())
    key = await key_with(
        database, models=["llama*"], gateways=["openai"], networks=["10.0.0.0/8"], priority_ceiling="low"
    )
    assert (await callers.identify(bearer(key), "10.1.2.3")).policy == KeyPolicy(
        models=("llama*",),
        gateways=frozenset({"openai"}),
        networks=networks(["10.0.0.0/8"]),
        priority_ceiling=Priority.LOW,
    )
    assert (await callers.identify(bearer(await key_with(database, models=[])))).policy == KeyPolicy(models=())
    assert (await callers.identify(bearer(alice))).policy is None


async def test_a_key_is_refused_from_elsewhere_and_the_log_says_so(
    database: Database, alice: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "parallama.auth")
    key = await key_with(database, networks=["192.0.2.0/24", "fd00::/8"])
    callers = Callers(database, auth(), Present())
    for address in ("192.0.2.7", "::ffff:192.0.2.7", "fd00::1"):
        assert (await callers.identify(bearer(key), address)).username == "alice"
    for elsewhere in ("192.0.3.7", "fe80::1", "", None):
        with pytest.raises(NotAllowed) as refusal:
            await callers.identify(bearer(key), elsewhere)
        assert refusal.value.code == "address_access_denied"
    assert [vars(record)["fields"]["reason"] for record in caplog.records] == ["address"] * 4
    assert key not in str([vars(record) for record in caplog.records])


async def test_a_key_can_be_disabled_and_enabled_in_every_process(database: Database, alice: str) -> None:
    async with process(database) as (one, _), process(database) as (other, _):
        for callers in (one, other):
            key_id = (await callers.identify(bearer(alice))).key_id
        assert key_id is not None
        await ApiKeys(database).update(key_id, changes={"enabled": False})
        for callers in (one, other):
            await until(lambda callers=callers: refused(callers, alice))
        with pytest.raises(NotAuthenticated) as refusal:
            await other.identify(bearer(alice))
        assert refusal.value.code == "disabled_api_key"
        await ApiKeys(database).update(key_id, changes={"enabled": True})
        for callers in (one, other):
            await until(served(callers, alice))


async def test_new_limits_reach_a_cached_key(database: Database, alice: str) -> None:
    async with process(database) as (callers, _):
        key_id = (await callers.identify(bearer(alice))).key_id
        assert key_id is not None
        await ApiKeys(database).update(key_id, changes={"models": ["llama*"]})

        async def limited() -> bool:
            return (await callers.identify(bearer(alice))).policy == KeyPolicy(models=("llama*",))

        await until(limited)


async def test_after_a_rotation_both_secrets_work_for_the_grace_time(database: Database, alice: str) -> None:
    clock = Clock()
    async with process(database, clock=clock) as (callers, listener):
        key_id = (await callers.identify(bearer(alice))).key_id
        assert key_id is not None
        new, _ = await ApiKeys(database).rotate(key_id, grace_s=3600)
        await listener.caught_up()
        for key in (alice, new):
            assert (await callers.identify(bearer(key))).key_id == key_id
        clock.ahead_s = 3601
        with pytest.raises(NotAuthenticated, match="not valid"):
            await callers.identify(bearer(alice))
        assert (await callers.identify(bearer(new))).key_id == key_id


async def test_a_rotation_without_grace_ends_the_cached_secret(database: Database, alice: str) -> None:
    async with process(database) as (callers, _):
        key_id = (await callers.identify(bearer(alice))).key_id
        assert key_id is not None
        new, _ = await ApiKeys(database).rotate(key_id, grace_s=0)
        await until(lambda: refused(callers, alice))
        assert (await callers.identify(bearer(new))).key_id == key_id


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ("revoked_at = now(), enabled = false, expires_at = now()", "not_authenticated", "not valid"),
        ("enabled = false, expires_at = now()", "disabled_api_key", "disabled"),
        ("expires_at = now()", "not_authenticated", "expired"),
    ],
)
async def test_of_several_reasons_the_gravest_is_told(
    database: Database, alice: str, change: str, code: str, message: str
) -> None:
    await write(database, f"UPDATE api_keys SET {change}")
    with pytest.raises(NotAuthenticated, match=message) as refusal:
        await Callers(database, auth(), Present()).identify(bearer(alice))
    assert refusal.value.code == code


# roles


async def test_a_caller_holds_what_the_roles_give_those_above_them_too(database: Database, alice: str) -> None:
    await write(
        database,
        "INSERT INTO roles (name, parent_id, permissions) SELECT 'team', id, '{view_metrics}' FROM roles"
        " WHERE name = 'premium'",
    )
    await write(database, ASSIGN, "alice", "team", None)
    caller = await Callers(database, auth(), Present()).identify(bearer(alice))
    assert caller.roles == ("basic", "premium", "team")
    assert caller.permissions >= BASIC | {"view_metrics", "use_openai", "premium_rate_limits"}
    assert not caller.admin


async def test_an_assignment_ends_to_the_second_for_keys_and_tokens_in_the_cache(
    database: Database, alice: str
) -> None:
    clock = Clock()
    async with process(database, clock=clock) as (callers, listener):
        token, _ = await token_of(database, "alice")
        await write(database, ASSIGN, "alice", "admin", datetime.now(UTC) + timedelta(seconds=600))
        await listener.caught_up()
        for credential in (alice, token):
            await until(may(callers, credential, "manage_users"))
            assert without_waiting(callers, credential).admin
        clock.ahead_s = 601
        for credential in (alice, token):
            caller = without_waiting(callers, credential)
            assert (caller.admin, caller.permissions, caller.roles) == (False, BASIC, ("basic",))


@pytest.mark.parametrize(
    ("give", "take"),
    [
        (
            "UPDATE roles SET permissions = permissions || '{view_metrics}' WHERE name = 'basic'",
            "UPDATE roles SET permissions = array_remove(permissions, 'view_metrics') WHERE name = 'basic'",
        ),
        (
            "UPDATE roles SET parent_id = (SELECT id FROM roles WHERE name = 'admin') WHERE name = 'basic'",
            "UPDATE roles SET parent_id = NULL WHERE name = 'basic'",
        ),
        (
            "INSERT INTO assignments (user_id, role_id, role, assigned_by)"
            " SELECT u.id, r.id, r.name, 'test' FROM users u, roles r WHERE r.name = 'admin'",
            "UPDATE assignments SET ended_at = now() WHERE role = 'admin'",
        ),
        ("UPDATE users SET admin = true", "UPDATE users SET admin = false"),
    ],
    ids=["permissions", "parent", "assignment", "flag"],
)
async def test_what_roles_give_and_take_reaches_keys_and_tokens_in_every_process(
    database: Database, alice: str, give: str, take: str
) -> None:
    token, _ = await token_of(database, "alice")
    async with process(database) as (one, _), process(database) as (other, _):
        sides = [(callers, credential) for callers in (one, other) for credential in (alice, token)]
        for callers, credential in sides:
            assert not (await callers.identify(bearer(credential))).may("view_metrics")
        await write(database, give)
        for callers, credential in sides:
            await until(may(callers, credential, "view_metrics"))
            assert without_waiting(callers, credential).may("view_metrics")
        await write(database, take)

        async def taken() -> bool:
            return not any([await may(*side, "view_metrics")() for side in sides])

        await until(taken)


async def test_anonymous_callers_hold_gateways_and_rate_limits_and_nothing_else(database: Database) -> None:
    await Users(database).create("anonymous", role="admin", admin=True)
    async with process(database, allow_anonymous=True) as (callers, _):
        caller = await callers.identify(CIMultiDict())
        assert caller.permissions == {"use_*", "premium_rate_limits"}
        assert (caller.admin, caller.roles) == (False, ())
        assert caller.may("use_openai")
        assert not caller.may("manage_users")


# access tokens


async def test_a_token_is_its_user_and_awaits_nothing_once_it_is_cached(database: Database, alice: str) -> None:
    token, session_id = await token_of(database, "alice")
    callers = Callers(database, auth(), Present(), TOKENS)
    caller = await callers.identify(bearer(token))
    assert (caller.username, caller.key_id, caller.session_id) == ("alice", None, session_id)
    assert (caller.permissions, caller.admin, caller.policy) == (BASIC, False, None)
    assert without_waiting(callers, token) is caller


@pytest.mark.parametrize(
    "end",
    [
        "UPDATE sessions SET revoked_at = now(), revoked_for = 'admin'",
        "UPDATE sessions SET generation = generation + 1",
        "UPDATE sessions SET expires_at = now()",
        "DELETE FROM sessions",
        "UPDATE users SET active = false",
        "DELETE FROM users",
    ],
)
async def test_the_end_of_a_session_reaches_its_token_in_every_process(
    database: Database, alice: str, end: str
) -> None:
    token, _ = await token_of(database, "alice")
    async with process(database) as (one, _), process(database) as (other, _):
        for callers in (one, other):
            await callers.identify(bearer(token))
            without_waiting(callers, token)
        await write(database, end)
        for callers in (one, other):
            await until(lambda callers=callers: refused(callers, token))
            with pytest.raises(NotAuthenticated, match="the access token is not valid"):
                await callers.identify(bearer(token))


async def test_a_token_ends_when_it_or_its_session_expires_while_it_is_cached(database: Database, alice: str) -> None:
    clock = Clock()
    callers = Callers(database, auth(), Present(), TOKENS, now=clock.now)
    long, _ = await token_of(database, "alice")
    short, _ = await token_of(database, "alice", lasts_s=600)
    for token in (long, short):
        await callers.identify(bearer(token))
    clock.ahead_s = 601
    assert await refused(callers, short)
    assert not await refused(callers, long)
    clock.ahead_s = 1801
    with pytest.raises(NotAuthenticated, match="the access token has expired"):
        await callers.identify(bearer(long))


async def test_a_token_of_no_session_or_of_another_users_is_refused(database: Database, alice: str) -> None:
    callers = Callers(database, auth(), Present(), TOKENS)
    session_id, user_id = await session_of(database, "alice")
    for claimed in ((user_id, uuid4(), 0), (uuid4(), session_id, 0), (user_id, session_id, 1)):
        token = TOKENS.issue(*claimed)
        for _ in range(2):
            with pytest.raises(NotAuthenticated, match="the access token is not valid"):
                await callers.identify(bearer(token))
    assert await served(callers, TOKENS.issue(user_id, session_id, 0))()


async def test_refresh_tokens_and_tokens_where_none_are_served_are_refused(database: Database, alice: str) -> None:
    token, _ = await token_of(database, "alice")
    with pytest.raises(NotAuthenticated, match="no access token"):
        await Callers(database, auth(), Present(), TOKENS).identify(bearer("rt_" + "a" * 43 + "_" + "b" * 6))
    with pytest.raises(NotAuthenticated, match="not served here"):
        await Callers(database, auth(), Present()).identify(bearer(token))


async def test_refusals_of_tokens_are_logged_without_the_token(
    database: Database, alice: str, caplog: pytest.LogCaptureFixture
) -> None:
    token, _ = await token_of(database, "alice")
    await write(database, "UPDATE sessions SET revoked_at = now()")
    callers = Callers(database, auth(), Present(), TOKENS)
    for bad in (token, f"{token[:-8]}AAAAAAAA"):
        assert await refused(callers, bad)
    logged = str([vars(record) for record in caplog.records])
    assert "ended_session" in logged
    assert not any(part in logged for part in token.split("."))


# what keeps it true


async def _end_session(database: Database, session_id: UUID) -> None:
    await write(database, "UPDATE sessions SET revoked_at = now() WHERE id = $1", session_id)


@pytest.mark.usefixtures("patient")
async def test_a_look_up_in_flight_while_the_session_is_revoked_is_not_cached(
    wire: Wire, remote: Database, database: Database, alice: str
) -> None:
    revoked = asyncio.Event()
    other, _ = await token_of(database, "alice")
    token, session_id = await token_of(database, "alice")
    async with process(remote, listen=database.url, heard=revoked.set) as (callers, _):
        await callers.identify(bearer(other))  # the statement is prepared now: a look-up is one round trip
        revoked.clear()
        wire.open.clear()
        async with asyncio.TaskGroup() as tasks:
            look_up = tasks.create_task(callers.identify(bearer(token)))
            await until(lambda: b"alice" in wire.held)
            await _end_session(database, session_id)
            await asyncio.wait_for(revoked.wait(), CEILING_S)
            wire.open.set()
            assert (await look_up).username == "alice"
        assert await refused(callers, token)


@pytest.mark.usefixtures("patient")
async def test_a_look_up_in_flight_while_a_role_loses_a_permission_is_not_cached(
    wire: Wire, remote: Database, database: Database, alice: str
) -> None:
    changed = asyncio.Event()
    other, _ = await ApiKeys(database).create("alice")
    async with process(remote, listen=database.url, heard=changed.set) as (callers, _):
        await callers.identify(bearer(other))
        changed.clear()
        wire.open.clear()
        async with asyncio.TaskGroup() as tasks:
            look_up = tasks.create_task(callers.identify(bearer(alice)))
            await until(lambda: b"alice" in wire.held)
            await write(database, "UPDATE roles SET permissions = '{}' WHERE name = 'basic'")
            await asyncio.wait_for(changed.wait(), CEILING_S)
            wire.open.set()
            assert (await look_up).may("use_ollama")
        for key in (alice, other):
            assert not await may(callers, key, "use_ollama")()


async def test_changes_missed_while_the_listener_was_away_are_made_good_on_its_return(
    wire: Wire, database: Database, alice: str
) -> None:
    token, session_id = await token_of(database, "alice")
    async with process(database, listen=wire.url) as (callers, listener):
        for credential in (alice, token):
            assert await may(callers, credential, "use_ollama")()
        await wire.cut()
        await until(lambda: listener.lost_since is not None)
        await _end_session(database, session_id)
        await write(database, "UPDATE roles SET permissions = '{}' WHERE name = 'basic'")
        await write(database, """INSERT INTO settings (name, value) VALUES ('auth', '{"header_name": "x-team"}')""")
        assert without_waiting(callers, token).may("use_ollama")
        await wire.mend()
        await until(lambda: listener.lost_since is None)
        assert await refused(callers, token)
        assert not await may(callers, alice, "use_ollama")()
        assert (await callers.identify(CIMultiDict({"x-team": alice}))).username == "alice"


async def _cut(wire: Wire) -> None:
    await wire.cut()


async def _hang(wire: Wire) -> None:
    wire.open.clear()


@pytest.mark.parametrize("lose", [_cut, _hang])
async def test_without_the_database_tokens_and_roles_count_for_the_grace_time_only(
    wire: Wire, remote: Database, database: Database, alice: str, lose: Callable[[Wire], Awaitable[None]]
) -> None:
    clock = Clock()
    token, session_id = await token_of(database, "alice")
    async with process(remote, clock=clock, grace_s=60) as (callers, listener):
        for credential in (alice, token):
            await callers.identify(bearer(credential))
        await lose(wire)
        await until(lambda: listener.lost_since is not None)
        await _end_session(database, session_id)
        clock.ahead_s = 30
        for credential in (alice, token):
            assert without_waiting(callers, credential).may("use_ollama")
        clock.ahead_s = 61
        for credential in (alice, token, ""):
            with pytest.raises(Unavailable):
                await callers.identify(bearer(credential))
        wire.open.set()
