"""The store in Redis with several processes."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from redis_server import RedisServer
from redis_stores import DAY, SLOTS, Start, until
from store_rig import Rig, limit

from parallama.ledger import redis_windows
from parallama.ledger.store import Spent
from parallama.limits import Meter, Period


@asynccontextmanager
async def process(server: RedisServer, subject: UUID, amount: int, requests: int) -> AsyncIterator[Process]:
    """One that is ready to reserve."""
    script = Path(__file__).with_name("redis_many.py")
    words = [server.url, "parallama", str(subject), str(amount), str(requests)]
    one = await asyncio.create_subprocess_exec(sys.executable, script, *words, stdin=PIPE, stdout=PIPE)
    try:
        assert one.stdout is not None
        assert await one.stdout.readline() == b"ready\n"
        yield one
    finally:
        if one.returncode is None:
            one.kill()
        await one.wait()


async def admitted(one: Process) -> int:
    assert one.stdin is not None
    assert one.stdout is not None
    one.stdin.write(b"\n")
    return int(await one.stdout.readline())


@pytest.mark.parametrize("amount", [1, 50, 200])
async def test_of_200_at_once_from_3_processes_exactly_as_many_as_allowed_are_admitted(
    server: RedisServer, start: Start, amount: int
) -> None:
    rig, subject = Rig(await start()), uuid4()
    async with AsyncExitStack() as stack:
        three = [await stack.enter_async_context(process(server, subject, amount, n)) for n in (67, 67, 66)]
        assert sum(await asyncio.gather(*(admitted(one) for one in three))) == amount
        assert await rig.sums(limit(amount, period=Period.MONTH, subject=subject)) == (0, amount)


async def test_who_is_killed_loses_its_slots_and_no_more(server: RedisServer, start: Start) -> None:
    store, subject = await start(), uuid4()
    rig, others = Rig(store), server.names("alive")
    slots = limit(3, Meter.CONCURRENCY, Period.NOW, subject=subject)
    month = limit(3, period=Period.MONTH, subject=subject)
    async with process(server, subject, 3, 3) as one:
        assert await admitted(one) == 3
        held = server.names("held")
        one.kill()
        await one.wait()
    await rig.refused(slots)
    server.say("DEL", *(server.names("alive") - others))  # as when 30 seconds pass
    await rig.granted(slots)
    assert await rig.sums(month) == (0, 3)
    for name in held:  # as who adopts its journal does
        store.settle(UUID(name.rpartition(":")[2]), Spent(0, 1))
    await store.paid()
    assert await rig.sums(month) == (3, 0)


async def test_who_was_taken_for_dead_gets_its_slots_back(server: RedisServer, start: Start) -> None:
    sleeper, other = await start(), await start()
    id, _ = await Rig(sleeper).granted(SLOTS)
    (slots,) = (name for name in server.names("count") if name.endswith(":concurrency:now:"))
    server.say("DEL", slots, *server.names("alive"))
    await until(lambda: slots in server.names("count"))
    assert await Rig(other).sums(SLOTS) == (0, 1)
    sleeper.cancel(id)
    await sleeper.paid()
    assert await Rig(other).sums(SLOTS) == (0, 0)


async def test_the_clock_that_counts_is_that_of_redis(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    right = await start()
    monkeypatch.setattr(redis_windows.time, "time", lambda: 1_000_000_000.0)
    wrong = await start()
    for period in (Period.HOUR, Period.DAY, Period.MONTH):
        rule = limit(5, period=period)
        await Rig(wrong).used(rule)
        one, other = await Rig(wrong).standing(rule), await Rig(right).standing(rule)
        assert one == other
        assert one.used == 1


async def test_every_key_has_the_tag_and_an_end(server: RedisServer, start: Start) -> None:
    store = await start()
    rig = Rig(store)
    minute, month = limit(9, period=Period.MINUTE), limit(9, period=Period.MONTH)
    await rig.granted([minute, month, DAY, SLOTS])
    await rig.used([minute, month, DAY, SLOTS])
    await rig.seed(limit(9, subject=uuid4()).counter)
    store.forget(None)
    await store.paid()
    await store.counts()
    names = server.names()
    assert names >= {
        *server.names("alive"),
        *server.names("count"),
        *server.names("held"),
        *server.names("done"),
        *server.names("changed"),
    }
    assert any(name.endswith(":counts") for name in names)
    assert len(names) >= 5 + 1 + 1 + 1 + 1
    for key in names:
        assert key.startswith("parallama:{ledger}:")
        assert int(server.say("TTL", key)[1:]) > 0, key
