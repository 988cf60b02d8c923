"""Two gateways that share a Redis admit together what one would: one in this process, one in a process of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from asking import MODEL
from e2e.databases import fresh_database
from processes import place
from redis_server import RedisServer, redis_server
from running import RunningGateway, eventually, running_gateway

from parallama.app import STORE
from parallama.identity.limits import Limits
from parallama.identity.terms import Subject
from parallama.testing import FakeOllama, fake_ollama

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY: dict[str, Any] = {"model": MODEL, "prompt": "one two three", "stream": False}
K = 20
FLUSH_MS = 200
"""Of both: each gives the other so long to bring to the database what has ended there."""

Two = tuple[RedisServer, RunningGateway, str, FakeOllama]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def two(postgres: str) -> AsyncIterator[Two]:
    """What the gateways share, the one here, the URL of the one elsewhere, and their node."""
    with redis_server() as redis:
        settings = {"redis": {"url": redis.url}, "usage": {"flush_ms": FLUSH_MS}}
        async with fresh_database(postgres) as url, fake_ollama() as node:
            async with running_gateway(url, node.url, settings) as here:
                env = {"PARALLAMA_DB_URL": url, "PARALLAMA__REDIS__URL": redis.url}
                env["PARALLAMA__USAGE__FLUSH_MS"] = str(FLUSH_MS)
                env |= {"PARALLAMA__NODES__0__NAME": "node-1", "PARALLAMA__NODES__0__URL": node.url}
                with place() as home:
                    elsewhere = home.start("serve", "--port", "0", **env)
                    await asyncio.to_thread(elsewhere.ready)
                    yield redis, here, elsewhere.url, node
                    assert await asyncio.to_thread(elsewhere.end) == 0


async def ask(http: aiohttp.ClientSession, url: str, key: str) -> int:
    async with http.post(f"{url}/api/generate", json=BODY, headers={"Authorization": f"Bearer {key}"}) as answer:
        await answer.read()
        return answer.status


def served(node: FakeOllama) -> int:
    """How many requests the node was asked to answer."""
    return len([one for one in node.requests if one.path == "/api/generate"])


async def exactly_the_limit(http: aiohttp.ClientSession, urls: Sequence[str], key: str, node: FakeOllama) -> None:
    """As many as the limit allows are let in, and then nobody. On a busy machine Redis is late for some, who are
    refused with 503; what it may have reserved for them is taken back."""

    async def enough() -> bool:
        await asyncio.gather(*(ask(http, url, key) for url in urls))
        return served(node) >= K

    await eventually(enough)
    assert 200 not in [await ask(http, url, key) for url in urls]
    assert served(node) == K


async def test_together_they_admit_exactly_what_a_limit_allows(two: Two) -> None:
    _, here, elsewhere, node = two
    await Limits(here.database).create(Subject(user="alice"), "requests", "month", amount=K)
    node.requests.clear()
    async with aiohttp.ClientSession() as http:
        urls = [here.url, elsewhere] * 50
        statuses = Counter(await asyncio.gather(*(ask(http, url, here.key) for url in urls)))
        assert statuses[200] == served(node) <= K
        assert statuses.keys() <= {200, 429, 503}
        await exactly_the_limit(http, [here.url, elsewhere], here.key, node)
    await eventually(lambda: here.app[STORE].holds == 0)


async def test_without_redis_a_closed_limit_refuses_and_is_kept_when_it_is_back(two: Two) -> None:
    redis, here, elsewhere, node = two
    await Limits(here.database).create(Subject(user="root"), "requests", "month", amount=K)
    node.requests.clear()
    async with aiohttp.ClientSession() as http:
        await eventually(lambda: _is(200, http, elsewhere, here.admin_key))
        redis.kill()
        await eventually(lambda: _is(503, http, here.url, here.admin_key))
        redis.start()
        await eventually(lambda: _is(200, http, here.url, here.admin_key))
        # a Redis that knows nothing: what was used is summed from the database
        await exactly_the_limit(http, [elsewhere], here.admin_key, node)


async def test_readiness_and_metrics_tell_that_redis_is_gone(two: Two) -> None:
    redis, here, _, _ = two
    async with aiohttp.ClientSession() as http:

        async def ready() -> tuple[int, Any]:
            async with http.get(f"{here.url}/readyz") as answer:
                return answer.status, (await answer.json()).get("reasons")

        async def told(status: int, reasons: list[str] | None) -> bool:
            return await ready() == (status, reasons)

        async def up() -> str:
            headers = {"Authorization": f"Bearer {here.admin_key}"}
            async with http.get(f"{here.url}/metrics", headers=headers) as answer:
                return next(
                    line for line in (await answer.text()).splitlines() if line.startswith("parallama_redis_up")
                )

        await eventually(lambda: told(200, None))
        redis.kill()
        await eventually(lambda: told(503, ["redis"]))
        assert await up() == "parallama_redis_up 0.0"
        redis.start()
        await eventually(lambda: told(200, None))
        assert await up() == "parallama_redis_up 1.0"


async def _is(status: int, http: aiohttp.ClientSession, url: str, key: str) -> bool:
    return await ask(http, url, key) == status
