"""What was used counts whoever has counted it: before there was a limit, before a restart, before a kill, and while
the database is gone."""

from __future__ import annotations

import asyncio
import signal

import pytest
from asking import bearer
from gateways import connected, serve
from limited_people import GENERATE, Person, new_person, nothing_held, statuses
from processes import Place
from raw_http import RawClient
from running import RunningGateway, eventually, running_gateway
from wire import Wire

from parallama.app import STORE
from parallama.db.pool import Database
from parallama.identity.api_keys import ApiKeys
from parallama.identity.limits import Limits
from parallama.identity.terms import Subject
from parallama.identity.users import Users
from parallama.testing import FakeOllama


async def status(client: RawClient, key: str) -> int:
    return (await client.ask("POST", "/api/generate", GENERATE, bearer(key))).status


@pytest.mark.parametrize("period", ["minute", "hour", "day", "month"])
async def test_what_was_used_before_the_limit_counts(gateway: RunningGateway, node: FakeOllama, period: str) -> None:
    person = await new_person(gateway)
    assert statuses(await person.together(3)) == {200: 3}
    await person.limit("requests", 5, period)
    assert await eventually(lambda: _limited(person))
    found = [row["outcome"] for row in await person.rows(6)]
    assert found.count("ok") == 5


async def _limited(person: Person) -> bool:
    return (await person.ask()).status == 429


@pytest.mark.parametrize(
    ("number", "period"),
    [(signal.SIGTERM, "minute"), (signal.SIGKILL, "minute"), (signal.SIGTERM, "day"), (signal.SIGKILL, "day")],
)
async def test_a_restart_gains_nothing(
    here: Place, node: FakeOllama, database_url: str, database: Database, number: signal.Signals, period: str
) -> None:
    await Users(database).create("carol")
    key, _ = await ApiKeys(database).create("carol")
    await Limits(database).create(Subject(user="carol"), "requests", period, amount=10)
    lazy = {"PARALLAMA__USAGE__FLUSH_MS": "3600000"}  # nothing is shipped but what somebody waits for
    running = await serve(here, node, database_url, **lazy)
    async with connected(running) as client:
        assert [await status(client, key) for _ in range(7)] == [200] * 7
    await asyncio.to_thread(running.end, number)
    running = await serve(here, node, database_url, **lazy)
    async with connected(running) as client:
        assert (await client.ask("GET", "/api/tags", None, bearer(key))).status == 200  # counts nowhere
        assert [await status(client, key) for _ in range(5)] == [200] * 3 + [429] * 2
    assert await asyncio.to_thread(running.end) == 0


async def test_without_the_database_known_counts_go_on_and_unknown_ones_refuse_or_let_through(
    wire: Wire, database: Database, node: FakeOllama
) -> None:
    async with running_gateway(wire.url, node.url) as gateway:
        people = [await new_person(gateway) for _ in range(3)]
        known, closed, opened = people
        await known.limit("requests", 3)
        await closed.limit("requests", 3)
        await opened.limit("requests", 3, outage="open")
        await opened.limit("concurrency", 0, model="qwen3*")
        assert (await known.ask()).status == 200
        for person in (closed, opened):  # known by their keys, asked for nothing that counts
            assert (await person.ask(None, "/api/tags", method="GET")).status == 200
        wire.cut()
        assert statuses(await known.together(10)) == {200: 2, 429: 8}
        got = await closed.ask()
        assert got.status == 503
        assert "retry-after" in {name.lower() for name, _ in got.headers}
        assert statuses(await opened.together(5)) == {200: 5}
        assert (await opened.ask({**GENERATE, "model": "qwen3:0.6b"})).status == 429
        wire.down = False
        assert await eventually(lambda: _served(closed))
        assert await eventually(lambda: _limited(opened))  # all that was let through has counted
        assert statuses(await closed.together(5)) == {200: 2, 429: 3}
        await nothing_held(gateway)


async def _served(person: Person) -> bool:
    return (await person.ask()).status == 200


async def test_whoever_waits_for_counts_is_told_at_once(gateway: RunningGateway, node: FakeOllama) -> None:
    """Many who are not counted yet ask the database a few times together."""
    people = [await new_person(gateway) for _ in range(10)]
    for person in people:
        await person.limit("requests", 1)
        assert (await person.ask(None, "/api/tags", method="GET")).status == 200  # its key is known
    answers = await asyncio.gather(*(person.together(3) for person in people))
    assert [statuses(got) for got in answers] == [{200: 1, 429: 2}] * 10
    assert gateway.app[STORE].known == 10
