"""Sessions: refresh tokens are good once, and whatever ends a session ends all that came of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from e2e.databases import fresh_database
from running import PATIENT, eventually

from parallama.config import AuthSettings
from parallama.db.pool import Database
from parallama.errors import NotAllowed, NotAuthenticated, NotFound
from parallama.exchange import Caller
from parallama.identity import keys
from parallama.identity.actor import SERVER, Actor
from parallama.identity.sessions import Opened, Sessions, new_token, well_formed
from parallama.identity.users import Users

pytestmark = pytest.mark.asyncio(loop_scope="module")

START = datetime(2030, 1, 1, tzinfo=UTC)
AUTH = AuthSettings(refresh_token_s=3600, token_keep_s=600)
ALREADY, NOT_VALID = "already_rotated", "not_authenticated"


class Clock:
    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time

    def pass_(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


class World:
    """One user of a database, and a clock."""

    def __init__(self, database: Database, name: str) -> None:
        self.database, self.name, self.clock = database, name, Clock()
        self.users = Users(database, now=self.clock)
        self.sessions = self.acting(SERVER)
        self.user_id = UUID(int=0)

    def acting(self, actor: Actor) -> Sessions:
        return Sessions(self.database, actor, AUTH, self.clock)

    async def open(self) -> Opened:
        return await self.sessions.open(self.user_id, "10.0.0.1")

    async def refusal(self, token: str) -> str:
        with pytest.raises(NotAuthenticated) as caught:
            await self.sessions.rotate(token)
        assert not token or token not in str(caught.value)
        return caught.value.code

    async def revoked_for(self, session_id: UUID) -> str | None:
        everything = await self.sessions.list(self.name, ended=True)
        return next(one.revoked_for for one in everything if one.id == session_id)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(postgres: str) -> AsyncIterator[Database]:
    async with fresh_database(postgres) as url, Database(url, PATIENT).running() as database:
        yield database


@pytest_asyncio.fixture(loop_scope="module")
async def world(pool: Database) -> World:
    world = World(pool, f"u{uuid4().hex[:12]}")
    world.user_id = (await world.users.create(world.name, password_hash="$stored")).id
    return world


async def test_a_token_rotates_and_the_next_one_too(world: World) -> None:
    opened = await world.open()
    first = await world.sessions.rotate(opened.refresh_token)
    second = await world.sessions.rotate(first.refresh_token)
    assert (second.user_id, second.session_id, second.generation) == (world.user_id, opened.session_id, 0)
    assert len({opened.refresh_token, first.refresh_token, second.refresh_token}) == 3
    assert type(second.user_id) is type(second.session_id) is type(opened.session_id) is UUID


async def test_a_used_token_is_only_refused_for_ten_seconds(world: World) -> None:
    opened = await world.open()
    rotated = await world.sessions.rotate(opened.refresh_token)
    world.clock.pass_(10)
    assert await world.refusal(opened.refresh_token) == ALREADY
    assert (await world.sessions.rotate(rotated.refresh_token)).session_id == opened.session_id


async def test_a_used_token_later_ends_the_session_with_the_live_successor(world: World) -> None:
    opened, other = await world.open(), await world.open()
    rotated = await world.sessions.rotate(opened.refresh_token)
    world.clock.pass_(10.001)
    assert await world.refusal(opened.refresh_token) == NOT_VALID
    assert await world.refusal(rotated.refresh_token) == NOT_VALID
    assert await world.revoked_for(opened.session_id) == "reuse"
    assert (await world.sessions.rotate(other.refresh_token)).session_id == other.session_id


async def test_reuse_is_audited(world: World) -> None:
    opened = await world.open()
    await world.sessions.rotate(opened.refresh_token)
    world.clock.pass_(11)
    actor = Actor(name="nobody", via="login", request_id=uuid4(), address="10.9.9.9")
    with pytest.raises(NotAuthenticated):
        await world.acting(actor).rotate(opened.refresh_token)
    async with world.database.connection() as one:
        row = await one.fetchrow("SELECT * FROM audit WHERE target = $1 ORDER BY id DESC", str(opened.session_id))
    assert row is not None
    assert (row["action"], row["username"], row["actor"]) == ("session.change", world.name, "nobody")
    assert (row["address"], row["request_id"]) == ("10.9.9.9", actor.request_id)
    assert '"reuse"' in row["after"]


async def test_of_parallel_uses_one_wins(world: World) -> None:
    token = (await world.open()).refresh_token
    for _ in range(25):
        uses = await asyncio.gather(*(world.sessions.rotate(token) for _ in range(3)), return_exceptions=True)
        won = [use for use in uses if not isinstance(use, BaseException)]
        assert len(won) == 1
        assert [use.code for use in uses if isinstance(use, NotAuthenticated)] == [ALREADY] * 2
        token = won[0].refresh_token


async def test_a_rotation_that_meets_a_revocation_gives_nothing_that_lives(world: World) -> None:
    for _ in range(15):
        token = (await world.open()).refresh_token
        rotated, _ = await asyncio.gather(
            world.sessions.rotate(token), world.sessions.revoke_all(world.name), return_exceptions=True
        )
        assert await world.refusal(token) == NOT_VALID
        if not isinstance(rotated, BaseException):
            assert await world.refusal(rotated.refresh_token) == NOT_VALID


async def test_a_login_that_meets_a_password_change_gives_nothing_that_lives(world: World) -> None:
    for round_ in range(15):
        stored, changed = f"$stored{round_}", f"$changed{round_}"
        await world.users.set_password(world.name, stored)
        opened, _ = await asyncio.gather(
            world.sessions.open(world.user_id, None, password=stored),
            world.users.set_password(world.name, changed),
            return_exceptions=True,
        )
        if not isinstance(opened, BaseException):
            assert await world.refusal(opened.refresh_token) == NOT_VALID
        assert await world.sessions.list(world.name) == []


async def test_a_session_ends_however_often_it_was_refreshed(world: World) -> None:
    token = (await world.open()).refresh_token
    for _ in range(3):
        world.clock.pass_(1000)
        token = (await world.sessions.rotate(token)).refresh_token
    world.clock.pass_(600 - 0.001)
    token = (await world.sessions.rotate(token)).refresh_token
    world.clock.pass_(0.001)
    assert await world.refusal(token) == NOT_VALID


async def test_logout_ends_the_session_with_any_of_its_tokens(world: World) -> None:
    for old in (True, False):
        opened = await world.open()
        rotated = await world.sessions.rotate(opened.refresh_token)
        await world.sessions.revoke_by_token(opened.refresh_token if old else rotated.refresh_token)
        assert await world.refusal(rotated.refresh_token) == NOT_VALID
        assert await world.revoked_for(opened.session_id) == "logout"


@pytest.mark.parametrize(
    "token",
    ["", "rt_", new_token(), keys.new_key(), "rt_" + "0" * 43 + "_000000", "x" * 100_000],
    ids=["empty", "prefix", "unknown", "key", "checksum", "long"],
)
async def test_a_token_that_is_none_is_refused_and_ends_nothing(world: World, token: str) -> None:
    opened = await world.open()
    assert await world.refusal(token) == NOT_VALID
    await world.sessions.revoke_by_token(token)
    assert (await world.sessions.rotate(opened.refresh_token)).session_id == opened.session_id


async def test_every_change_of_one_character_of_a_token_is_seen(world: World) -> None:
    token = new_token()
    assert well_formed(token)
    assert not any(well_formed(token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]) for at in range(53))


async def test_no_token_is_stored(world: World) -> None:
    opened = await world.open()
    rotated = await world.sessions.rotate(opened.refresh_token)
    async with world.database.connection() as one:
        tables = ("sessions", "refresh_tokens", "audit")
        dump = "".join([str(await one.fetch(f"SELECT t::text FROM {table} t")) for table in tables])
    assert keys.digest(rotated.refresh_token).hex() in dump
    assert opened.refresh_token not in dump
    assert rotated.refresh_token not in dump


async def test_who_is_inactive_gets_no_session_and_keeps_none(world: World) -> None:
    opened = await world.open()
    await world.users.update(world.name, active=False)
    assert await world.refusal(opened.refresh_token) == NOT_VALID
    with pytest.raises(NotAuthenticated):
        await world.open()
    await world.users.update(world.name, active=True)
    assert await world.refusal(opened.refresh_token) == NOT_VALID


async def test_revoking_all_spares_other_users(world: World) -> None:
    opened = [await world.open() for _ in range(3)]
    await world.sessions.revoke(world.name, opened[0].session_id)
    other = await world.users.create(f"o{uuid4().hex[:12]}")
    kept = await world.sessions.open(other.id, None)
    assert await world.sessions.revoke_all(world.name.upper()) == 2
    assert await world.sessions.revoke_all(world.name) == 0
    assert [await world.refusal(one.refresh_token) for one in opened] == [NOT_VALID] * 3
    assert (await world.sessions.rotate(kept.refresh_token)).user_id == other.id


async def test_rotating_the_access_tokens_keeps_the_refresh_tokens(world: World) -> None:
    opened, ended = await world.open(), await world.open()
    await world.sessions.revoke_by_token(ended.refresh_token)
    assert await world.sessions.rotate_tokens(world.name) == 1
    assert (await world.sessions.rotate(opened.refresh_token)).generation == opened.generation + 1
    assert (await world.open()).generation == 0


async def test_a_session_is_revoked_only_as_its_users(world: World) -> None:
    opened = await world.open()
    other = await world.users.create(f"o{uuid4().hex[:12]}")
    for session_id in (opened.session_id, uuid4()):
        with pytest.raises(NotFound, match="has no session"):
            await world.sessions.revoke(other.username, session_id)
    await world.sessions.revoke(world.name, opened.session_id)
    await world.sessions.revoke(world.name, opened.session_id)
    assert await world.revoked_for(opened.session_id) == "admin"


async def test_sessions_are_listed_in_parts_oldest_first(world: World) -> None:
    opened = []
    for _ in range(5):
        opened.append((await world.open()).session_id)
        world.clock.pass_(1)
    await world.sessions.revoke(world.name, opened[2])
    first = await world.sessions.list(world.name, limit=2)
    rest = await world.sessions.list(world.name, after=(first[-1].created_at, first[-1].id))
    assert [one.id for one in first + rest] == [*opened[:2], *opened[3:]]
    everything = await world.sessions.list(world.name, ended=True)
    assert [one.id for one in everything] == opened
    assert everything[0].username == world.name
    assert (everything[0].address, everything[0].created_at) == ("10.0.0.1", START)
    assert everything[2].revoked_for == "admin"
    world.clock.pass_(3600)
    assert await world.sessions.list(world.name) == []


async def test_unknown_users_have_no_sessions(world: World) -> None:
    for asked in (world.sessions.list, world.sessions.revoke_all, world.sessions.rotate_tokens):
        with pytest.raises(NotFound, match="there is no user 'nobody-here'"):
            await asked("nobody-here")


async def test_who_may_less_ends_no_sessions_of_who_may_more(world: World) -> None:
    await world.users.update(world.name, admin=True)
    caller = Caller(user_id=uuid4(), username="hand", key_id=None, admin=False, permissions=frozenset({"manage_users"}))
    helper = world.acting(Actor(name="hand", via="api", caller=caller))
    opened = await world.open()
    with pytest.raises(NotAllowed, match="only an admin"):
        await helper.revoke_all(world.name)
    with pytest.raises(NotAllowed, match="only an admin"):
        await helper.revoke(world.name, opened.session_id)
    assert await world.revoked_for(opened.session_id) is None


async def test_clean_up_deletes_what_ended_long_enough_ago(world: World) -> None:
    revoked, live = await world.open(), await world.open()
    await world.sessions.revoke_by_token(revoked.refresh_token)
    world.clock.pass_(600)
    await world.sessions.cleanup()
    assert len(await world.sessions.list(world.name, ended=True)) == 2
    world.clock.pass_(1)
    await world.sessions.cleanup()
    assert [one.id for one in await world.sessions.list(world.name, ended=True)] == [live.session_id]
    world.clock.pass_(3600)
    await world.sessions.cleanup()
    assert await world.sessions.list(world.name, ended=True) == []
    assert await world.refusal(live.refresh_token) == NOT_VALID


async def test_clean_up_runs_by_itself(world: World) -> None:
    await world.open()
    world.clock.pass_(5000)
    async with world.sessions.running():

        async def gone() -> bool:
            return not await world.sessions.list(world.name, ended=True)

        assert await eventually(gone)
