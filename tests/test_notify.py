"""The listener: what is told, what a loss is, and what comes after it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import aiohttp
import asyncpg
import pytest
from calling import Wire, bearer, patient, process, refused, write
from running import eventually, running_gateway

from parallama.config import DatabaseSettings
from parallama.db.cluster import Cluster
from parallama.db.embedded import embedded
from parallama.db.migrate import migrate
from parallama.db.notify import Listener
from parallama.db.pool import Database
from parallama.errors import ConfigError, Unavailable
from parallama.identity.api_keys import ApiKeys
from parallama.identity.users import Users

__all__ = ["patient"]


class Heard:
    """What a listener called."""

    def __init__(self, url: str) -> None:
        self.changes: list[tuple[str, str]] = []
        self.resets = 0
        self.listener = Listener(url, lambda kind, changed: self.changes.append((kind, changed)), self._reset)

    def _reset(self) -> None:
        self.resets += 1
        # a cache that is dropped while changes may still be missed would be wrong for ever
        assert self.listener.lost_since is not None

    async def until_lost(self) -> None:
        await eventually(lambda: self.listener.lost_since is not None)

    async def until_back(self) -> None:
        await eventually(lambda: self.listener.lost_since is None)


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[Heard]:
    heard = Heard(url)
    async with heard.listener.running():
        yield heard


async def say(url: str, *statements: str) -> None:
    one = await asyncpg.connect(url)
    try:
        for statement in statements:
            await one.execute(statement)
    finally:
        await one.close()


async def cut(url: str) -> None:
    """End every other connection to the database."""
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    await say(url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")


def send(state: Path, number: signal.Signals) -> None:
    """To PostgreSQL and all its children."""
    found = Cluster.of(state).pid()
    assert found is not None
    children = Path(f"/proc/{found}/task/{found}/children").read_text().split()
    for one in (found, *map(int, children)):
        os.kill(one, number)


async def test_changes_of_users_and_keys_are_told_in_order(database: Database) -> None:
    user, key = UUID(int=1), bytes(range(32))
    async with listening(database.url) as heard, database.connection() as one:
        await one.execute("INSERT INTO users (id, username) VALUES ($1, 'alice')", user)
        await one.execute("INSERT INTO api_keys (user_id, digest, hint) VALUES ($1, $2, '')", user, key)
        await one.execute("UPDATE api_keys SET last_used_at = now()")
        await one.execute("UPDATE api_keys SET revoked_at = now()")
        await one.execute("UPDATE users SET active = false")
        await one.execute("DELETE FROM users")
        about_user, about_key = ("user", str(user)), ("key", key.hex())
        # the use of a key changes nothing that is cached; keys go with their user
        await eventually(lambda: len(heard.changes) >= 6)
        assert heard.changes[:4] == [about_user, about_key, about_key, about_user]
        assert sorted(heard.changes[4:]) == [about_key, about_user]
        assert heard.listener.lost_since is None
        assert heard.resets == 0


async def test_who_has_caught_up_has_heard_of_all_that_was_committed_before(database: Database) -> None:
    async with listening(database.url) as heard:
        for number in range(50):
            user = await Users(database).create(f"u{number}")
            await heard.listener.caught_up()
            heard.changes.clear()
            await Users(database).update(user.username, active=False)
            await heard.listener.caught_up()
            assert ("user", str(user.id)) in heard.changes


async def test_what_is_rolled_back_is_not_told(database: Database) -> None:
    async with listening(database.url) as heard, database.connection() as one:
        transaction = one.transaction()
        await transaction.start()
        await one.execute("INSERT INTO users (username) VALUES ('alice')")
        await transaction.rollback()
        await one.execute("SELECT pg_notify('parallama', 'end')")
        await eventually(lambda: bool(heard.changes))
        assert heard.changes == [("end", "")]


async def test_a_cut_connection_is_made_again_and_caches_are_dropped(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(database_url) as heard:
        with caplog.at_level(logging.INFO, "parallama"):
            await cut(database_url)
            await eventually(lambda: heard.resets == 1)
            await heard.until_back()
            await say(database_url, "SELECT pg_notify('parallama', 'user 7')")
            await eventually(lambda: bool(heard.changes))
        assert heard.changes == [("user", "7")]
        assert [record.name for record in caplog.records] == ["parallama.error", "parallama.gateway"]


async def test_a_database_that_hangs_is_a_loss_until_it_goes_on(state: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with embedded(state) as url, listening(url) as heard:
        send(state, signal.SIGSTOP)
        try:
            await heard.until_lost()
            assert heard.resets == 0
        finally:
            send(state, signal.SIGCONT)
        await heard.until_back()
        assert heard.resets == 1
        await say(url, "SELECT pg_notify('parallama', 'user 7')")
        await eventually(lambda: bool(heard.changes))
    losses = [record for record in caplog.records if record.name == "parallama.error"]
    assert len(losses) == 1


async def test_leaving_does_not_wait_for_a_database_that_hangs(state: Path) -> None:
    async with embedded(state) as url:
        async with listening(url) as heard:
            send(state, signal.SIGSTOP)
            try:
                await heard.until_lost()
            except BaseException:
                send(state, signal.SIGCONT)
                raise
        send(state, signal.SIGCONT)


async def test_a_database_that_was_killed_is_listened_to_after_its_return(state: Path) -> None:
    async with embedded(state) as url:
        await migrate(url)
        async with listening(url) as heard:
            send(state, signal.SIGKILL)
            await heard.until_lost()
            async with embedded(state):
                await heard.until_back()
                assert heard.resets == 1
                await say(url, "INSERT INTO users (username) VALUES ('alice')")
                await eventually(lambda: bool(heard.changes))
                assert heard.changes[0][0] == "user"


async def test_without_a_database_it_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        async with listening(f"postgresql://alice@/none?host={tmp_path}"):
            pass


async def test_a_database_that_does_not_exist_is_the_operators_error(postgres: str) -> None:
    with pytest.raises(ConfigError, match=r"`database\.url`.*nowhere"):
        async with listening(postgres.replace("/postgres?", "/nowhere?")):
            pass


async def test_nobody_listens_after_leaving(database: Database) -> None:
    async with listening(database.url):
        pass
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "database listener"]


async def test_a_database_that_hangs_makes_cached_keys_unknown_and_those_that_ended_meanwhile_stay_dead(
    database_url: str,
) -> None:
    """PostgreSQL answers no more, and does not close either: its NOTIFY is on the way for as long as that lasts."""
    settings = {"auth": {"grace_s": 0.2}, "database": {"acquire_s": 60, "connect_s": 60}}
    async with (
        Wire(database_url).running() as wire,
        Database(database_url, DatabaseSettings(acquire_s=60, command_s=60)).running() as database,
        running_gateway(wire.url, "http://127.0.0.1:1", settings) as gateway,
    ):
        dead, live = Asked(gateway.http, gateway.url, gateway.admin_key), Asked(gateway.http, gateway.url, gateway.key)
        await asyncio.gather(dead.once(), live.once())
        assert (dead.statuses, live.statuses) == ([200], [200])
        wire.open.clear()
        await ApiKeys(database).revoke_all("root")
        await eventually(lambda: b"parallama" in wire.held)
        async with asyncio.TaskGroup() as tasks:
            for asked in (dead, live):
                tasks.create_task(asked.on_and_on())
            await eventually(lambda: all(asked.statuses.count(503) >= 3 for asked in (dead, live)))
            assert (dead.after_503(), live.after_503()) == ({503}, {503})
            wire.open.set()
            await eventually(lambda: (dead.statuses[-1], live.statuses[-1]) == (401, 200))
            dead.over = live.over = True
        assert (dead.after_503(), live.after_503()) == ({503, 401}, {503, 200})


class Asked:
    """A key that is asked with again and again, and the statuses of the answers."""

    def __init__(self, http: aiohttp.ClientSession, url: str, key: str) -> None:
        self._http, self._url, self._headers = http, f"{url}/me", {"Authorization": f"Bearer {key}"}
        self.statuses: list[int] = []
        self.over = False

    async def once(self) -> None:
        async with self._http.get(self._url, headers=self._headers) as answer:
            self.statuses.append(answer.status)

    async def on_and_on(self) -> None:
        while not self.over:
            await self.once()
            await asyncio.sleep(0.01)  # others are to have the processor

    def after_503(self) -> set[int]:
        """What was answered from the first 503 on."""
        return set(self.statuses[self.statuses.index(503) :])


@pytest.mark.usefixtures("patient")  # how long the listener is away is up to the test
async def test_a_look_up_that_was_in_flight_while_a_notify_was_lost_is_not_cached(
    database_url: str, database: Database
) -> None:
    await Users(database).create("alice")
    (first, _), (key, _) = [await ApiKeys(database).create("alice") for _ in range(2)]
    async with (
        Wire(database_url).running() as asked,
        Wire(database_url).running() as told,
        Database(asked.url, DatabaseSettings(command_s=20)).running() as remote,
        process(remote, listen=told.url) as (callers, listener),
    ):
        await callers.identify(bearer(first))  # the statement is prepared now: a look-up is one round trip
        asked.open.clear()
        async with asyncio.TaskGroup() as tasks:
            look_up = tasks.create_task(callers.identify(bearer(key)))
            await eventually(lambda: b"alice" in asked.held)
            await told.cut()
            await eventually(lambda: listener.lost_since is not None)
            await write(database, "UPDATE api_keys SET revoked_at = now()")
            await told.mend()
            await eventually(lambda: listener.lost_since is None)
            asked.open.set()
            assert (await look_up).username == "alice"
        assert await refused(callers, key)
        assert await refused(callers, first)
