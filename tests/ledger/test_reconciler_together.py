"""Gateways that share their counts compare them with the rows of all, one at a time; nothing is put right by who cannot
see both."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from e2e.databases import fresh_database
from limited_people import Person, new_person
from redis_server import RedisServer, redis_server
from running import RunningGateway, eventually, running_gateway
from wire import Wire

from parallama.app import RECONCILER, STORE, build_app
from parallama.config import Settings
from parallama.errors import Unavailable
from parallama.identity.users import Users
from parallama.ledger.store import Uncountable
from parallama.limits import Counter, Meter, Period, Scope
from parallama.server import make_runner
from parallama.testing import fake_ollama

REQUESTS = Scope("*", None, Meter.REQUESTS, Period.DAY)


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
async def wire(postgres: str) -> AsyncIterator[Wire]:
    async with fresh_database(postgres) as url, Wire(url).running() as wire:
        yield wire


@asynccontextmanager
async def two(wire: Wire, redis: RedisServer, state: Path) -> AsyncIterator[tuple[RunningGateway, RunningGateway]]:
    """Gateways on one database and one Redis."""
    async with fake_ollama() as node:
        nodes = [{"name": "node-1", "url": node.url}]
        settings = {"nodes": nodes, "usage": {"flush_ms": 10}, "redis": {"url": redis.url}}
        async with running_gateway(wire.url, node.url, settings) as one:
            chosen = Settings.model_validate(settings)
            app, listening = build_app(chosen, wire.url, state), socket.create_server(("127.0.0.1", 0))
            runner = make_runner(app, chosen)
            try:
                await runner.setup()
                await web.SockSite(runner, listening).start()
                yield one, replace(one, app=app, port=listening.getsockname()[1])
            finally:
                await runner.cleanup()


async def limited(gateway: RunningGateway) -> tuple[Person, Counter]:
    person = await new_person(gateway)
    await person.limit("requests", 1000)
    return person, Counter((await Users(gateway.database).get(person.name)).id, REQUESTS)


async def rounds(*gateways: RunningGateway) -> None:
    await asyncio.gather(*(gateway.app[RECONCILER].round() for gateway in gateways))


async def test_counts_of_all_are_compared_with_rows_of_all(wire: Wire, redis: RedisServer, tmp_path: Path) -> None:
    async with two(wire, redis, tmp_path) as (one, other):
        person, counter = await limited(one)
        for gateway in (one, other) * 10:
            assert (await replace(person, gateway=gateway).ask()).status == 200
        await eventually(lambda: _counted(one, counter, 20))
        one.app[STORE].correct(counter, -5)
        await eventually(lambda: _counted(one, counter, 15))
        for _ in range(4):
            await rounds(one, other)
        await eventually(lambda: _counted(other, counter, 20))
        await rounds(one, other)
        assert await _counted(one, counter, 20)


async def test_while_the_database_or_redis_is_away_nothing_is_put_right(
    wire: Wire, redis: RedisServer, tmp_path: Path
) -> None:
    async with two(wire, redis, tmp_path) as (one, _):
        person, counter = await limited(one)
        assert (await person.ask()).status == 200
        await eventually(lambda: _counted(one, counter, 1))
        one.app[STORE].correct(counter, 5)
        await rounds(one)
        wire.cut()
        with pytest.raises(Unavailable):
            await rounds(one)
        assert await _counted(one, counter, 6)
        wire.down = False
        await eventually(lambda: _rounds_again(one))
        await eventually(lambda: _counted(one, counter, 1))
        redis.kill()
        await eventually(lambda: not one.app[STORE].answers)
        with pytest.raises(Uncountable):
            await rounds(one)


async def _counted(gateway: RunningGateway, counter: Counter, count: int) -> bool:
    return (await gateway.app[STORE].counts()).get(counter) == count


async def _rounds_again(gateway: RunningGateway) -> bool:
    try:
        await rounds(gateway)
    except Unavailable:
        return False
    return True
