"""Fixtures: one private PostgreSQL for the session, one fresh database for each test that asks.

A database is a copy of a template: `parallama` has the schema alone, `in_use` also what a gateway makes of it at once.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from e2e.databases import fresh_database, named
from hypothesis import HealthCheck, settings
from processes import Place, place
from running import PATIENT, RunningGateway, running_gateway
from wire import Wire

from parallama.db.embedded import embedded
from parallama.db.migrate import migrate
from parallama.db.pool import Database
from parallama.testing import FakeOllama, fake_ollama

_ROOM = 2 << 30
"""Bytes of memory that must be free before databases are put there."""

# that a machine is slow is not under test
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def state() -> Iterator[Path]:
    """A state directory that every user of the machine can reach, whatever TMPDIR says."""
    path = Path(tempfile.mkdtemp(prefix="pl-", dir=_fastest_directory()))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The DSN of a running PostgreSQL's database `postgres`; its databases `parallama` and `in_use` are templates."""
    path = Path(tempfile.mkdtemp(prefix="pl-", dir=_fastest_directory()))
    path.chmod(0o711)
    # a loop of its own: Runner would otherwise take away the one that pytest-asyncio has set
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        server = embedded(path)
        url = runner.run(server.__aenter__())
        try:
            runner.run(_make_templates(url))
            yield named(url, "postgres")
        finally:
            runner.run(server.__aexit__(None, None, None))
            shutil.rmtree(path)


@pytest.fixture
async def database_url(postgres: str) -> AsyncIterator[str]:
    """The DSN of a fresh database with the whole schema, and with the partitions of the days around today."""
    async with fresh_database(postgres) as url:
        yield url


@pytest.fixture
async def wire(database_url: str) -> AsyncIterator[Wire]:
    """A way to the database that can be cut."""
    async with Wire(database_url).running() as wire:
        yield wire


@pytest.fixture
def here() -> Iterator[Place]:
    """Where processes may run; what they have logged is shown when the test fails."""
    with place() as found:
        yield found


@pytest.fixture
async def unused_database_url(postgres: str) -> AsyncIterator[str]:
    """The DSN of a fresh database with the whole schema, in which no gateway has made a partition."""
    async with fresh_database(postgres, "parallama") as url:
        yield url


@pytest.fixture
async def empty_database_url(postgres: str) -> AsyncIterator[str]:
    """The DSN of a fresh database in which there is nothing."""
    async with fresh_database(postgres, "template0") as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A pool on a fresh database, patient: that a machine is slow is not under test."""
    async with Database(database_url, PATIENT).running() as running:
        yield running


@pytest.fixture
def parallama(database_url: str, tmp_path: Path) -> Run:
    """Run `parallama ...` on a fresh database; the answer has returncode, stdout and stderr."""

    def run(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        env = {key: value for key, value in os.environ.items() if not key.startswith("PARALLAMA")}
        env |= {"PARALLAMA_DB_URL": database_url, "PARALLAMA_DATA_DIR": str(tmp_path)}
        command = [sys.executable, "-m", "parallama", *args]
        return subprocess.run(command, env=env, input=stdin, capture_output=True, text=True, timeout=60, check=False)

    return run


@pytest.fixture
async def node() -> AsyncIterator[FakeOllama]:
    """A fake node with the default models."""
    async with fake_ollama() as running:
        yield running


@pytest.fixture
def gateway_settings() -> dict[str, Any]:
    """What differs from the default settings in the fixture `gateway`; tests parametrize it."""
    return {}


@pytest.fixture
async def gateway(
    database_url: str, node: FakeOllama, gateway_settings: dict[str, Any]
) -> AsyncIterator[RunningGateway]:
    """The gateway before `node`, on a fresh database, with the keys of alice and of the admin root."""
    async with running_gateway(database_url, node.url, gateway_settings) as running:
        yield running


def _fastest_directory() -> str:
    """Where the databases lie: in memory where it can be had, because the disk is not under test."""
    memory = "/dev/shm"
    if not os.access(memory, os.W_OK):
        return "/tmp"
    found = os.statvfs(memory)
    # the programs are copied there too where the account that runs them cannot reach the installed ones
    fits = found.f_bavail * found.f_frsize > _ROOM and not found.f_flag & os.ST_NOEXEC
    return memory if fits else "/tmp"


async def _make_templates(url: str) -> None:
    await migrate(url)
    # the disk is not under test
    for setting in ("fsync", "full_page_writes"):
        await _execute(url, f"ALTER SYSTEM SET {setting} = off")
    await _execute(url, "SELECT pg_reload_conf()")
    await _execute(named(url, "postgres"), "CREATE DATABASE in_use TEMPLATE parallama")
    await _execute(named(url, "in_use"), "SELECT usage_partitions(now() - interval '1 day', now() + interval '7 days')")


async def _execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
