"""Gateways that share a Redis: a reset, and a limit that lapses and returns, are true for all of them at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from e2e.databases import fresh_database
from gateways import serve
from processes import place
from redis_server import RedisServer, redis_server
from running import RunningGateway, eventually, running_gateway
from test_gateways_together import ask

from parallama.testing import fake_ollama

FLUSH_MS = 200
"""Of both: each gives the other so long to bring to the database what has ended there."""


@asynccontextmanager
async def two(postgres: str, redis: RedisServer) -> AsyncIterator[tuple[RunningGateway, str]]:
    """The gateway here, and the URL of the one in a process of its own."""
    settings = {"redis": {"url": redis.url}, "usage": {"flush_ms": FLUSH_MS}}
    env = {"PARALLAMA__REDIS__URL": redis.url, "PARALLAMA__USAGE__FLUSH_MS": str(FLUSH_MS)}
    async with fresh_database(postgres) as url, fake_ollama() as node, running_gateway(url, node.url, settings) as here:
        with place() as home:
            elsewhere = await serve(home, node, url, **env)
            yield here, elsewhere.url
            assert await asyncio.to_thread(elsewhere.end) == 0


async def change(here: RunningGateway, method: str, path: str, body: Any = None) -> None:
    """Until it is done: the database may be busy."""

    async def done() -> bool:
        url = f"{here.url}/admin/v1/{path}"
        async with here.http.request(method, url, json=body, headers=here.admin_auth) as answer:
            assert answer.status in (200, 503), await answer.text()
            return answer.status == 200

    await eventually(done)


def monthly(amount: int | None) -> dict[str, Any]:
    return {"user": "alice", "limits": [{"meter": "requests", "period": "month", "amount": amount}]}


async def let_in(http: aiohttp.ClientSession, here: RunningGateway, *urls: str) -> int:
    """How many more are let in by them in turn, until none is. While nobody can count, none is."""
    statuses = Counter[int]()
    while not statuses[429]:
        statuses.update([await ask(http, url, here.key) for url in urls])
    return statuses[200]


async def until_served(http: aiohttp.ClientSession, url: str, here: RunningGateway) -> bool:
    """Until somebody can count, who lets it in."""

    async def served() -> bool:
        status = await ask(http, url, here.key)
        assert status in (200, 503)
        return status == 200

    return bool(await eventually(served))


async def recorded(here: RunningGateway, served: int) -> None:
    """Until the database has the rows of all that were served."""

    async def all() -> bool:
        async with here.database.connection() as one:
            found = await one.fetchval("SELECT count(*) FROM usage WHERE status = 200 AND operation = 'generate'")
        assert found <= served
        return bool(found == served)

    await eventually(all)


async def test_a_reset_is_one_for_all_of_them_and_outlives_the_counts(postgres: str) -> None:
    with redis_server() as redis:
        async with two(postgres, redis) as (here, elsewhere), aiohttp.ClientSession() as http:
            await change(here, "PATCH", "limits", monthly(4))
            for served in (4, 8):
                assert await let_in(http, here, elsewhere, here.url) == 4
                await recorded(here, served)
                await change(here, "POST", "limits/reset", {"user": "alice"})
            assert await let_in(http, here, elsewhere, here.url) == 4
            await recorded(here, 12)
            redis.say("FLUSHALL")
            assert await let_in(http, here, elsewhere, here.url) == 0


async def test_a_limit_that_returns_counts_what_all_of_them_served_meanwhile(postgres: str) -> None:
    with redis_server() as redis:
        async with two(postgres, redis) as (here, elsewhere), aiohttp.ClientSession() as http:
            await change(here, "PATCH", "limits", monthly(5))
            assert await until_served(http, elsewhere, here)
            await change(here, "PATCH", "limits", monthly(None))
            for url in (here.url, elsewhere):
                assert await until_served(http, url, here)
            await recorded(here, 3)
            await change(here, "PATCH", "limits", monthly(5))
            assert await let_in(http, here, here.url) == 2
