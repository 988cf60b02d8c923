"""What ends in one place ends everywhere: a gateway under load hears of changes that somebody else has made.

Two gateways on one database, in this process and in one of its own (`parallama serve`), each with a cache and a
listener; the changes are made past both.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from calling import session_of, write
from e2e.databases import fresh_database
from processes import place
from running import CEILING_S, PATIENT, eventually

from parallama.app import build_app
from parallama.config import Settings
from parallama.db.pool import Database
from parallama.identity.api_keys import ApiKeys
from parallama.identity.tokens import AccessTokens
from parallama.identity.users import Users
from parallama.server import make_runner

pytestmark = pytest.mark.asyncio(loop_scope="module")

NODE = "http://127.0.0.1:1"
SECRET = "the secret of both gateways of 48 characters, random"
WORKERS, AFTERWARDS = 3, 20
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Pair:
    """Two gateways on one database."""

    urls: tuple[str, str]
    """Of the one in this process, of the one in its own."""
    database: Database
    http: aiohttp.ClientSession


@dataclass(frozen=True)
class User:
    """Somebody of the role `watcher_N`, which may view metrics."""

    name: str
    role: str
    key: str
    token: str


@dataclass
class Load:
    """Workers that ask one gateway with one credential again and again, and go on after it was refused."""

    http: aiohttp.ClientSession
    url: str
    credential: str
    answers: list[int] = field(default_factory=list)
    refused: int | None = None
    """The first status that was neither 200 nor 503."""
    late: list[int] = field(default_factory=list)
    """Answers to what was asked after the first refusal."""

    async def ask(self) -> int:
        headers = {"Authorization": f"Bearer {self.credential}"}
        async with self.http.get(f"{self.url}/status", headers=headers) as answer:
            await answer.read()
            return answer.status

    async def work(self) -> None:
        while len(self.late) < AFTERWARDS:
            late = self.refused is not None
            status = await self.ask()
            (self.late if late else self.answers).append(status)
            if status not in (200, 503):
                self.refused = self.refused or status


@asynccontextmanager
async def serving(database_url: str, state: Path) -> AsyncIterator[str]:
    settings = Settings.model_validate({"nodes": [{"name": "none", "url": NODE}], "auth": {"jwt_secret": SECRET}})
    runner = make_runner(build_app(settings, database_url, state), settings)
    try:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def serving_elsewhere(database_url: str) -> AsyncIterator[str]:
    """The URL of a gateway in an operating system process of its own; it stops in order at the end."""
    env: dict[str, Any] = {"PARALLAMA_DB_URL": database_url, "PARALLAMA_JWT_SECRET": SECRET}
    env |= {"PARALLAMA__NODES__0__NAME": "none", "PARALLAMA__NODES__0__URL": NODE}
    with place() as here:
        running = here.start("serve", "--port", "0", **env)
        await asyncio.to_thread(running.ready)
        yield running.url
        assert await asyncio.to_thread(running.end) == 0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    async with (
        fresh_database(postgres) as url,
        Database(url, PATIENT).running() as database,
        serving(url, tmp_path_factory.mktemp("state")) as first,
        serving_elsewhere(url) as second,
        aiohttp.ClientSession() as http,
    ):
        yield Pair((first, second), database, http)


@pytest_asyncio.fixture(loop_scope="module")
async def user(pair: Pair) -> User:
    return await make_user(pair.database)


async def make_user(database: Database) -> User:
    number = next(_numbers)
    name, role = f"user-{number}", f"watcher_{number}"
    await write(database, "INSERT INTO roles (name, permissions) VALUES ($1, '{view_metrics,use_ollama}')", role)
    await Users(database).create(name, role=role)
    key, _ = await ApiKeys(database).create(name)
    session_id, user_id = await session_of(database, name)
    return User(name, role, key, AccessTokens(SECRET, None, 1800).issue(user_id, session_id, 0))


Change = Callable[[Database, User], Awaitable[object]]


async def other_role(database: Database, user: User) -> None:
    await Users(database).update(user.name, role="basic")


async def poorer_role(database: Database, user: User) -> None:
    await write(database, "UPDATE roles SET permissions = '{use_ollama}' WHERE name = $1", user.role)


async def ended_assignment(database: Database, user: User) -> None:
    await write(database, "UPDATE assignments SET ended_at = now() WHERE role = $1", user.role)


async def revoked(database: Database, user: User) -> None:
    await ApiKeys(database).revoke_all(user.name)


async def disabled(database: Database, user: User) -> None:
    (key,) = await ApiKeys(database).list(user.name)
    await ApiKeys(database).update(key.id, changes={"enabled": False})


async def rotated(database: Database, user: User) -> None:
    (key,) = await ApiKeys(database).list(user.name)
    await ApiKeys(database).rotate(key.id, grace_s=0)


async def deactivated(database: Database, user: User) -> None:
    await Users(database).update(user.name, active=False)


async def deleted(database: Database, user: User) -> None:
    await Users(database).delete(user.name)


OF_USER = "user_id = (SELECT id FROM users WHERE username = $1)"


async def ended_session(database: Database, user: User) -> None:
    await write(database, f"UPDATE sessions SET revoked_at = now(), revoked_for = 'admin' WHERE {OF_USER}", user.name)


async def new_generation(database: Database, user: User) -> None:
    await write(database, f"UPDATE sessions SET generation = generation + 1 WHERE {OF_USER}", user.name)


async def ended_behind_the_listeners(database: Database, user: User) -> None:
    """All connections of the gateways are cut in the transaction that ends the key, its role and its session."""
    async with database.connection() as one, one.transaction():
        await one.execute(f"UPDATE sessions SET revoked_at = now() WHERE {OF_USER}", user.name)
        await one.execute(f"UPDATE api_keys SET revoked_at = now() WHERE {OF_USER}", user.name)
        await one.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


async def check_under_load(pair: Pair, user: User, credential: str, change: Change, status: int) -> None:
    """Both gateways serve `credential` until `change`, then refuse it, and nobody else."""
    other = await make_user(pair.database)
    loads = [Load(pair.http, url, credential) for url in pair.urls]
    async with asyncio.timeout(CEILING_S), asyncio.TaskGroup() as tasks:
        for load in loads * WORKERS:
            tasks.create_task(load.work())
        await eventually(lambda: all(len(load.answers) >= 2 * WORKERS for load in loads))
        assert {answer for load in loads for answer in load.answers} == {200}
        await change(pair.database, user)
    for load in loads:
        assert load.refused == status
        assert set(load.late) <= {status, 503}
        assert await Load(pair.http, load.url, other.key).ask() == 200


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (other_role, 403),
        (poorer_role, 403),
        (ended_assignment, 403),
        (revoked, 401),
        (disabled, 401),
        (rotated, 401),
        (deactivated, 401),
        (deleted, 401),
    ],
)
async def test_what_ends_a_key_bites_in_every_gateway_under_load(
    pair: Pair, user: User, change: Change, status: int
) -> None:
    await check_under_load(pair, user, user.key, change, status)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (other_role, 403),
        (poorer_role, 403),
        (deactivated, 401),
        (deleted, 401),
        (ended_session, 401),
        (new_generation, 401),
    ],
)
async def test_what_ends_a_token_bites_in_every_gateway_under_load(
    pair: Pair, user: User, change: Change, status: int
) -> None:
    await check_under_load(pair, user, user.token, change, status)


@pytest.mark.parametrize("credential", ["key", "token"])
async def test_a_change_that_no_listener_heard_bites_as_soon_as_they_are_back(
    pair: Pair, user: User, credential: str
) -> None:
    await check_under_load(pair, user, getattr(user, credential), ended_behind_the_listeners, 401)
