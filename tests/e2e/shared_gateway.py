"""What tests of the `openai` client run in: one gateway and one node for a module, cleaned behind each test.

A module imports all of them, and runs in its own loop: `pytestmark = in_one_loop`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from asking import at_rest
from databases import fresh_database
from openai import AsyncOpenAI, OpenAI
from openai_clients import Ai
from running import RunningGateway, running_gateway

from parallama.testing import FakeOllama, fake_ollama

in_one_loop = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, Any]:
    return {"usage": {"flush_ms": 1}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(postgres: str, gateway_settings: dict[str, Any]) -> AsyncIterator[tuple[RunningGateway, FakeOllama]]:
    async with (
        fresh_database(postgres) as url,
        fake_ollama() as node,
        running_gateway(url, node.url, gateway_settings) as gateway,
    ):
        yield gateway, node


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(served: tuple[RunningGateway, FakeOllama]) -> AsyncIterator[RunningGateway]:
    """The gateway without usage rows before a node that has been asked nothing."""
    gateway, node = served
    yield gateway
    node.clear()
    await at_rest(gateway)
    await gateway.rows(0)
    node.requests.clear()
    async with gateway.database.connection() as one:
        await one.execute("DELETE FROM usage")


@pytest.fixture
def node(served: tuple[RunningGateway, FakeOllama]) -> FakeOllama:
    return served[1]


@pytest.fixture(params=[OpenAI, AsyncOpenAI], ids=["sync", "async"])
def ai(request: pytest.FixtureRequest, gateway: RunningGateway) -> Ai:
    return Ai(request.param, gateway.url, gateway.key)
