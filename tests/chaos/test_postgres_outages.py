"""A PostgreSQL that hangs, or is killed and comes back, under load: who is known is served, every row arrives."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from fleet import Crowd, Fleet
from ledger.gateways import ask, connected
from loaded import loaded
from own_postgres import OwnPostgres, own_postgres
from processes import Place, Running
from running import PATIENT
from scale import HANG_S

from parallama.db.pool import Database
from parallama.testing import FakeOllama

_SOON = {f"PARALLAMA__DATABASE__{name}_S": "1" for name in ("COMMAND", "CONNECT", "ACQUIRE")}
"""Long before it goes on again."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def postgres_of_its_own() -> AsyncIterator[OwnPostgres]:
    with tempfile.TemporaryDirectory(prefix="pl-", dir="/tmp") as directory:
        Path(directory).chmod(0o711)
        async with own_postgres(Path(directory)) as server:
            yield server


@pytest.fixture
async def alone(here: Place, node: FakeOllama, postgres_of_its_own: OwnPostgres) -> AsyncIterator[Fleet]:
    async with Database(postgres_of_its_own.url, PATIENT).running() as database:
        yield Fleet(here, node, database, _SOON)


async def status_of(crowd: Crowd, running: Running) -> int:
    """Of one more question, of whose answer nobody takes note."""
    async with connected(running) as client:
        return (await ask(client, crowd.key, next(crowd.numbers))).status


@pytest.mark.parametrize("counted_in", ["memory", "redis"])
async def test_while_it_hangs_who_is_known_is_served_and_counted(
    alone: Fleet, postgres_of_its_own: OwnPostgres, counted_in: str, request: pytest.FixtureRequest
) -> None:
    fleet = alone
    if counted_in == "redis":
        fleet = replace(alone, env={**_SOON, "PARALLAMA__REDIS__URL": request.getfixturevalue("redis").url})
    stranger = await fleet.user("carol", 1)
    async with loaded(fleet, 1) as load:
        postgres_of_its_own.stop()
        await asyncio.sleep(HANG_S)
        assert await status_of(stranger, load.gateways[0]) == 503
        for crowd in (load.closed, load.open):
            await load.served(crowd)
        postgres_of_its_own.go_on()
    if counted_in == "memory":  # a slow machine may be too slow for Redis: then what is open is let through uncounted
        assert load.closed.refused == load.open.refused == {}
    await load.all_is_well(uncounted=counted_in == "redis")


async def test_when_it_is_killed_and_comes_back_all_rows_arrive(alone: Fleet, postgres_of_its_own: OwnPostgres) -> None:
    async with loaded(alone, 1) as load:
        await postgres_of_its_own.kill()
        for crowd in (load.closed, load.open):
            await load.served(crowd, 200)
        await postgres_of_its_own.start()
    assert load.closed.refused == load.open.refused == {}
    await load.all_is_well()
