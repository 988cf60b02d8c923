"""Fixtures: a Redis for a module, emptied for each test, and stores in it, each as of a process of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
from redis_server import RedisServer, redis_server
from redis_stores import PATIENT, Start
from store_rig import ZONE

from parallama.ledger.redis_session import Terms
from parallama.ledger.redis_store import RedisStore


@pytest.fixture(scope="module")
def running_server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def server(running_server: RedisServer) -> RedisServer:
    running_server.say("FLUSHALL")
    return running_server


@pytest.fixture
async def start(server: RedisServer) -> AsyncIterator[Start]:
    """Starts another process' store."""
    async with AsyncExitStack() as stores:

        async def start(url: str = server.url, terms: Terms = PATIENT, instance: str | None = None) -> RedisStore:
            store = RedisStore(url, ZONE, instance=instance, terms=terms)
            await stores.enter_async_context(store.running())
            return store

        yield start
