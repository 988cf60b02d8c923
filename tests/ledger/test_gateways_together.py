"""Two gateways that share a Redis admit together what one would: one in this process, one in a process of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from asking import MODEL
from e2e.databases import fresh_database
from processes import place
from redis_server import RedisServer, redis_server
from running import RunningGateway, eventually, running_gateway

from parallama.app import STORE
from parallama.identity.limits import Limits
from parallama.identity.terms import Subject
from parallama.testing import FakeOllama, fake_ollama

BODY: dict[str, Any] = {"model": MODEL, "prompt": "one two three", "stream": False}
K = 20


@asynccontextmanager
async def two(postgres: str, redis: RedisServer) -> AsyncIterator[tuple[RunningGateway, str, FakeOllama]]:
    """The gateway here, and the URL of the one elsewhere."""
    async with fresh_database(postgres) as url, fake_ollama() as node:
        async with running_gateway(url, node.url, {"redis": {"url": redis.url}}) as here:
            env = {"PARALLAMA_DB_URL": url, "PARALLAMA__REDIS__URL": redis.url}
            env |= {"PARALLAMA__NODES__0__NAME": "node-1", "PARALLAMA__NODES__0__URL": node.url}
            with place() as home:
                elsewhere = home.start("serve", "--port", "0", **env)
                await asyncio.to_thread(elsewhere.ready)
                yield here, elsewhere.url, node
                assert await asyncio.to_thread(elsewhere.end) == 0


async def ask(http: aiohttp.ClientSession, url: str, key: str) -> int:
    async with http.post(f"{url}/api/generate", json=BODY, headers={"Authorization": f"Bearer {key}"}) as answer:
        await answer.read()
        return answer.status


async def test_together_they_admit_exactly_what_a_limit_allows(postgres: str) -> None:
    with redis_server() as redis:
        async with two(postgres, redis) as (here, elsewhere, node):
            await Limits(here.database).create(Subject(user="alice"), "requests", "hour", amount=K)
            async with aiohttp.ClientSession() as http:
                urls = [here.url, elsewhere] * 50
                statuses = Counter(await asyncio.gather(*(ask(http, url, here.key) for url in urls)))
            assert statuses == {200: K, 429: 100 - K}
            assert len([one for one in node.requests if one.path == "/api/generate"]) == K
            await eventually(lambda: here.app[STORE].holds == 0)


async def test_without_redis_a_closed_limit_refuses_and_is_kept_when_it_is_back(postgres: str) -> None:
    with redis_server() as redis:
        async with two(postgres, redis) as (here, elsewhere, _):
            await Limits(here.database).create(Subject(user="alice"), "requests", "hour", amount=K)
            async with aiohttp.ClientSession() as http:
                assert await ask(http, elsewhere, here.key) == 200
                redis.kill()
                await eventually(lambda: _is(503, http, here))
                redis.start()
                await eventually(lambda: _is(200, http, here))
                # a Redis that knows nothing: what was used is summed from the database
                answers = Counter([await ask(http, elsewhere, here.key) for _ in range(K)])
            assert answers[200] == K - 2


async def _is(status: int, http: aiohttp.ClientSession, gateway: RunningGateway) -> bool:
    return await ask(http, gateway.url, gateway.key) == status
