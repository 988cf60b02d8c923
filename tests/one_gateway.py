"""What tests about the edge of the gateway run in: one gateway before one node, for a whole module.

A module imports `in_one_loop` and all fixtures, and runs in its own loop: `pytestmark = in_one_loop`. It may have a
fixture `gateway_settings` of its own, of the scope of the module.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from e2e.databases import fresh_database
from running import RunningGateway, running_gateway

from parallama.identity.api_keys import ApiKeys, KeyLimits
from parallama.testing import FakeOllama, fake_ollama

in_one_loop = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, Any]:
    return {}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(postgres: str, gateway_settings: dict[str, Any]) -> AsyncIterator[tuple[RunningGateway, FakeOllama]]:
    async with (
        fresh_database(postgres) as url,
        fake_ollama() as node,
        running_gateway(url, node.url, gateway_settings) as gateway,
    ):
        yield gateway, node


@pytest.fixture
def gateway(served: tuple[RunningGateway, FakeOllama]) -> RunningGateway:
    return served[0]


@pytest.fixture
def node(served: tuple[RunningGateway, FakeOllama]) -> FakeOllama:
    """The node, which has been asked nothing."""
    served[1].clear()
    served[1].requests.clear()
    return served[1]


async def limited_key(gateway: RunningGateway, name: str = "alice", **limits: Any) -> str:
    """A key of the user that is good for no more."""
    key, _record = await ApiKeys(gateway.database).create(name, limits=KeyLimits(**limits))
    return key
