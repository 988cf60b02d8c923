"""A disk that is full, a clock that is wrong, under load: nothing is lost, and no more let in than a limit allows."""

from __future__ import annotations

import asyncio
import resource
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fleet import Fleet, dead, noon
from loaded import loaded
from processes import Running, ask
from redis_server import RedisServer
from scale import CLIENTS
from truth import nothing_is_wrong, spent

_HOUR_S = 3600.0
_REQUESTS = 1000

pytestmark = pytest.mark.timeout(300)


@contextmanager
def full_disk(running: Running, journal: Path) -> Iterator[None]:
    """As a full disk: of what it writes beyond the next bytes of its journal, nothing is taken."""
    _, hard = resource.prlimit(running.popen.pid, resource.RLIMIT_FSIZE)
    size = max(path.stat().st_size for path in journal.iterdir())
    resource.prlimit(running.popen.pid, resource.RLIMIT_FSIZE, (size + 1000, hard))
    try:
        yield
    finally:
        resource.prlimit(running.popen.pid, resource.RLIMIT_FSIZE, (hard, hard))


async def test_on_a_full_disk_nobody_is_let_in_and_nothing_is_lost(fleet: Fleet) -> None:
    async with loaded(fleet, 1) as load:
        (running,), (journal,) = load.gateways, fleet.journals()
        for _ in range(3):
            with full_disk(running, journal):
                await load.refused(load.closed)
                assert ask(f"{running.url}/readyz").json()["reasons"] == ["journal"]
            await load.served(load.closed)
    await load.all_is_well()


class Clock:
    """What a gateway takes for the time, by how many seconds it is wrong."""

    def __init__(self, file: Path) -> None:
        self.env = {"CLOCK": str(file)}
        self._file = file
        file.write_bytes(struct.pack("d", 0.0))

    def set(self, wrong_s: float) -> None:
        with self._file.open("r+b") as file:
            file.write(struct.pack("d", wrong_s))


@pytest.fixture
def clock(fleet: Fleet) -> Clock:
    return Clock(fleet.here.root / "clock")


def long_hour() -> str:
    """A time zone in which the hour is not about to end."""
    return noon() if datetime.now(UTC).minute < 45 else "Asia/Kolkata"


async def test_a_wrong_clock_gives_nobody_more_of_a_day(fleet: Fleet, clock: Clock) -> None:
    crowd = await fleet.user("alice", _REQUESTS)
    for wrong_s in (0.0, _HOUR_S, -_HOUR_S):
        running = await fleet.start(**clock.env)
        clock.set(wrong_s)
        await crowd.run(running, CLIENTS, crowd.more(100))
        running.popen.kill()
        await dead(running)
    running = await fleet.start(**clock.env)
    await crowd.use_up(running)
    assert spent(await nothing_is_wrong(fleet, crowd), crowd) == _REQUESTS


async def test_the_wrong_clock_of_one_gives_nobody_more_of_an_hour(
    together: Fleet, clock: Clock, redis: RedisServer
) -> None:
    together.zone = long_hour()
    crowd = await together.user("alice", _REQUESTS, period="hour")
    gateways = [await together.start(0, **clock.env), await together.start(1)]
    for wrong_s in (_HOUR_S, -_HOUR_S):
        clock.set(wrong_s)
        await asyncio.gather(*(crowd.run(running, CLIENTS, crowd.more(200)) for running in gateways))
        redis.say("FLUSHALL")
    for running in gateways:
        await crowd.use_up(running)
    assert spent(await nothing_is_wrong(together, crowd, gateways=2), crowd) == _REQUESTS
