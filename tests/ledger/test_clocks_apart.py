"""Gateways whose clocks are an hour apart and that share a Redis: limits hold, and hold on when it is emptied."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
from asking import MODEL
from e2e.databases import fresh_database
from gateways import serve
from processes import place
from redis_server import RedisServer, redis_server
from running import RunningGateway, early_in_an_hour, eventually, running_gateway

from parallama.identity.api_keys import ApiKeys
from parallama.identity.assignments import Assignments
from parallama.identity.limits import Limits
from parallama.identity.terms import Subject
from parallama.identity.users import Users
from parallama.testing import fake_ollama

K = 6
HOUR_S = 3600
FLUSH_MS = 400
"""Of those elsewhere; the one here waits for them longer than it need, since the machine may be slow."""
SHIFTED = """
import time
now, now_ns = time.time, time.time_ns
time.time = lambda: now() + {shift}
time.time_ns = lambda: now_ns() + {shift} * 10**9
"""


def before_midnight() -> str:
    """A time zone in which the last hour of the day has begun: whose clock is ahead is in another day."""
    hour = datetime.now(UTC).hour
    offset = 23 - hour if hour >= 9 else -1 - hour
    return f"Etc/GMT{-offset:+d}"


def shifted(directory: Path, shift: int) -> dict[str, str]:
    """The environment of a Python whose clock is off by so many seconds."""
    (directory / "sitecustomize.py").write_text(SHIFTED.format(shift=shift))
    return {"PYTHONPATH": str(directory)}


@asynccontextmanager
async def apart(postgres: str, redis: RedisServer, *shifts: int) -> AsyncIterator[tuple[RunningGateway, Sequence[str]]]:
    """The gateway here, and the URLs of those with clocks that are off by so many seconds."""
    await early_in_an_hour(60)
    zone = before_midnight()
    settings = {"redis": {"url": redis.url}, "timezone": zone, "usage": {"flush_ms": 4 * FLUSH_MS}}
    env = {"PARALLAMA__REDIS__URL": redis.url, "PARALLAMA__TIMEZONE": zone}
    env["PARALLAMA__USAGE__FLUSH_MS"] = str(FLUSH_MS)
    async with fresh_database(postgres) as url, fake_ollama() as node, running_gateway(url, node.url, settings) as here:
        with ExitStack() as places:
            homes = [places.enter_context(place()) for _ in shifts]
            clocks = [shifted(home.root, shift) for home, shift in zip(homes, shifts, strict=True)]
            starting = [serve(home, node, url, **env, **clock) for home, clock in zip(homes, clocks, strict=True)]
            others = await asyncio.gather(*starting)
            yield here, [other.url for other in others]
            assert [await asyncio.to_thread(other.end) for other in others] == [0] * len(others)


async def new_user(here: RunningGateway, name: str) -> str:
    """A key that may use every gateway."""
    await Users(here.database).create(name)
    await Assignments(here.database).assign(name, "tester")
    return (await ApiKeys(here.database).create(name))[0]


async def ask(http: aiohttp.ClientSession, url: str, key: str) -> int:
    body = {"model": MODEL, "prompt": "one two three", "stream": False}
    async with http.post(f"{url}/api/generate", json=body, headers={"Authorization": f"Bearer {key}"}) as answer:
        await answer.read()
        return answer.status


async def counted(http: aiohttp.ClientSession, url: str, key: str) -> int:
    """The status of the first answer for which somebody could count."""

    async def status() -> int | None:
        found = await ask(http, url, key)
        return None if found == 503 else found

    return int(await eventually(status))


async def _asked(here: RunningGateway, expected: dict[int, int]) -> bool:
    """Whether so many requests that asked a node came so many hours after they were charged, by their process."""
    rows = [row for row in await here.rows(0) if row["node"] is not None]
    return Counter(round((row["created_at"] - row["charged_at"]).total_seconds() / HOUR_S) for row in rows) == expected


async def test_no_budget_is_gained_when_redis_is_emptied(postgres: str) -> None:
    with redis_server() as redis:
        async with apart(postgres, redis, HOUR_S, -HOUR_S) as (here, others), aiohttp.ClientSession() as http:
            urls = [*others, here.url]
            keys = {period: await new_user(here, period) for period in ("hour", "day")}
            for period in keys:
                await Limits(here.database).create(Subject(user=period), "requests", period, amount=K)

            async def together(url: str) -> list[int]:
                return await asyncio.gather(*(counted(http, url, key) for key in keys.values()))

            before = [await together(url) for url in urls]
            await eventually(lambda: _asked(here, {1: 2, -1: 2, 0: 2}))
            redis.say("FLUSHALL")
            # the first one asks the database for what was used, and its clock says that all of it was yesterday
            after = [await together(url) for url in urls * 2]
            for answers in zip(*before, *after, strict=True):
                assert Counter(answers) == {200: K, 429: 3}

            await eventually(lambda: _asked(here, {1: 4, -1: 4, 0: 4}))


async def test_what_another_process_is_about_to_store_counts_under_a_new_limit(postgres: str) -> None:
    with redis_server() as redis:
        async with apart(postgres, redis, -HOUR_S) as (here, (other,)), aiohttp.ClientSession() as http:
            assert await ask(http, other, here.key) == 200
            body = {"user": "alice", "meter": "requests", "period": "day", "amount": 1}
            async with http.post(f"{here.url}/admin/v1/limits", json=body, headers=here.admin_auth) as made:
                assert made.status == 201
            assert await counted(http, here.url, here.key) == 429
