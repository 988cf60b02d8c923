"""What tests of the API run in: one gateway and its database for a whole module.

A module imports `in_one_loop` and the fixture `api`, and runs in its own loop: `pytestmark = in_one_loop`. What one
test makes the others may find, so names are their own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from e2e.databases import fresh_database
from running import RunningGateway, running_gateway

from parallama.testing import fake_ollama

in_one_loop = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    document: Any

    @property
    def message(self) -> str:
        return str(self.document["error"]["message"])


@dataclass(frozen=True)
class Api:
    """The API, asked as the admin root unless another key is given."""

    gateway: RunningGateway

    @property
    def root(self) -> str:
        return self.gateway.admin_key

    async def __call__(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, version: object = None
    ) -> Answer:
        """`key` "": none. A path that does not begin with a slash is one below /admin/v1."""
        where = path if path.startswith("/") else f"/admin/v1/{path}"
        key = self.root if key is None else key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        if version is not None:
            headers["If-Match"] = f'"{version}"'
        async with self.gateway.http.request(method, self.gateway.url + where, json=body, headers=headers) as answer:
            return Answer(answer.status, answer.headers, await answer.json() if await answer.read() else None)

    async def done(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> Any:
        """The document of a good answer."""
        answer = await self(method, path, body, key=key)
        assert answer.status in (200, 201, 204), (answer.status, answer.document)
        return answer.document

    async def user(self, name: str, **settings: Any) -> str:
        """A new user's key."""
        await self.done("POST", "users", {"username": name, **settings})
        return str((await self.done("POST", f"users/{name}/keys", {}))["key"])

    async def everything(self, path: str, limit: int) -> list[Any]:
        """All items of a list, part by part."""
        joint, items, cursor = "&" if "?" in path else "?", [], ""
        while True:
            page = await self.done("GET", f"{path}{joint}limit={limit}{cursor}")
            assert len(page["items"]) <= limit
            items += page["items"]
            if page["next_cursor"] is None:
                return items
            assert len(page["items"]) == limit
            cursor = f"&cursor={page['next_cursor']}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(postgres: str) -> AsyncIterator[Api]:
    async with (
        fresh_database(postgres) as url,
        fake_ollama() as node,
        running_gateway(url, node.url, {"auth": {"registration": True}}) as gateway,
    ):
        yield Api(gateway)
