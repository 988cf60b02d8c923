"""Gateways that are killed, that lose their database, that are told to stop without it: every request has its row.

ROUNDS is how often the gateway is killed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest
from gateways import Load, ask, connected, number_of, rows_by_number, serve, wrong
from journals import rows_in, said
from processes import Place, Running
from running import eventually
from sums import sums_agree
from usage_rows import as_stored
from wire import Wire

from parallama.db.pool import Database
from parallama.identity.api_keys import ApiKeys
from parallama.identity.users import Users
from parallama.ledger import entries
from parallama.testing import FakeOllama, fake_ollama

ROUNDS = int(os.environ.get("ROUNDS", "3"))
CLIENTS = 8


@pytest.fixture
async def key(database: Database) -> str:
    await Users(database).create("alice", admin=True)
    made, _ = await ApiKeys(database).create("alice")
    return made


def journals(here: Place) -> list[Path]:
    return list((here.data / "journal").iterdir())


async def ended(running: Running, number: signal.Signals = signal.SIGTERM) -> int:
    return await asyncio.to_thread(running.end, number)


async def take_over(here: Place, node: FakeOllama, url: str) -> None:
    """Start once more, until all that was left is taken over; then stop."""
    running = await serve(here, node, url)
    await eventually(lambda: len(journals(here)) == 1)
    assert await ended(running) == 0
    assert journals(here) == []


@pytest.mark.timeout(60 + 20 * ROUNDS)
async def test_whoever_is_killed_has_lost_and_doubled_nothing(
    here: Place, node: FakeOllama, database_url: str, database: Database, key: str
) -> None:
    seed = random.randrange(10**6)
    dice, load = random.Random(seed), Load(key)
    for _ in range(ROUNDS):
        running = await serve(here, node, database_url)
        enough = len(load.told) + dice.randrange(1, 200)

        def go_on(running: Running = running, enough: int = enough) -> bool:
            if len(load.told) >= enough:
                running.popen.kill()
            return True

        await load.run(running, CLIENTS, go_on)
        assert await asyncio.to_thread(running.popen.wait, 30) == -signal.SIGKILL
    await take_over(here, node, database_url)

    rows = await rows_by_number(database)
    asked = {number_of(request.body) for request in node.seen("/api/generate") if request.complete}
    assert load.refused == {}
    assert wrong(load, rows) == {}, f"seed {seed}"
    assert asked <= set(rows), f"seed {seed}"
    aborted = {number for number, row in rows.items() if row["error"] == "aborted"}
    assert aborted.isdisjoint(load.told)
    assert len(rows) - len(load.told) <= CLIENTS * ROUNDS
    await sums_agree(database)


async def test_the_end_is_written_before_the_client_has_the_last_of_its_answer(
    here: Place, node: FakeOllama, database_url: str, key: str
) -> None:
    running = await serve(here, node, database_url, PARALLAMA__USAGE__FLUSH_MS="3600000")
    (home,) = journals(here)
    async with connected(running) as client:
        for number in range(100):
            assert (await ask(client, key, number)).status == 200
            running.popen.send_signal(signal.SIGSTOP)
            finals = [entry for entry in said(home) if entry[:1] == entries.FINAL]
            running.popen.send_signal(signal.SIGCONT)
            assert len(finals) == number + 1


async def test_while_the_database_is_gone_known_keys_are_served_and_their_rows_arrive_later(
    here: Place, node: FakeOllama, wire: Wire, database: Database, key: str
) -> None:
    running, load = await serve(here, node, wire.url), Load(key)
    async with connected(running) as client:
        assert (await ask(client, key, next(load.numbers))).status == 200
    phases = iter((wire.cut, lambda: setattr(wire, "down", False)))
    marks = iter((50, 250))
    mark = next(marks)

    def go_on() -> bool:
        nonlocal mark
        if len(load.told) >= mark and mark < 500:
            next(phases)()
            mark = next(marks, 500)
        return len(load.told) < 500

    await load.run(running, CLIENTS, go_on)
    assert load.refused == {}

    async def arrived() -> bool:
        return len(await rows_by_number(database)) == len(load.told) + 1

    await eventually(arrived)
    assert wrong(load, await rows_by_number(database)) == {}
    assert await ended(running) == 0
    await sums_agree(database)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_what_a_gateway_has_served_without_its_database_the_next_start_stores(
    here: Place, node: FakeOllama, wire: Wire, database_url: str, database: Database, key: str, number: signal.Signals
) -> None:
    running, load = await serve(here, node, wire.url), Load(key)
    async with connected(running) as client:
        assert (await ask(client, key, next(load.numbers))).status == 200
    await eventually(lambda: rows_by_number(database))
    wire.cut()
    await load.run(running, CLIENTS, lambda: len(load.told) < 100)
    assert await ended(running, number) == (0 if number == signal.SIGTERM else -number)
    assert len(await rows_by_number(database)) == 1
    await take_over(here, node, database_url)
    rows = await rows_by_number(database)
    assert len(rows) == len(load.told) + 1
    assert wrong(load, rows) == {}
    await sums_agree(database)


async def test_a_stream_that_was_killed_is_a_row_with_what_had_come_of_it(
    here: Place, database_url: str, database: Database, key: str
) -> None:
    async with fake_ollama(tokens_per_s=20, answer_tokens=10_000) as node:
        running = await serve(here, node, database_url)
        (home,) = journals(here)
        async with connected(running) as client:
            asking = asyncio.get_running_loop().create_task(ask(client, key, 0))
            await eventually(lambda: any(row.output_tokens for row in rows_in(home)))
            assert await ended(running, signal.SIGKILL) == -signal.SIGKILL
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                await asking
        (left,) = rows_in(home)
        await take_over(here, node, database_url)
    (row,) = (await rows_by_number(database)).values()
    assert tuple(row.values()) == as_stored(left)
    assert (left.status, left.outcome, left.error, left.node) == (500, "failed", "aborted", "node-1")
    assert left.estimated
    assert left.response_bytes > 0
