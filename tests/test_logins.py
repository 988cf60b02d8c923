"""Logins: what a name and a password give, what a refresh token gives, and what nobody learns."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from argon2 import PasswordHasher
from e2e.databases import fresh_database
from running import PATIENT

from parallama.config import AuthSettings, DatabaseSettings
from parallama.db.pool import Database
from parallama.errors import Conflict, Invalid, NotAllowed, NotAuthenticated, OverLimit, Unavailable
from parallama.identity.logins import Logins
from parallama.identity.passwords import Passwords
from parallama.identity.sessions import new_token
from parallama.identity.tokens import AccessTokens
from parallama.identity.users import UserRecord, Users

pytestmark = pytest.mark.asyncio(loop_scope="module")

START = datetime(2030, 1, 1, tzinfo=UTC)
RIGHT, HOME = "four llamas in a row", "10.0.0.1"
REQUEST = UUID(int=7)
WRONG_MESSAGE = "wrong user name or password"


class Clock:
    """Both clocks in one."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


class World:
    """A user with a password, in a gateway that has just begun."""

    def __init__(self, database: Database, passwords: Passwords, auth: AuthSettings) -> None:
        self.clock, self.database, self.passwords, self.auth = Clock(), database, passwords, auth
        self.tokens = AccessTokens("k" * 20 + "0123456789ab", None, 1800, self.clock.now)
        clocks = {"now": self.clock.now, "monotonic": self.clock.monotonic}
        self.logins = Logins(database, auth, passwords, self.tokens, **clocks)
        self.users = Users(database, now=self.clock.now)
        self.name = f"u{uuid4().hex[:12]}"

    async def user(self) -> UserRecord:
        return await self.users.get(self.name)

    async def refused(self, name: str | None = None, password: str = RIGHT, address: str = HOME) -> None:
        """Refused like every other."""
        with pytest.raises(NotAuthenticated) as caught:
            await self.logins.login(self.name if name is None else name, password, address)
        assert (str(caught.value), caught.value.code) == (WRONG_MESSAGE, "invalid_credentials")

    async def refresh_refused(self, token: str, address: str = HOME) -> str:
        with pytest.raises(NotAuthenticated) as caught:
            await self.logins.refresh(token, address)
        return caught.value.code


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(postgres: str) -> AsyncIterator[Database]:
    async with fresh_database(postgres) as url, Database(url, PATIENT).running() as database:
        yield database


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cheap() -> AsyncIterator[Passwords]:
    async with Passwords(passes=1, memory_kib=8).running() as passwords:
        yield passwords


Make = Callable[..., Any]


@pytest_asyncio.fixture(loop_scope="module")
async def make(pool: Database, cheap: Passwords) -> Make:
    async def make(**auth: Any) -> World:
        world = World(pool, cheap, AuthSettings(**auth))
        await world.users.create(world.name, password_hash=await cheap.hash(RIGHT))
        return world

    return make


@pytest_asyncio.fixture(loop_scope="module")
async def world(make: Make) -> World:
    world: World = await make()
    return world


async def test_a_login_gives_a_pair_of_tokens(world: World) -> None:
    pair = await world.logins.login(world.name.upper(), RIGHT, HOME)
    assert (pair.token_type, pair.expires_in) == ("bearer", 1800)
    claims = world.tokens.read(pair.access_token)
    assert claims.user_id == (await world.user()).id
    assert (await world.user()).last_login_at == START
    refreshed = await world.logins.refresh(pair.refresh_token, HOME)
    again = world.tokens.read(refreshed.access_token)
    assert (again.session_id, again.generation) == (claims.session_id, claims.generation)
    assert refreshed.refresh_token != pair.refresh_token


async def test_a_login_is_audited_as_the_users_own(world: World) -> None:
    pair = await world.logins.login(world.name, RIGHT, HOME, REQUEST)
    session = world.tokens.read(pair.access_token).session_id
    async with world.database.connection() as one:
        row = await one.fetchrow("SELECT * FROM audit WHERE target = $1", str(session))
    assert row is not None
    assert (row["action"], row["actor"], row["via"]) == ("session.create", world.name, "login")
    assert (row["address"], row["request_id"]) == (HOME, REQUEST)


async def test_no_refusal_tells_whether_there_is_such_a_user(world: World, cheap: Passwords) -> None:
    without, inactive = f"w{uuid4().hex[:12]}", f"i{uuid4().hex[:12]}"
    await world.users.create(without)
    await world.users.create(inactive, password_hash=await cheap.hash(RIGHT))
    await world.users.update(inactive, active=False)
    await world.refused(password="wrong")
    for name in (without, inactive, "nobody-here", "no user name ✓", "", "x" * 10_000, str((await world.user()).id)):
        await world.refused(name)


async def test_every_refusal_costs_one_verification_at_our_parameters(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[int] = []
    real = PasswordHasher.verify

    def watched(self: PasswordHasher, encoded: str, password: bytes) -> bool:
        verified.append(len(encoded))
        return real(self, encoded, password)

    monkeypatch.setattr(PasswordHasher, "verify", watched)
    await world.refused(password="wrong")
    await world.refused("nobody-here")
    await world.refused("no user name ✓")
    assert len(verified) == 3
    assert len(set(verified)) == 1


async def test_throttling_does_not_tell_either_and_verifies_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (world.name, "nobody-here"):
        for _ in range(5):
            await world.refused(name, "wrong")
    monkeypatch.setattr(PasswordHasher, "verify", lambda *_: pytest.fail("verified"))
    for name in (world.name, "nobody-here"):
        with pytest.raises(OverLimit, match="too many failed logins: try again in 1 s") as caught:
            await world.logins.login(name, RIGHT, HOME)
        assert caught.value.retry_after_s == 1


async def test_the_owner_comes_in_after_the_wait_and_is_free_again(world: World) -> None:
    for _ in range(5):
        await world.refused(password="wrong")
    world.clock.seconds += 1
    await world.logins.login(world.name, RIGHT, HOME)
    for _ in range(5):
        await world.refused(password="wrong")


async def test_a_login_that_could_not_be_verified_does_not_count(world: World) -> None:
    async with Passwords(most_waiting=-2).running() as full:
        busy = Logins(world.database, world.auth, full, world.tokens, monotonic=world.clock.monotonic)
        for _ in range(40):
            with pytest.raises(Unavailable):
                await busy.login(world.name, RIGHT, HOME)


async def test_other_parameters_are_brought_up_to_date_at_login_and_sessions_stay(world: World) -> None:
    before = await world.logins.login(world.name, RIGHT, HOME)
    async with Passwords(passes=2, memory_kib=8).running() as newer:
        logins = Logins(world.database, world.auth, newer, world.tokens, now=world.clock.now)
        await logins.login(world.name, RIGHT, HOME)
        stored = await world.users.password_of(world.name)
        assert stored is not None
        assert stored.password is not None
        assert (await newer.verify(stored.password, RIGHT)) == (True, False)
    await world.logins.refresh(before.refresh_token, HOME)


async def test_a_password_that_changes_while_it_is_verified_lets_nobody_in(world: World) -> None:
    class Slow(Passwords):
        async def verify(self, encoded: str | None, password: str) -> Any:
            await world.users.set_password(world.name, "$changed")
            return await world.passwords.verify(encoded, password)

    slow = Logins(world.database, world.auth, Slow(), world.tokens)
    with pytest.raises(NotAuthenticated, match=WRONG_MESSAGE):
        await slow.login(world.name, RIGHT, HOME)


async def test_of_parallel_refreshes_one_wins(world: World) -> None:
    pair = await world.logins.login(world.name, RIGHT, HOME)
    both = (world.logins.refresh(pair.refresh_token, HOME) for _ in range(2))
    codes = [getattr(use, "code", "won") for use in await asyncio.gather(*both, return_exceptions=True)]
    assert sorted(codes) == ["already_rotated", "won"]


async def test_a_refresh_token_may_be_tried_five_times_a_minute(world: World) -> None:
    token = (await world.logins.login(world.name, RIGHT, HOME)).refresh_token
    await world.logins.refresh(token, HOME)
    for _ in range(4):
        assert await world.refresh_refused(token) == "already_rotated"
    with pytest.raises(OverLimit, match="uses of this refresh token") as caught:
        await world.logins.refresh(token, "10.0.0.2")
    assert caught.value.retry_after_s == 60
    world.clock.seconds += 60
    assert await world.refresh_refused(token) == "not_authenticated"


async def test_a_use_that_the_database_did_not_answer_does_not_count(world: World) -> None:
    token = (await world.logins.login(world.name, RIGHT, HOME)).refresh_token
    narrow = DatabaseSettings(pool_size=1, acquire_s=0.01)
    async with Database(world.database.url, narrow).running() as busy, busy.connection(limit_s=60):
        world.logins._database = busy
        for _ in range(10):
            with pytest.raises(Unavailable):
                await world.logins.refresh(token, HOME)
    world.logins._database = world.database
    await world.logins.refresh(token, HOME)


async def test_the_attempts_are_the_settings(make: Make) -> None:
    world = await make(refresh_attempts=1)
    pair = await world.logins.login(world.name, RIGHT, HOME)
    await world.logins.refresh(pair.refresh_token, HOME)
    with pytest.raises(OverLimit):
        await world.logins.refresh(pair.refresh_token, HOME)


async def test_of_a_place_only_failed_refreshes_count(world: World) -> None:
    token = (await world.logins.login(world.name, RIGHT, HOME)).refresh_token
    for _ in range(35):
        token = (await world.logins.refresh(token, HOME)).refresh_token
    for _ in range(30):
        assert await world.refresh_refused(new_token()) == "not_authenticated"
    with pytest.raises(OverLimit, match="not valid"):
        await world.logins.refresh(token, HOME)
    await world.logins.refresh(token, "10.0.0.2")


async def test_an_access_token_is_no_refresh_token(world: World) -> None:
    pair = await world.logins.login(world.name, RIGHT, HOME)
    assert await world.refresh_refused(pair.access_token) == "not_authenticated"


async def test_after_logout_the_refresh_token_is_dead(world: World) -> None:
    pair = await world.logins.login(world.name, RIGHT, HOME)
    await world.logins.logout(pair.refresh_token, HOME)
    await world.logins.logout(pair.refresh_token, HOME)
    await world.logins.logout("unknown", HOME)
    assert await world.refresh_refused(pair.refresh_token) == "not_authenticated"


async def test_registration_is_closed_unless_it_is_opened(world: World) -> None:
    with pytest.raises(NotAllowed) as caught:
        await world.logins.register("newcomer", RIGHT, HOME)
    assert caught.value.code == "registration_closed"
    assert await world.users.password_of("newcomer") is None


async def test_a_newcomer_is_basic_and_logged_in(make: Make) -> None:
    world, name = await make(registration=True), f"n{uuid4().hex[:12]}"
    made = await world.logins.register(name, RIGHT, HOME)
    assert (made.username, made.role) == (name, "basic")
    user = await world.users.get(name)
    assert (user.id, user.role, user.admin) == (made.user_id, "basic", False)
    assert world.tokens.read((await world.logins.refresh(made.refresh_token, HOME)).access_token).user_id == user.id
    await world.logins.login(name, RIGHT, HOME)
    with pytest.raises(Conflict, match="is taken"):
        await world.logins.register(name.upper(), RIGHT, HOME)


@pytest.mark.parametrize(("name", "password"), [("newcomer2", "short"), ("no name ✓", RIGHT)])
async def test_a_weak_password_or_a_bad_name_makes_no_user(make: Make, name: str, password: str) -> None:
    world = await make(registration=True)
    with pytest.raises(Invalid):
        await world.logins.register(name, password, HOME)
    assert await world.users.password_of(name) is None


@pytest.mark.parametrize("name", ["anonymous", "Anonymous"])
async def test_nobody_becomes_the_user_that_callers_without_a_credential_are(make: Make, name: str) -> None:
    world = await make(registration=True)
    with pytest.raises(Conflict, match="is taken"):
        await world.logins.register(name, RIGHT, HOME)
    assert await world.users.password_of(name) is None


async def test_many_right_logins_at_once_behind_one_address_are_told_to_come_back_at_once(world: World) -> None:
    names = [f"u{uuid4().hex[:12]}" for _ in range(31)]
    encoded = await world.passwords.hash(RIGHT)
    for name in names:
        await world.users.create(name, password_hash=encoded)
    tried = await asyncio.gather(*(world.logins.login(name, RIGHT, HOME) for name in names), return_exceptions=True)
    refused = [one for one in tried if isinstance(one, OverLimit)]
    assert [one.retry_after_s for one in refused] == [1]
    await world.logins.login(names[-1], RIGHT, HOME)


async def test_a_place_registers_ten_a_minute(make: Make) -> None:
    world = await make(registration=True)
    for _ in range(10):
        with pytest.raises(Invalid):
            await world.logins.register("newcomer3", "short", HOME)
    with pytest.raises(OverLimit, match="registrations"):
        await world.logins.register("newcomer3", RIGHT, HOME)
    await world.logins.register(f"n{uuid4().hex[:12]}", RIGHT, "10.0.0.2")


async def test_the_log_holds_no_secret_and_no_name_of_nobody(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "parallama.auth")
    pair = await world.logins.login(world.name, RIGHT, HOME, REQUEST)
    await world.refused(password="my-wrong-secret")
    await world.refused("my-secret-as-a-name")
    await world.logins.refresh(pair.refresh_token, HOME)
    world.clock.seconds += 11
    await world.refresh_refused(pair.refresh_token)
    lines = [(record.message, getattr(record, "fields", {})) for record in caplog.records]
    said = [message for message, _ in lines]
    assert said == ["login", "login failed", "login failed", "session revoked", "refresh failed"]
    assert lines[0][1]["request_id"] == str(REQUEST)
    assert lines[1][1] == {"remote": HOME, "user": world.name}
    assert lines[2][1] == {"remote": HOME}
    assert lines[3][1]["reason"] == "reuse"
    for secret in (RIGHT, "my-", pair.refresh_token, pair.access_token):
        assert secret not in str(lines)
