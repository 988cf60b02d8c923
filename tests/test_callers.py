"""Who is asking: accepted headers, refusals, the cache and what keeps it true, the last use of keys."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from calling import (
    CEILING_S,
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
    until,
    wire,
    without_waiting,
)
from multidict import CIMultiDict
from running import PATIENT

from parallama.db.pool import Database, Row
from parallama.db.query import Query
from parallama.errors import NotAuthenticated, Unavailable
from parallama.exchange import Caller
from parallama.identity import keys
from parallama.identity.access import AuthRecords
from parallama.identity.api_keys import ApiKeys
from parallama.identity.callers import Callers
from parallama.identity.users import Users

__all__ = ["alice", "patient", "remote", "wire"]
pytestmark = pytest.mark.usefixtures("patient")


async def make(database: Database, key: str) -> None:
    """Give this very key to alice."""
    insert = Query("insert", (), "INSERT INTO api_keys (user_id, digest, hint) VALUES ($1, $2, $3)")
    alice = await Users(database).get("alice")
    await database.execute(insert, alice.id, keys.digest(key), keys.hint(key))


# what is accepted


@pytest.mark.parametrize(
    "header",
    [
        ("Authorization", "Bearer {}"),
        ("authorization", "bEARER {}"),
        ("AUTHORIZATION", "Bearer   {} "),
        ("x-api-key", "{}"),
        ("X-API-Key", " {} "),
        ("X-Team-Key", "{}"),
    ],
)
async def test_a_key_is_accepted_in_each_header_that_may_carry_one(
    database: Database, alice: str, header: tuple[str, str]
) -> None:
    callers = Callers(database, auth(key_header="x-team-key"), Present())
    caller = await callers.identify(CIMultiDict({header[0]: header[1].format(alice)}))
    assert (caller.username, caller.admin) == ("alice", False)
    assert caller.key_id == (await ApiKeys(database).list("alice"))[0].id


async def test_the_same_key_twice_is_accepted(database: Database, alice: str) -> None:
    headers = CIMultiDict({"Authorization": f"Bearer {alice}", "x-api-key": alice})
    assert (await Callers(database, auth(), Present()).identify(headers)).username == "alice"


async def test_different_keys_in_two_headers_are_refused(database: Database, alice: str) -> None:
    headers = CIMultiDict({"Authorization": f"Bearer {alice}", "x-api-key": keys.new_key()})
    with pytest.raises(NotAuthenticated, match="conflicting"):
        await Callers(database, auth(), Present()).identify(headers)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "send Authorization: Bearer <API key>"),
        ({"Authorization": "Bearer "}, "send Authorization: Bearer <API key>"),
        ({"x-api-key": " "}, "send Authorization: Bearer <API key>"),
        ({"x-other": "plm_x"}, "send Authorization: Bearer <API key>"),
        ({"Authorization": "Basic c2VjcmV0OnNlY3JldA=="}, "must read: Bearer <API key>"),
        ({"Authorization": "plm_secret"}, "must read: Bearer <API key>"),
        ({"Authorization": "Bearer sk-secret"}, "begin with plm_"),
        ({"x-api-key": "secret\udcff\u00e9"}, "begin with plm_"),
        ({"x-api-key": "plm_secret\udcff\u00e9"}, "mistyped or cut off"),
        ({"x-api-key": keys.new_key()[:-1]}, "mistyped or cut off"),
    ],
)
async def test_what_is_no_key_is_refused_with_advice_and_without_a_query(
    wire: Wire, remote: Database, headers: dict[str, str], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    callers = Callers(remote, auth(), Present())
    assert await refused(callers, "")  # the settings are known now
    await wire.cut()
    with pytest.raises(NotAuthenticated, match=message) as refusal:
        await callers.identify(CIMultiDict(headers))
    assert "secret" not in str(refusal.value) + caplog.text + str([vars(r) for r in caplog.records])


async def test_a_well_formed_key_that_nobody_holds_is_refused(database: Database) -> None:
    with pytest.raises(NotAuthenticated, match="not valid"):
        await Callers(database, auth(), Present()).identify(bearer(keys.new_key()))


async def test_admins_are_known_by_flag_or_role(database: Database) -> None:
    callers = Callers(database, auth(), Present())
    for name, role, admin, expected in (
        ("a", "basic", True, True),
        ("b", "admin", False, True),
        ("c", "premium", False, False),
    ):
        await Users(database).create(name, role=role, admin=admin)
        key, _ = await ApiKeys(database).create(name)
        assert (await callers.identify(bearer(key))).admin is expected


async def test_refusals_are_logged_with_reason_and_hint_but_never_the_key(
    database: Database, alice: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "parallama.auth")
    callers, unknown = Callers(database, auth(), Present()), keys.new_key()
    for bad in (unknown, unknown, unknown[:-3]):
        assert await refused(callers, bad)
    logged = [vars(record)["fields"] for record in caplog.records if record.name == "parallama.auth"]
    assert logged == [{"reason": "unknown", "key": keys.hint(unknown)}] * 2 + [{"reason": "malformed"}]
    assert unknown[:-3] not in str([vars(record) for record in caplog.records])


async def test_when_a_key_ends_is_told_of_its_caller(database: Database, alice: str) -> None:
    callers, soon, sooner = Callers(database, auth(), Present()), timedelta(hours=2), timedelta(hours=1)
    ends = datetime.now(UTC) + soon
    key, record = await ApiKeys(database).create("alice", expires_at=ends)
    caller = await callers.identify(bearer(key))
    assert (caller.expires_at, caller.full) == (record.expires_at, False)
    new, _ = await ApiKeys(database).rotate(record.id, grace_s=int(sooner.total_seconds()))
    old = await Callers(database, auth(), Present()).identify(bearer(key))
    assert old.expires_at is not None
    assert old.expires_at < ends, "the old secret ends before the key"
    assert (await callers.identify(bearer(new))).expires_at == record.expires_at
    assert (await callers.identify(bearer(alice))).full


# callers without a key


async def test_anonymous_callers_are_a_real_user_where_they_are_allowed(database: Database) -> None:
    async with process(database, allow_anonymous=True) as (callers, _):
        caller = await callers.identify(CIMultiDict())
        assert caller == Caller(
            user_id=(await Users(database).get("anonymous")).id,
            username="anonymous",
            key_id=None,
            admin=False,
            roles=("basic",),
            permissions=frozenset({"basic_rate_limits", "use_ollama"}),
        )
        assert await callers.identify(CIMultiDict({"Authorization": "Bearer "})) == caller
        for wrong in (bearer(keys.new_key()), bearer("ollama"), CIMultiDict({"Authorization": "Basic eDp5"})):
            with pytest.raises(NotAuthenticated):
                await callers.identify(wrong)


async def test_the_anonymous_user_can_be_shut_out_and_let_in_again(database: Database) -> None:
    async with process(database, allow_anonymous=True) as (callers, _):
        assert not await refused(callers, "")
        await Users(database).update("anonymous", active=False)
        await until(lambda: refused(callers, ""))
        await Users(database).delete("anonymous")

        async def gone() -> bool:
            return await refused(callers, "") and callers.size() == (0, 1)

        await until(gone)
        await Users(database).ensure("anonymous")

        async def served() -> bool:
            return not await refused(callers, "")

        await until(served)


async def test_anonymous_callers_are_never_admins(database: Database) -> None:
    await Users(database).create("anonymous", role="admin", admin=True)
    async with process(database, allow_anonymous=True) as (callers, _):
        assert (await callers.identify(CIMultiDict())).admin is False


# the cache and what keeps it true


async def test_a_cached_key_awaits_nothing(database: Database, alice: str) -> None:
    callers = Callers(database, auth(), Present())
    caller = await callers.identify(bearer(alice))
    assert without_waiting(callers, alice) is caller


async def test_a_key_expires_while_it_is_cached(database: Database, alice: str) -> None:
    clock = Clock()
    key, _ = await ApiKeys(database).create("alice", expires_at=datetime.now(UTC) + timedelta(hours=1))
    callers = Callers(database, auth(), Present(), now=clock.now)
    await callers.identify(bearer(key))
    clock.ahead_s = 3601
    with pytest.raises(NotAuthenticated, match="has expired"):
        await callers.identify(bearer(key))
    assert (await callers.identify(bearer(alice))).username == "alice"


async def _revoke(database: Database, key_id: UUID) -> None:
    await ApiKeys(database).revoke(key_id)


async def _revoke_all(database: Database, key_id: UUID) -> None:
    await ApiKeys(database).revoke_all("alice")


async def _delete_key(database: Database, key_id: UUID) -> None:
    await ApiKeys(database).delete(key_id)


async def _deactivate(database: Database, key_id: UUID) -> None:
    await Users(database).update("alice", active=False)


async def _delete_user(database: Database, key_id: UUID) -> None:
    await Users(database).delete("alice")


@pytest.mark.parametrize("end", [_revoke, _revoke_all, _delete_key, _deactivate, _delete_user])
async def test_the_end_of_a_key_reaches_every_process(
    database: Database, alice: str, end: Callable[[Database, UUID], Awaitable[None]]
) -> None:
    async with process(database) as (one, _), process(database) as (other, _):
        for callers in (one, other):
            caller = await callers.identify(bearer(alice))
            assert without_waiting(callers, alice) == caller
        assert caller.key_id is not None
        await end(database, caller.key_id)
        for callers in (one, other):
            await until(lambda callers=callers: refused(callers, alice))


async def test_a_change_of_the_user_reaches_every_process(database: Database, alice: str) -> None:
    async with process(database) as (one, _), process(database) as (other, _):
        for callers in (one, other):
            assert not (await callers.identify(bearer(alice))).admin
        await Users(database).update("alice", admin=True)
        for callers in (one, other):

            async def promoted(callers: Callers = callers) -> bool:
                return (await callers.identify(bearer(alice))).admin

            await until(promoted)


async def test_a_user_let_in_again_is_served_again(database: Database, alice: str) -> None:
    async with process(database) as (callers, _):
        await Users(database).update("alice", active=False)
        assert await refused(callers, alice)
        await Users(database).update("alice", active=True)

        async def served() -> bool:
            return not await refused(callers, alice)

        await until(served)


async def test_a_key_refused_as_unknown_is_accepted_once_it_is_made(database: Database, alice: str) -> None:
    key = keys.new_key()
    async with process(database) as (callers, _):
        assert await refused(callers, key)
        await make(database, key)

        async def accepted() -> bool:
            return not await refused(callers, key)

        await until(accepted)


async def test_unknown_keys_are_looked_up_once(wire: Wire, remote: Database) -> None:
    callers, key = Callers(remote, auth(), Present()), keys.new_key()
    assert await refused(callers, key)
    await wire.cut()
    assert await refused(callers, key)


async def test_who_comes_with_a_new_key_at_the_same_time_asks_once(
    wire: Wire, remote: Database, database: Database, alice: str
) -> None:
    callers = Callers(remote, auth(), Present())
    other, _ = await ApiKeys(database).create("alice")
    await callers.identify(bearer(other))  # the statement is prepared now: a look-up is one round trip
    wire.open.clear()
    async with asyncio.TaskGroup() as tasks:
        uses = [tasks.create_task(callers.identify(bearer(alice))) for _ in range(200)]
        await until(lambda: b"alice" in wire.held)
        uses[0].cancel()  # it was the first to ask
        wire.open.set()
    assert {use.result().username for use in uses[1:]} == {"alice"}
    assert wire.held.count(b"alice") == 1


async def test_many_who_were_known_before_a_reset_ask_once_what_is_accepted(database: Database, alice: str) -> None:
    """As when PostgreSQL is back: all of them come at the same time, and want a connection."""
    asked: list[str] = []

    class Counted(Database):
        async def fetchrow(self, query: Query, *args: Any, limit_s: float | None = None) -> Row | None:
            asked.append(query.name)
            return await super().fetchrow(query, *args, limit_s=limit_s)

    others = [(await ApiKeys(database).create("alice"))[0] for _ in range(4)]
    async with Counted(database.url, PATIENT).running() as counted:
        callers = Callers(counted, auth(), Present())
        for _ in range(2):
            asked.clear()
            callers.on_reset()
            await asyncio.gather(*(callers.identify(bearer(key)) for key in [alice, *others] * 20))
            assert Counter(asked) == {"settings.setting": 1, "callers.caller_by_digest": 5}


async def test_a_look_up_in_flight_while_the_key_is_revoked_is_not_cached(
    wire: Wire, remote: Database, database: Database, alice: str
) -> None:
    revoked = asyncio.Event()
    other, _ = await ApiKeys(database).create("alice")
    async with process(remote, listen=database.url, heard=revoked.set) as (callers, _):
        await callers.identify(bearer(other))  # the statement is prepared now: a look-up is one round trip
        revoked.clear()
        wire.open.clear()
        async with asyncio.TaskGroup() as tasks:
            look_up = tasks.create_task(callers.identify(bearer(alice)))
            await until(lambda: b"alice" in wire.held)
            await ApiKeys(database).revoke((await ApiKeys(database).list("alice"))[0].id)
            await asyncio.wait_for(revoked.wait(), CEILING_S)
            later = tasks.create_task(refused(callers, alice))  # does not share what was asked before
            await asyncio.sleep(0)
            wire.open.set()
            assert (await look_up).username == "alice"
        assert later.result()
        assert await refused(callers, alice)


async def test_a_look_up_in_flight_while_another_header_is_chosen_is_not_shared(
    wire: Wire, remote: Database, database: Database, alice: str
) -> None:
    changed = asyncio.Event()
    records = AuthRecords(database, auth())
    async with process(remote, listen=database.url, heard=changed.set) as (callers, listener):
        await callers.identify(bearer(alice))
        await records.change({"header_name": "x-first"})
        await listener.caught_up()
        changed.clear()
        wire.open.clear()
        async with asyncio.TaskGroup() as tasks:
            earlier = tasks.create_task(callers.identify(CIMultiDict({"x-first": alice})))
            await until(lambda: b"x-first" in wire.held)
            await records.change({"header_name": "x-second"})
            await asyncio.wait_for(changed.wait(), CEILING_S)
            later = tasks.create_task(callers.identify(CIMultiDict({"x-second": alice})))
            await asyncio.sleep(0)
            wire.open.set()
        assert earlier.result().username == later.result().username == "alice"
        assert (await callers.identify(CIMultiDict({"x-second": alice}))).username == "alice"


async def test_a_change_missed_while_the_listener_was_away_is_made_good_on_its_return(
    wire: Wire, database: Database, alice: str
) -> None:
    async with process(database, listen=wire.url) as (callers, listener):
        caller, new = await callers.identify(bearer(alice)), keys.new_key()
        assert await refused(callers, new)
        assert caller.key_id is not None
        await wire.cut()
        await until(lambda: listener.lost_since is not None)
        await ApiKeys(database).revoke(caller.key_id)
        await make(database, new)
        assert without_waiting(callers, alice) == caller
        assert await refused(callers, new)
        await wire.mend()
        await until(lambda: listener.lost_since is None)
        assert await refused(callers, alice)
        assert (await callers.identify(bearer(new))).username == "alice"


async def test_without_the_database_cached_keys_work_for_the_grace_time_only(
    wire: Wire, remote: Database, alice: str
) -> None:
    clock, unknown = Clock(), keys.new_key()
    async with process(remote, clock=clock, grace_s=60) as (callers, listener):
        await callers.identify(bearer(alice))
        assert await refused(callers, unknown)
        await wire.cut()
        await until(lambda: listener.lost_since is not None)
        assert without_waiting(callers, alice).username == "alice"
        assert await refused(callers, unknown)
        with pytest.raises(Unavailable) as gone:
            await callers.identify(bearer(keys.new_key()))
        assert gone.value.retry_after_s
        clock.ahead_s = 60
        for key in (alice, unknown):
            with pytest.raises(Unavailable):
                await callers.identify(bearer(key))
        await wire.mend()
        await until(lambda: listener.lost_since is None)
        assert (await callers.identify(bearer(alice))).username == "alice"
        assert await refused(callers, unknown)


async def test_after_the_grace_time_each_use_asks_the_database(wire: Wire, database: Database, alice: str) -> None:
    async with process(database, listen=wire.url, grace_s=0) as (callers, listener):
        caller = await callers.identify(bearer(alice))
        await wire.cut()
        await until(lambda: listener.lost_since is not None)
        assert await callers.identify(bearer(alice)) == caller
        assert caller.key_id is not None
        await ApiKeys(database).revoke(caller.key_id)
        assert await refused(callers, alice)


async def test_a_flood_of_wrong_keys_leaves_the_cache_bounded_and_the_right_ones_in_it(
    database: Database, alice: str
) -> None:
    callers = Callers(database, auth(cache_entries=100), Present())
    await callers.identify(bearer(alice))

    async def flood() -> None:
        for _ in range(1_250):
            assert await refused(callers, keys.new_key())
            assert callers.size()[1] <= 100

    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(flood())
    assert callers.size() == (1, 100)
    assert without_waiting(callers, alice).username == "alice"


async def test_the_key_that_was_used_longest_ago_goes_first(database: Database, alice: str) -> None:
    callers = Callers(database, auth(cache_entries=2), Present())
    second, third = [(await ApiKeys(database).create("alice"))[0] for _ in range(2)]
    for key in (alice, second, alice, third):
        await callers.identify(bearer(key))
    assert callers.size() == (2, 0)
    for key in (alice, third):
        without_waiting(callers, key)


# the last use of keys


async def test_the_last_use_is_written_while_running_and_at_the_end(database: Database, alice: str) -> None:
    clock = Clock()
    callers = Callers(database, auth(), Present(), now=clock.now, flush_s=0.02)
    start = datetime.now(UTC)

    async def written() -> bool:
        return (await ApiKeys(database).list("alice"))[0].last_used_at is not None

    assert not await written()
    async with callers.running():
        await callers.identify(bearer(alice))
        await until(written)
    callers = Callers(database, auth(), Present(), now=clock.now, flush_s=3600)
    async with callers.running():
        clock.ahead_s = 600
        await callers.identify(bearer(alice))
    used = (await ApiKeys(database).list("alice"))[0].last_used_at
    assert used is not None
    assert used >= start + timedelta(seconds=600)


async def test_an_earlier_use_does_not_replace_a_later_one(database: Database, alice: str) -> None:
    clock = Clock()
    for ahead_s in (600, 0):
        clock.ahead_s = ahead_s
        async with Callers(database, auth(), Present(), now=clock.now).running() as callers:
            await callers.identify(bearer(alice))
    used = (await ApiKeys(database).list("alice"))[0].last_used_at
    assert used is not None
    assert used > datetime.now(UTC) + timedelta(seconds=300)


async def test_a_use_that_cannot_be_written_is_written_later(
    wire: Wire, remote: Database, database: Database, alice: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    callers = Callers(remote, auth(), Present(), now=clock.now, flush_s=0.02)
    async with callers.running():
        await callers.identify(bearer(alice))
        await wire.cut()
        clock.ahead_s = 600
        without_waiting(callers, alice)
        await until(lambda: "last use of keys not written" in caplog.text)
        await wire.mend()

        async def written() -> bool:
            used = (await ApiKeys(database).list("alice"))[0].last_used_at
            return used is not None and used > datetime.now(UTC) + timedelta(seconds=300)

        await until(written)


async def test_a_key_row_that_someone_holds_does_not_hold_up_the_others(database: Database, alice: str) -> None:
    other, _ = await ApiKeys(database).create("alice")
    first, second = await ApiKeys(database).list("alice")
    async with database.connection() as holder, holder.transaction():
        await holder.execute("SELECT 1 FROM api_keys WHERE id = $1 FOR UPDATE", first.id)
        async with Callers(database, auth(), Present()).running() as callers:
            for key in (alice, other):
                await callers.identify(bearer(key))
        assert (await ApiKeys(database).get(second.id)).last_used_at is not None
