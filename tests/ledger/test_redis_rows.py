"""Processes that share a Redis tell each other how far their rows are: nobody takes what another has counted and not
yet written down."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
from journals import FAST, journal_in, left_behind, segment, shipping
from redis_server import RedisServer
from redis_stores import PATIENT, Start
from running import eventually
from store_rig import ZONE
from usage_rows import make_row

from parallama.db.pool import Database
from parallama.ledger import redis_store
from parallama.ledger.redis_store import RedisStore
from parallama.ledger.shipper import Shipper

ROWS = "parallama:{ledger}:rows"


async def die(server: RedisServer, start: Start, name: str) -> None:
    """A process that was not heard of for 30 seconds, and had something to ship."""
    store = RedisStore(server.url, ZONE, instance=name, terms=PATIENT)
    since = time.monotonic()
    store.follow(lambda: since)
    async with store.running():
        pass
    server.say("DEL", f"parallama:{{ledger}}:alive:{name}")


def tells(server: RedisServer) -> bool:
    """Whether some process says how far its rows are."""
    return server.say("ZCARD", ROWS) != b":0\r\n"


async def test_who_is_alone_waits_for_nobody(start: Start) -> None:
    store = await start()
    store.follow(lambda: 0.0)
    assert await store.shipped()


async def test_who_has_nothing_to_ship_says_so(server: RedisServer, start: Start) -> None:
    store, other = await start(), await start()
    other.follow(lambda: None)
    await eventually(lambda: tells(server))
    assert await store.shipped()


async def test_who_ships_while_more_ends_says_how_far_it_is(server: RedisServer, start: Start) -> None:
    store, busy = await start(), await start()
    busy.follow(time.monotonic)
    await eventually(lambda: tells(server))
    await eventually(store.shipped)


async def test_who_cannot_ship_is_not_waited_for_long(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "_SHIPPED_S", 1.0)
    store, other = await start(), await start()
    other.follow(lambda: None)
    await eventually(lambda: tells(server))
    since = time.monotonic()
    other.follow(lambda: since)
    for _ in range(2):
        assert not await store.shipped()
    other.follow(lambda: None)
    await eventually(store.shipped)


async def test_rows_of_who_is_dead_are_missed_until_its_journal_is_taken_over(
    server: RedisServer, start: Start
) -> None:
    store = await start()
    await die(server, start, "other")
    assert not await store.shipped()
    store.adopted("other")
    await store.paid()
    assert await store.shipped()


async def test_rows_of_who_is_given_up_are_not_missed(server: RedisServer, start: Start) -> None:
    store = await start()
    await die(server, start, "other")
    assert await store.left() == {"other": 0}
    await store.abandon("other")
    assert await store.left() == {}
    assert await store.shipped()


async def test_who_never_has_rows_is_not_waited_for(server: RedisServer, start: Start) -> None:
    await start(instance="other")
    server.say("DEL", "parallama:{ledger}:alive:other")
    assert await (await start()).shipped()
    assert not tells(server)


async def test_of_who_leaves_in_order_nothing_is_missed(server: RedisServer) -> None:
    store = RedisStore(server.url, ZONE, instance="other", terms=PATIENT)
    store.follow(lambda: None)
    async with store.running():
        assert tells(server)
    assert not tells(server)


async def test_rows_that_are_missed_are_not_waited_for_longer_than_a_day(server: RedisServer, start: Start) -> None:
    store = await start()
    server.say("ZADD", ROWS, str(time.time() - 86_390), "other")
    assert not await store.shipped()
    server.say("ZADD", ROWS, str(time.time() - 86_410), "other")
    assert await store.shipped()


async def test_who_takes_over_a_journal_tells_whose_it_was(database: Database, tmp_path: Path) -> None:
    left_behind(tmp_path, segment(), name="other")
    told: list[str] = []
    async with journal_in(tmp_path) as journal:
        async with Shipper(database, journal, FAST, "UTC", adopted=told.append).running() as shipper:
            await shipper.caught_up()
    assert told == ["other"]


async def test_rows_that_the_disk_has_not_taken_are_missing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shipping(database, tmp_path) as (journal, shipper):
        assert shipper.waiting_since is None
        ended = time.monotonic()
        with monkeypatch.context() as disk:
            disk.setattr(journal.segments, "append", full)
            journal.final(make_row())
            for _ in range(2):
                await shipper.caught_up()
                assert shipper.waiting_since is not None
                assert shipper.waiting_since <= ended
        await eventually(lambda: shipper.waiting_since is None)


def full(*_record: object, **_more: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
