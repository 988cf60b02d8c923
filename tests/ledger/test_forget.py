"""A process that is no more and whose journal nobody will read is forgotten: nothing of it is held any longer."""

from __future__ import annotations

import asyncio
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from journals import admitted, journal_in, left_behind, segment
from redis_server import RedisServer
from redis_stores import DAY, PATIENT, SLOTS, Start, waited_for
from store_rig import ZONE, Rig
from usage_rows import make_row, store

from parallama.cli import main
from parallama.cli.context import Context
from parallama.cli.forgotten import Left, forget, look
from parallama.cli.promises import promises
from parallama.config import Settings
from parallama.db.pool import Database
from parallama.errors import Conflict, NotFound
from parallama.ledger import entries
from parallama.ledger.home import LOCK
from parallama.ledger.redis_store import RedisStore


@pytest.fixture(autouse=True)
def patient() -> Iterator[None]:
    with waited_for():
        yield


def context(state: Path, server: RedisServer | None = None) -> Context:
    return Context(Settings.model_validate({"redis": {"url": server.url if server else None}}), state)


def dead_journal(state: Path, name: str = "dead") -> Path:
    """Of a process that was killed: one row, and one exchange that has not ended."""
    ended, open_ = make_row(), make_row()
    said = [entries.admit(admitted(row)) for row in (ended, open_)]
    return left_behind(state / "journal", segment(*said, entries.final(ended)), name=name)


async def dead_process(server: RedisServer, name: str = "dead") -> None:
    """One that has reserved for two requests and was not heard of for long."""
    store = RedisStore(server.url, ZONE, instance=name, terms=PATIENT)
    async with store.running():
        rig = Rig(store)
        for limit in (DAY, SLOTS):
            await rig.granted(limit)
    for key in server.names("alive"):
        server.say("DEL", key)


async def test_a_journal_is_deleted_and_its_rows_are_told(tmp_path: Path) -> None:
    home, other = dead_journal(tmp_path), dead_journal(tmp_path, "other")
    assert await look(context(tmp_path), "dead") == Left(rows=2, requests=0)
    assert home.is_dir()
    assert await forget(context(tmp_path), "dead") == Left(rows=2, requests=0)
    assert (home.exists(), other.exists()) == (False, True)


async def test_what_it_has_reserved_is_released(tmp_path: Path, server: RedisServer, start: Start) -> None:
    await dead_process(server)
    rig = Rig(await start())
    assert await rig.sums(DAY) != (0, 0)
    ctx = context(tmp_path, server)
    assert await forget(ctx, "dead") == Left(rows=None, requests=2)
    assert await rig.sums(DAY) == (0, 0)
    with pytest.raises(NotFound):
        await look(ctx, "dead")


async def test_a_process_that_runs_is_not_forgotten(tmp_path: Path, server: RedisServer, start: Start) -> None:
    async with journal_in(tmp_path / "journal") as journal:
        with pytest.raises(Conflict):
            await forget(context(tmp_path), journal.home.name)
        assert journal.home.is_dir()


async def test_a_process_that_was_just_heard_of_keeps_its_journal(tmp_path: Path, server: RedisServer) -> None:
    home = dead_journal(tmp_path)
    async with RedisStore(server.url, ZONE, instance="dead", terms=PATIENT).running():
        with pytest.raises(Conflict):
            await forget(context(tmp_path, server), "dead")
    assert home.is_dir()


@pytest.mark.parametrize("name", ["nobody", "..", ".", "", "dead/../dead"])
async def test_of_an_unknown_process_it_is_said_which_there_are(tmp_path: Path, server: RedisServer, name: str) -> None:
    dead_journal(tmp_path)
    await dead_process(server, "elsewhere")
    with pytest.raises(NotFound, match=r"There are: dead, elsewhere$"):
        await forget(context(tmp_path, server), name)


async def test_a_journal_of_a_dead_process_is_lost_until_it_is_taken_over(database: Database, tmp_path: Path) -> None:
    dead_journal(tmp_path)
    found = {one.name: one for one in await promises(context(tmp_path), database, 0)}
    assert {name: one.number for name, one in found.items() if one.number} == {"lost": 2}
    assert found["lost"].why[0].startswith("2 rows of the journal dead are not in the database")


async def test_a_damaged_journal_has_lost_something(database: Database, tmp_path: Path) -> None:
    home = left_behind(tmp_path / "journal", segment()[:-1], segment())
    found = {one.name: one.number for one in await promises(context(tmp_path), database, 0)}
    assert found["lost"] == 1
    with (home / LOCK).open() as lock:  # of a process that runs it is not said: it is just writing
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = {one.name: one.number for one in await promises(context(tmp_path), database, 0)}
        assert found["lost"] == 0


async def test_without_a_server_what_dead_processes_hold_in_redis_is_leaked(
    database: Database, tmp_path: Path, server: RedisServer
) -> None:
    await dead_process(server, "elsewhere")
    await dead_process(server, "here")
    dead_journal(tmp_path, "here")
    found = {one.name: one for one in await promises(context(tmp_path, server), database, 0)}
    assert found["leaked"].number == 2
    assert found["leaked"].why == ("2 requests of elsewhere, which is no more, hold limits",)


async def command(url: str, state: Path, *words: str, answer: str | None = None) -> Result:
    env = {"PARALLAMA_DB_URL": url, "PARALLAMA_DATA_DIR": str(state)}
    return await asyncio.to_thread(CliRunner().invoke, main, ["ledger", *words], answer, env)


async def test_the_commands_say_it(database_url: str, database: Database, tmp_path: Path) -> None:
    await store(database, [make_row()])
    kept = await command(database_url, tmp_path, "verify")
    assert kept.exit_code == 0
    assert kept.output.splitlines() == [
        "I1 overspent 0",
        "I2 lost      0",
        "I3 double    0",
        "I4 leaked    0",
        "I5 drift     0",
    ]
    home = dead_journal(tmp_path)
    broken = await command(database_url, tmp_path, "verify", "--json")
    assert broken.exit_code == 1
    assert json.loads(broken.output)["lost"]["number"] == 2
    asked = await command(database_url, tmp_path, "forget", "dead", answer="n\n")
    assert (asked.exit_code, home.exists()) == (1, True)
    assert "up to 2 rows in its journal are lost" in asked.output
    done = await command(database_url, tmp_path, "forget", "dead", "--yes")
    assert done.output == "forgot dead: 2 rows of its journal given up, 0 requests released\n"
    assert (done.exit_code, home.exists()) == (0, False)
    unknown = await command(database_url, tmp_path, "forget", "dead", "--yes")
    assert unknown.exit_code == 1
    assert "There are: none" in unknown.output
