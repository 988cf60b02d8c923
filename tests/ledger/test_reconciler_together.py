"""Gateways that share their counts compare them with the rows of all, one at a time; nothing is put right by who cannot
see both."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from asking import Gate
from limited_people import Person, new_person
from redis_server import RedisServer, redis_server
from redis_stores import waited_for
from running import RunningGateway, eventually, running_gateway
from wire import Wire

from parallama.app import RECONCILER, STORE, build_app
from parallama.config import Settings
from parallama.errors import Unavailable
from parallama.identity.users import Users
from parallama.ledger import redis_store
from parallama.ledger.store import Uncountable
from parallama.limits import Counter, Meter, Period, Scope
from parallama.server import make_runner
from parallama.testing import Answer, FakeOllama

REQUESTS = Scope("*", None, Meter.REQUESTS, Period.DAY)


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server, waited_for():
        yield server


@pytest.fixture
async def wire_there(database_url: str) -> AsyncIterator[Wire]:
    """From the gateway there to the database, as `wire` is from the one here."""
    async with Wire(database_url).running() as wire:
        yield wire


@pytest.fixture
async def here(wire: Wire, redis: RedisServer, node: FakeOllama) -> AsyncIterator[RunningGateway]:
    async with running_gateway(wire.url, node.url, settings(node, redis)) as gateway:
        yield gateway


@pytest.fixture
async def there(
    here: RunningGateway, wire_there: Wire, redis: RedisServer, node: FakeOllama, tmp_path: Path
) -> AsyncIterator[RunningGateway]:
    """Another gateway on the same database and the same Redis."""
    chosen = Settings.model_validate(settings(node, redis))
    app, listening = build_app(chosen, wire_there.url, tmp_path), socket.create_server(("127.0.0.1", 0))
    runner = make_runner(app, chosen)
    try:
        await runner.setup()
        await web.SockSite(runner, listening).start()
        yield replace(here, app=app, port=listening.getsockname()[1])
    finally:
        await runner.cleanup()


def settings(node: FakeOllama, redis: RedisServer) -> dict[str, Any]:
    nodes = [{"name": "node-1", "url": node.url}]
    return {"nodes": nodes, "usage": {"flush_ms": 10}, "redis": {"url": redis.url}}


async def limited(gateway: RunningGateway) -> tuple[Person, Counter]:
    person = await new_person(gateway)
    await person.limit("requests", 1000)
    return person, Counter((await Users(gateway.database).get(person.name)).id, REQUESTS)


async def rounds(*gateways: RunningGateway) -> None:
    await asyncio.gather(*(gateway.app[RECONCILER].round() for gateway in gateways))


async def test_counts_of_all_are_compared_with_rows_of_all(here: RunningGateway, there: RunningGateway) -> None:
    person, counter = await limited(here)
    for gateway in (here, there) * 10:
        assert (await replace(person, gateway=gateway).ask()).status == 200
    await eventually(lambda: _counted(here, counter, 20))
    here.app[STORE].correct(counter, -5)
    await eventually(lambda: _counted(here, counter, 15))
    for _ in range(4):
        await rounds(here, there)
    await eventually(lambda: _counted(there, counter, 20))
    await rounds(here, there)
    assert await _counted(here, counter, 20)


async def test_while_the_database_or_redis_is_away_nothing_is_put_right(
    here: RunningGateway, wire: Wire, redis: RedisServer
) -> None:
    person, counter = await limited(here)
    assert (await person.ask()).status == 200
    await eventually(lambda: _counted(here, counter, 1))
    here.app[STORE].correct(counter, 5)
    await rounds(here)
    wire.cut()
    with pytest.raises(Unavailable):
        await rounds(here)
    assert await _counted(here, counter, 6)
    wire.down = False
    await eventually(lambda: _rounds_again(here))
    await eventually(lambda: _counted(here, counter, 1))
    redis.kill()
    await eventually(lambda: not here.app[STORE].answers)
    with pytest.raises(Uncountable):
        await rounds(here)


async def test_what_a_process_cannot_bring_to_the_database_is_not_taken_from_the_counts(
    here: RunningGateway, there: RunningGateway, wire_there: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "_SHIPPED_S", 1.0)
    person, counter = await limited(here)
    other, lacking = await limited(here)
    for one in (other, other, person):
        assert (await replace(one, gateway=there).ask()).status == 200
    await other.rows(2)
    await person.rows(1)
    here.app[STORE].correct(lacking, -1)
    wire_there.cut()
    for _ in range(3):
        assert (await replace(person, gateway=there).ask()).status == 200
    await eventually(lambda: _counted(here, counter, 4))
    await rounds(here)
    await rounds(here)
    assert await _counted(here, counter, 4)
    assert await _counted(here, lacking, 2), "what a count lacks is added nevertheless"
    wire_there.down = False
    await person.rows(4)
    here.app[STORE].correct(counter, 5)
    for _ in range(2):
        await rounds(here)
    assert await _counted(here, counter, 4)


async def test_a_count_in_which_another_process_is_busy_begins_anew_when_it_is_reset(
    here: RunningGateway, there: RunningGateway, node: FakeOllama
) -> None:
    person, counter = await limited(here)
    elsewhere = replace(person, gateway=there)
    for one in (person, elsewhere) * 2:
        assert (await one.ask()).status == 200
    node.cue(Answer(hold_head=(gate := Gate())), "/api/generate")
    async with asyncio.TaskGroup() as group:
        group.create_task(elsewhere.ask())
        await gate.reached.wait()
        for _ in range(2):
            await _reset(here, person)
            for gateway in (here, there):
                await eventually(lambda gateway=gateway: _counted(gateway, counter, 0))
            assert (await person.ask()).status == 200
            await eventually(lambda: _counted(there, counter, 1))
        gate.set()
    assert (await person.ask()).status == 200
    await eventually(lambda: _counted(here, counter, 3))


async def _reset(gateway: RunningGateway, person: Person) -> None:
    url = f"{gateway.url}/admin/v1/limits/reset"
    async with gateway.http.post(url, json={"user": person.name}, headers=gateway.admin_auth) as answer:
        assert answer.status == 200, await answer.text()


async def _counted(gateway: RunningGateway, counter: Counter, count: int) -> bool:
    return (await gateway.app[STORE].counts()).get(counter) == count


async def _rounds_again(gateway: RunningGateway) -> bool:
    try:
        await rounds(gateway)
    except Unavailable:
        return False
    return True
