"""The schema: applied once, whole or not at all, refused when it is not this program's; and its partitions."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from usage_rows import made_at

from parallama.db.migrate import Migration, migrate, migrations, require_current, schema_status
from parallama.db.pool import Database
from parallama.errors import ConfigError, Unavailable
from parallama.exchange import IdGenerator

FIRST = Migration(1, "0001_one.sql", "CREATE TABLE one (id int); CREATE TABLE other (id int);")
SECOND = Migration(2, "0002_two.sql", "CREATE TABLE two (id int);")
NAMES = [migration.name for migration in migrations()]


@pytest.fixture
def database_url(unused_database_url: str) -> str:
    """Every partition is made by the test."""
    return unused_database_url


async def tables(url: str) -> set[str]:
    one = await asyncpg.connect(url)
    try:
        return {
            row["tablename"] for row in await one.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        }
    finally:
        await one.close()


def test_the_files_are_numbered_without_gaps() -> None:
    assert [migration.version for migration in migrations()] == list(range(1, len(NAMES) + 1))
    assert NAMES[0] == "0001_foundation.sql"


async def test_an_empty_database_gets_the_whole_schema_once(empty_database_url: str) -> None:
    assert (await schema_status(empty_database_url)).pending == tuple(NAMES)
    assert await migrate(empty_database_url) == NAMES
    assert await migrate(empty_database_url) == []
    assert {"users", "api_keys", "usage", "schema_migrations"} <= await tables(empty_database_url)
    status = await schema_status(empty_database_url)
    assert status.current
    assert [one.name for one in status.applied] == NAMES
    assert [one.checksum for one in status.applied] == [migration.checksum for migration in migrations()]
    assert all(datetime.now(UTC) - one.applied_at < timedelta(hours=1) for one in status.applied)
    await require_current(empty_database_url)


async def test_only_what_is_pending_is_applied(empty_database_url: str) -> None:
    assert await migrate(empty_database_url, [FIRST]) == [FIRST.name]
    assert await migrate(empty_database_url, [FIRST, SECOND]) == [SECOND.name]
    assert {"one", "other", "two"} < await tables(empty_database_url)


async def test_of_many_at_once_one_migrates(empty_database_url: str) -> None:
    answers = await asyncio.gather(*(migrate(empty_database_url) for _ in range(8)))
    assert sorted(answers) == [[]] * 7 + [NAMES]


async def test_two_processes_that_start_at_once_migrate_once(empty_database_url: str) -> None:
    program = "import asyncio, sys; from parallama.db.migrate import migrate; print(asyncio.run(migrate(sys.argv[1])))"
    command = (sys.executable, "-c", program, empty_database_url)
    pipe = asyncio.subprocess.PIPE
    both = [await asyncio.create_subprocess_exec(*command, stdout=pipe) for _ in range(2)]
    said = sorted([(await process.communicate())[0].decode().strip() for process in both], key=len)
    assert said == ["[]", str(NAMES)]


async def test_a_file_that_fails_leaves_nothing_behind(empty_database_url: str) -> None:
    broken = Migration(2, "0002_broken.sql", "CREATE TABLE half (id int); SELECT nonsense;")
    with pytest.raises(ConfigError, match=r"0002_broken\.sql failed, nothing was changed: .*nonsense"):
        await migrate(empty_database_url, [FIRST, broken])
    assert await tables(empty_database_url) == set()
    assert (await schema_status(empty_database_url, [FIRST])).pending == (FIRST.name,)


async def test_a_database_that_is_behind_names_the_command(empty_database_url: str) -> None:
    await migrate(empty_database_url, [FIRST])
    with pytest.raises(ConfigError, match=r"lacks 0002_two\.sql.*`parallama db migrate`"):
        await require_current(empty_database_url, [FIRST, SECOND])


async def test_a_database_that_is_ahead_is_refused_and_left_alone(empty_database_url: str) -> None:
    await migrate(empty_database_url, [FIRST, SECOND])
    third = Migration(3, "0003_ours.sql", "CREATE TABLE ours (id int);")
    for attempt in (require_current, migrate):
        with pytest.raises(ConfigError, match=r"older than the database, which has 0002_two\.sql: .*newer version"):
            await attempt(empty_database_url, [FIRST, third])
    assert (await schema_status(empty_database_url, [FIRST])).unknown == (SECOND.name,)
    assert "ours" not in await tables(empty_database_url)


async def test_a_changed_file_is_refused_and_named(empty_database_url: str) -> None:
    await migrate(empty_database_url, [FIRST])
    changed = Migration(1, FIRST.name, FIRST.sql + " ")
    for attempt in (require_current, migrate):
        with pytest.raises(ConfigError, match=r"0001_one\.sql is not the file that was applied"):
            await attempt(empty_database_url, [changed, SECOND])
    assert (await schema_status(empty_database_url, [changed])).changed == (FIRST.name,)
    assert "two" not in await tables(empty_database_url)


async def test_a_database_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        await schema_status(f"postgresql://nobody@/none?host={tmp_path}")


# The commands


def parallama(url: str, state: Path, *args: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PARALLAMA")}
    env |= {"PARALLAMA_DB_URL": url, "PARALLAMA_DATA_DIR": str(state)}
    command = [sys.executable, "-m", "parallama", "db", *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_the_commands_say_how_the_schema_stands(empty_database_url: str, tmp_path: Path) -> None:
    behind = parallama(empty_database_url, tmp_path, "status", "--json")
    assert behind.returncode == 1
    assert json.loads(behind.stdout) == [{"name": name, "state": "pending", "applied_at": None} for name in NAMES]
    first, second = (parallama(empty_database_url, tmp_path, "migrate") for _ in range(2))
    assert (first.returncode, first.stdout.splitlines()) == (0, [f"applied {name}" for name in NAMES])
    assert (second.returncode, second.stdout) == (0, "up to date\n")
    table, document = (
        parallama(empty_database_url, tmp_path, "status"),
        parallama(empty_database_url, tmp_path, "status", "--json"),
    )
    assert (table.returncode, document.returncode) == (0, 0)
    assert NAMES[0] in table.stdout
    assert "applied" in table.stdout
    assert [(row["name"], row["state"]) for row in json.loads(document.stdout)] == [(name, "applied") for name in NAMES]


async def test_the_status_of_a_newer_database_is_a_failure(database: Database, tmp_path: Path) -> None:
    async with database.connection() as one:
        await one.execute("INSERT INTO schema_migrations VALUES (9999, '9999_later.sql', 'x')")
    status = parallama(database.url, tmp_path, "status", "--json")
    assert status.returncode == 1
    assert ("9999_later.sql", "unknown") in [(row["name"], row["state"]) for row in json.loads(status.stdout)]
    refused = parallama(database.url, tmp_path, "migrate")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("Error: this program is older")


# The partitions of usage

ZONES = ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago", "America/Santiago", "Africa/Cairo"]
"""14 hours ahead, 11 behind, and two whose clocks skip midnight: on 2025-09-07 and on 2025-04-25."""


async def partitions(one: asyncpg.pool.PoolConnectionProxy[asyncpg.Record]) -> dict[str, tuple[UUID, UUID]]:
    rows = await one.fetch(
        "SELECT relname, pg_get_expr(relpartbound, oid) AS bound FROM pg_class "
        "WHERE relispartition AND relkind = 'r' ORDER BY relname"
    )
    split = {row["relname"]: row["bound"].split("'") for row in rows}
    return {name: (UUID(parts[1]), UUID(parts[3])) for name, parts in split.items()}


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("first", [datetime(2025, 9, 7, 0, 30, tzinfo=UTC), datetime(2025, 4, 25, 23, 30, tzinfo=UTC)])
async def test_partitions_are_utc_days_in_every_time_zone(database: Database, zone: str, first: datetime) -> None:
    days = [first.replace(hour=0, minute=0) + timedelta(days=number) for number in range(4)]
    async with database.connection() as one:
        await one.execute(f"SET timezone = '{zone}'")
        for _ in range(2):
            await one.execute("SELECT usage_partitions($1, $2)", first, days[2])
        found = await partitions(one)
    assert list(found) == [f"usage_{day:%Y%m%d}" for day in days[:3]]
    assert [made_at(low) for low, _ in found.values()] == days[:3]
    assert [made_at(high) for _, high in found.values()] == days[1:]


async def test_the_floor_of_a_moment_is_at_most_any_id_of_it(database: Database) -> None:
    new_id = IdGenerator()
    ids = [new_id() for _ in range(1000)]
    moments = [made_at(one) for one in ids]
    async with database.connection() as one:
        floors = [
            row[0] for row in await one.fetch("SELECT usage_floor(m) FROM unnest($1::timestamptz[]) AS m", moments)
        ]
        next_floor = await one.fetchval("SELECT usage_floor($1)", moments[-1] + timedelta(milliseconds=1))
    assert all(floor <= one for floor, one in zip(floors, ids, strict=True))
    assert ids[-1] < next_floor
    assert [made_at(floor) for floor in floors] == moments


async def test_a_bound_of_time_reads_only_its_days(database: Database) -> None:
    day = datetime(2025, 9, 7, tzinfo=UTC)
    async with database.connection() as one:
        await one.execute("SELECT usage_partitions($1, $2)", day, day + timedelta(days=9))
        query = "EXPLAIN SELECT count(*) FROM usage WHERE id >= usage_floor($1) AND id < usage_floor($2)"
        plan = await one.fetch(query, day + timedelta(days=3), day + timedelta(days=5))
    text = "\n".join(row[0] for row in plan)
    assert set(re.findall(r"on (usage_\d+)", text)) == {"usage_20250910", "usage_20250911"}


async def test_a_partition_is_made_while_the_table_is_read_and_written(database: Database) -> None:
    day = datetime(2025, 9, 7, tzinfo=UTC)
    async with database.connection() as reader, database.connection() as maker:
        async with reader.transaction():
            await reader.execute("LOCK TABLE usage IN ROW EXCLUSIVE MODE")
            await maker.execute("SET lock_timeout = '10s'")
            await maker.execute("SELECT usage_partitions($1, $1)", day)
        assert list(await partitions(reader)) == ["usage_20250907"]
