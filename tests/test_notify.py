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

import asyncpg
import pytest
from running import eventually

from parallama.db.cluster import Cluster
from parallama.db.embedded import embedded
from parallama.db.migrate import migrate
from parallama.db.notify import Listener
from parallama.db.pool import Database
from parallama.errors import ConfigError, Unavailable


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
