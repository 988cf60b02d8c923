"""People with limits before one gateway, for tests of what they may use.

A module imports `in_one_loop` and all fixtures, and runs in its own loop: `pytestmark = in_one_loop`. Everybody is new,
so that each test counts from nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from asking import MODEL, bearer
from e2e.databases import fresh_database
from raw_http import Got, raw_client
from running import RunningGateway, early_in_an_hour, eventually, running_gateway

from parallama.app import STORE
from parallama.identity.api_keys import ApiKeys
from parallama.identity.assignments import Assignments
from parallama.identity.users import Users
from parallama.testing import FakeOllama, fake_ollama

in_one_loop = pytest.mark.asyncio(loop_scope="module")

GENERATE: dict[str, Any] = {"model": MODEL, "prompt": "one two three", "stream": False}
Rows = Sequence[dict[str, Any]]
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Person:
    """A user who may use every gateway, with a key."""

    gateway: RunningGateway
    name: str
    key: str
    key_id: UUID

    async def limit(self, meter: str, amount: int, period: str = "day", *, of_key: bool = False, **more: Any) -> None:
        """From now on, for the user or for the key alone; `more` as POST /limits takes it."""
        whose = {"key": str(self.key_id)} if of_key else {"user": self.name}
        period = "now" if meter == "concurrency" else period
        body = {**whose, "meter": meter, "period": period, "amount": amount, **more}
        url, headers = f"{self.gateway.url}/admin/v1/limits", self.gateway.admin_auth
        async with self.gateway.http.post(url, json=body, headers=headers) as answer:
            assert answer.status == 201, await answer.text()

    async def ask(self, body: Any = GENERATE, path: str = "/api/generate", *headers: str, method: str = "POST") -> Got:
        """One request on a connection of its own."""
        async with raw_client(self.gateway.port) as client:
            return await client.ask(method, path, body, bearer(self.key), *headers)

    async def together(self, times: int, body: Any = GENERATE, path: str = "/api/generate") -> list[Got]:
        """So many requests at the same time, with a key that is known: not all of them look for it in the database."""
        assert (await self.ask(None, "/api/tags", method="GET")).status == 200
        return await asyncio.gather(*(self.ask(body, path) for _ in range(times)))

    async def rows(self, count: int) -> list[dict[str, Any]]:
        """The usage rows of this person, lists apart, once there are `count` of them, oldest first."""
        return await rows_of(self.gateway, self.name, count)


async def rows_of(gateway: RunningGateway, name: str, count: int) -> list[dict[str, Any]]:
    async with gateway.database.connection() as one:

        async def enough() -> list[Any] | None:
            found = await one.fetch("SELECT * FROM usage WHERE username = $1 AND operation <> 'list' ORDER BY id", name)
            return found if len(found) >= count else None

        return [dict(row) for row in await eventually(enough)]


def statuses(answers: Sequence[Got]) -> dict[int, int]:
    """How many there are of each."""
    found = [answer.status for answer in answers]
    return {status: found.count(status) for status in found}


def charged(rows: Rows) -> int:
    """Tokens in all rows."""
    return sum((row["prompt_tokens"] or 0) + (row["output_tokens"] or 0) for row in rows)


def num_predict(asked: bytes) -> int | None:
    """What a request to the node holds it to."""
    found: int | None = (json.loads(asked).get("options") or {}).get("num_predict")
    return found


async def nothing_held(gateway: RunningGateway) -> None:
    """When all is quiet, nobody holds a part of a limit."""
    await eventually(lambda: (gateway.app[STORE].holds, gateway.app[STORE].reserved) == (0, 0))


async def new_person(gateway: RunningGateway, *roles: str) -> Person:
    await early_in_an_hour()
    name = f"person-{next(_numbers)}"
    await Users(gateway.database).create(name)
    for role in roles or ("tester",):
        await Assignments(gateway.database).assign(name, role)
    key, record = await ApiKeys(gateway.database).create(name)
    return Person(gateway, name, key, record.id)


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, Any]:
    return {"gateways": {"ollama": {"model_mappings": {"nick": MODEL}}}, "limits": {"weights": {"qwen3*": 4}}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(postgres: str, gateway_settings: dict[str, Any]) -> AsyncIterator[tuple[RunningGateway, FakeOllama]]:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(fresh_database(postgres))
        node = await stack.enter_async_context(fake_ollama())
        yield await stack.enter_async_context(running_gateway(url, node.url, gateway_settings)), node


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(served: tuple[RunningGateway, FakeOllama]) -> AsyncIterator[RunningGateway]:
    """A gateway that holds nothing when the test is over."""
    yield served[0]
    await nothing_held(served[0])
    assert served[0].app[STORE].overrun == 0


@pytest.fixture
def node(served: tuple[RunningGateway, FakeOllama]) -> FakeOllama:
    """The node, which has been asked nothing."""
    served[1].clear()
    served[1].requests.clear()
    return served[1]


@pytest_asyncio.fixture(loop_scope="module")
async def person(gateway: RunningGateway) -> Person:
    return await new_person(gateway)
