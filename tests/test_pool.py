"""The pool: limits on every wait, and a database that comes and goes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from running import eventually

from parallama.config import DatabaseSettings
from parallama.db.cluster import Cluster
from parallama.db.embedded import embedded
from parallama.db.pool import BadRows, Database, connect
from parallama.db.query import Query
from parallama.errors import ConfigError, Unavailable

CEILING_S = 60.0

ONE = Query("one", (), "SELECT 1")
MOVE = Query("move", (), "INSERT INTO things SELECT (line ->> 0)::int, line ->> 1 FROM incoming ON CONFLICT DO NOTHING")
SLEEP = Query("sleep", (), "SELECT pg_sleep(3600)")
NUMBERS = Query("numbers", ("count",), "SELECT generate_series(1, $1::int) AS number")


@asynccontextmanager
async def pool(url: str, **settings: float) -> AsyncIterator[Database]:
    async with Database(url, DatabaseSettings.model_validate(settings)).running() as database:
        yield database


def postgres_pid(state: Path) -> int:
    found = Cluster.of(state).pid()
    assert found is not None
    return found


def send(state: Path, number: signal.Signals) -> None:
    """To PostgreSQL and all its children."""
    found = postgres_pid(state)
    children = Path(f"/proc/{found}/task/{found}/children").read_text().split()
    for one in (found, *map(int, children)):
        os.kill(one, number)


async def test_rows_come_back(database: Database) -> None:
    assert [row["number"] for row in await database.fetch(NUMBERS, 3)] == [1, 2, 3]
    row = await database.fetchrow(ONE)
    assert row is not None
    assert row[0] == 1
    assert await database.fetchrow(NUMBERS, 0) is None


async def test_changed_rows_are_counted(database: Database) -> None:
    insert = Query("insert", (), "INSERT INTO users (username) VALUES ('alice'), ('bob')")
    assert await database.execute(insert) == 2
    assert await database.execute(Query("none", (), "DELETE FROM users WHERE username = 'carol'")) == 0
    assert await database.execute(Query("set", (), "SET work_mem = '4MB'")) == 0


async def test_a_stream_brings_every_row_and_may_be_left_early(database: Database) -> None:
    assert [row["number"] async for row in database.stream(NUMBERS, 1234)] == list(range(1, 1235))
    async with aclosing(database.stream(NUMBERS, 1_000_000)) as rows:
        assert (await anext(rows))["number"] == 1
    await eventually(lambda: database.size()[0] == database.size()[1])


async def test_a_statement_that_is_wrong_is_not_an_outage(database: Database) -> None:
    with pytest.raises(asyncpg.UndefinedTableError):
        await database.fetch(Query("wrong", (), "SELECT * FROM nowhere"))
    with pytest.raises(asyncpg.UniqueViolationError):
        await database.execute(Query("twice", (), "INSERT INTO users (username) VALUES ('a'), ('A')"))
    with pytest.raises(asyncpg.DataError):
        await database.fetch(NUMBERS, "three")


async def test_a_statement_that_takes_too_long_is_unavailable_and_its_connection_is_free_again(
    database_url: str,
) -> None:
    async with pool(database_url, pool_size=1) as database:
        with pytest.raises(Unavailable):
            await database.fetchrow(SLEEP, limit_s=0.2)
        async with database.connection() as one:
            asleep = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()"
            assert await one.fetchval(asleep) == 0


async def test_the_configured_limit_holds_when_none_is_named(database_url: str) -> None:
    async with pool(database_url, command_s=0.2) as database:
        with pytest.raises(Unavailable):
            await asyncio.wait_for(database.fetch(SLEEP), CEILING_S)


async def test_a_pool_that_is_used_up_is_unavailable(database_url: str) -> None:
    async with pool(database_url, pool_size=1, acquire_s=0.1) as database:
        async with database.connection():
            with pytest.raises(Unavailable):
                await asyncio.wait_for(database.fetch(ONE), CEILING_S)
        assert await database.fetch(ONE)


async def test_a_cancelled_caller_gives_its_connection_back(database_url: str) -> None:
    async with pool(database_url, pool_size=1, acquire_s=30) as database:
        asleep = asyncio.get_running_loop().create_task(database.fetch(SLEEP))
        await eventually(lambda: database.size()[1] == 0)
        asleep.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asleep
        assert await database.fetch(ONE)


async def test_a_killed_database_heals_without_a_restart_of_ours(state: Path) -> None:
    async with embedded(state) as url, pool(url, acquire_s=60, command_s=60) as database:
        await asyncio.gather(*(database.fetch(ONE) for _ in range(5)))
        inside = asyncio.get_running_loop().create_task(database.fetch(SLEEP))
        await eventually(lambda: database.size()[0] > database.size()[1])
        os.kill(postgres_pid(state), signal.SIGKILL)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(inside, CEILING_S)
        await eventually(lambda: Cluster.of(state).pid() is None)
        with pytest.raises(Unavailable):
            await database.fetch(ONE)
        async with embedded(state):
            answers = await asyncio.gather(*(database.fetch(ONE) for _ in range(20)))
            assert len(answers) == 20


async def test_a_database_that_hangs_is_unavailable_and_then_back(state: Path) -> None:
    async with embedded(state) as url, pool(url, pool_size=2, acquire_s=60, command_s=60) as database:
        await asyncio.gather(*(database.fetch(ONE) for _ in range(2)))
        send(state, signal.SIGSTOP)
        try:
            asked = (database.fetchrow(ONE, limit_s=0.5) for _ in range(6))
            answers = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), CEILING_S)
            assert [type(answer) for answer in answers] == [Unavailable] * 6
        finally:
            send(state, signal.SIGCONT)

        async with asyncio.timeout(CEILING_S):
            while True:
                try:
                    assert await database.fetch(ONE)
                    break
                except Unavailable:
                    await asyncio.sleep(0.01)


async def test_leaving_does_not_hang_on_a_database_that_does(state: Path) -> None:
    async with embedded(state) as url:
        async with pool(url, command_s=0.5) as database:
            await database.fetch(ONE, limit_s=60)
            send(state, signal.SIGSTOP)
        send(state, signal.SIGCONT)


async def test_a_copy_is_moved_whole_or_not_at_all(database: Database) -> None:
    async with database.connection() as one:
        await one.execute("CREATE TABLE things (id int PRIMARY KEY, name text NOT NULL)")
    await database.copy([b'[1,"one\\tand\\n\\\\n"]', b'[2,"two"]'], MOVE)
    await database.copy([b'[3,"three"]', b'[2,"other"]', b'[3,"again"]'], MOVE)
    for bad in (b"[5,null]", b'["five","five"]', rb'[5,"nul \u0000"]', b"[5"):
        with pytest.raises(BadRows):
            await database.copy([b'[4,"four"]', bad], MOVE)
    rows = await database.fetch(Query("things", (), "SELECT id, name FROM things ORDER BY id"))
    assert [tuple(row) for row in rows] == [(1, "one\tand\n\\n"), (2, "two"), (3, "three")]


async def test_without_a_database_it_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        async with pool(f"postgresql://alice@/none?host={tmp_path}"):
            pass


@pytest.mark.parametrize(
    "url", ["mysql://alice:s3cret@localhost/x", "postgresql://alice:pass@host:s3cret@localhost/x", "nonsense:s3cret"]
)
async def test_a_url_that_cannot_be_used_is_the_operators_error_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"database\.url") as wrong:
        await connect(url)
    assert "s3cret" not in str(wrong.value)


async def test_a_refused_login_is_the_operators_error(postgres: str) -> None:
    with pytest.raises(ConfigError, match=r'`database\.url`.*"stranger"'):
        await connect(postgres.replace("//parallama@", "//stranger:s3cret@"))


async def test_outside_its_block_it_is_a_bug_to_ask(database_url: str) -> None:
    database = Database(database_url, DatabaseSettings())
    with pytest.raises(RuntimeError):
        await database.fetch(ONE)
    assert database.size() == (0, 0)
