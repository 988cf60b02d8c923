"""What tests of the relay run in: gateways kept for a module, one for each settings, as new for every test.

A module imports `in_one_loop` and all fixtures, and runs in its own loop: `pytestmark = in_one_loop`. A test that
breaks its node, or counts from zero, has both alone: `@ALONE`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from asking import at_rest
from e2e.databases import fresh_database
from running import RunningGateway, running_gateway

from parallama.app import POOL
from parallama.testing import FakeOllama, fake_ollama

in_one_loop = pytest.mark.asyncio(loop_scope="module")
ALONE = pytest.mark.usefixtures("alone")

Served = tuple[RunningGateway, FakeOllama]
Kept = Callable[[dict[str, Any]], Awaitable[Served]]


@pytest.fixture
def gateway_settings() -> dict[str, Any]:
    """What differs from the default settings, of the node too; tests parametrize it."""
    return {}


@pytest.fixture
def alone() -> None:
    """Asked for by a test whose gateway and node nobody else has."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kept_gateways(postgres: str) -> AsyncIterator[Kept]:
    """The gateway of some settings, and the node behind it."""
    found: dict[str, Served] = {}
    async with AsyncExitStack() as stack:

        async def serve(settings: dict[str, Any]) -> Served:
            name = repr(settings)
            if name not in found:
                found[name] = await stack.enter_async_context(_served(postgres, settings))
            return found[name]

        yield serve


@pytest_asyncio.fixture(loop_scope="module")
async def served(
    request: pytest.FixtureRequest, postgres: str, kept_gateways: Kept, gateway_settings: dict[str, Any]
) -> AsyncIterator[Served]:
    """A gateway without usage rows before a node that has been asked nothing."""
    if "alone" in request.fixturenames:
        async with _served(postgres, gateway_settings) as alone:
            yield alone
        return
    gateway, node = await kept_gateways(gateway_settings)
    yield gateway, node
    node.clear()
    await at_rest(gateway)
    await gateway.rows(0)
    await gateway.app[POOL].hear()
    node.requests.clear()
    async with gateway.database.connection() as one:
        await one.execute("DELETE FROM usage")


@pytest.fixture
def gateway(served: Served) -> RunningGateway:
    return served[0]


@pytest.fixture
def node(served: Served) -> FakeOllama:
    return served[1]


@asynccontextmanager
async def _served(postgres: str, settings: dict[str, Any]) -> AsyncIterator[Served]:
    async with (
        fresh_database(postgres) as url,
        fake_ollama() as node,
        running_gateway(url, node.url, {**settings, "nodes": _nodes(settings, node.url)}) as gateway,
    ):
        yield gateway, node


def _nodes(settings: dict[str, Any], url: str) -> list[dict[str, Any]]:
    return [{"name": "node-1", "url": url, "probe_s": 3600, **one} for one in settings.get("nodes", [{}])]
