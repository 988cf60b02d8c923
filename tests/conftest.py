"""Fixtures: one private PostgreSQL for the session, one fresh database for each test that asks."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from running import PATIENT, RunningGateway, running_gateway

from parallama.db.embedded import embedded
from parallama.db.migrate import migrate
from parallama.db.pool import Database
from parallama.testing import FakeOllama, fake_ollama

_numbers = itertools.count(1)

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def state() -> Iterator[Path]:
    """A state directory that every user of the machine can reach, below /tmp whatever TMPDIR says."""
    path = Path(tempfile.mkdtemp(prefix="pl-", dir="/tmp"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The DSN of a running PostgreSQL's database `postgres`; its database `parallama` is migrated, a template."""
    path = Path(tempfile.mkdtemp(prefix="pl-", dir="/tmp"))
    path.chmod(0o711)
    # a loop of its own: Runner would otherwise take away the one that pytest-asyncio has set
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        server = embedded(path)
        url = runner.run(server.__aenter__())
        try:
            runner.run(_make_template(url))
            yield named(url, "postgres")
        finally:
            runner.run(server.__aexit__(None, None, None))
            shutil.rmtree(path)


@pytest.fixture
async def database_url(postgres: str) -> AsyncIterator[str]:
    """The DSN of a fresh database with the whole schema."""
    name = f"test_{next(_numbers)}"
    await _execute(postgres, f"CREATE DATABASE {name} TEMPLATE parallama")
    yield named(postgres, name)
    await _execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def empty_database_url(postgres: str) -> AsyncIterator[str]:
    """The DSN of a fresh database in which there is nothing."""
    name = f"empty_{next(_numbers)}"
    await _execute(postgres, f"CREATE DATABASE {name} TEMPLATE template0")
    yield named(postgres, name)
    await _execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


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


def named(url: str, name: str) -> str:
    """The DSN of another database of the same server."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


async def _make_template(url: str) -> None:
    await migrate(url)
    # the disk is not under test
    await _execute(url, "ALTER SYSTEM SET fsync = off")
    await _execute(url, "SELECT pg_reload_conf()")


async def _execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
