"""Either Python client, used alike, and a server that is no Parallama."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from parallama import AsyncParallamaClient, ParallamaClient


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def awaited(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


class Client:
    """Made anew for each call."""

    def __init__(self, awaited: bool, given: Mapping[str, Any]) -> None:
        self._awaited, self._given = awaited, given

    async def __call__(self, call: Callable[[Any], Any]) -> Any:
        """What `call` gives of the client; a stream as the list of its pieces."""
        if not self._awaited:
            return await asyncio.to_thread(self._waiting, call)
        async with AsyncParallamaClient(**self._given) as client:
            found = await call(client)
            return [delta async for delta in found] if hasattr(found, "__aiter__") else found

    def _waiting(self, call: Callable[[Any], Any]) -> Any:
        with ParallamaClient(**self._given) as client:
            found = call(client)
            return list(found) if hasattr(found, "__next__") else found


class Using:
    """`client.admin`, whose operations are called by name and awaited, whichever client it is of."""

    def __init__(self, admin: Any, awaited: bool) -> None:
        self._admin, self._awaited = admin, awaited
        self.used: set[str] = set()
        """The names of the operations that have been called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        self.used.add(name)
        method = getattr(self._admin, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await (method(*args, **kwargs) if self._awaited else asyncio.to_thread(method, *args, **kwargs))

        return call


@asynccontextmanager
async def using(awaited: bool, **given: Any) -> AsyncIterator[Using]:
    """The administration by a client that is made with `given`."""
    if awaited:
        async with AsyncParallamaClient(**given) as client:
            yield Using(client.admin, awaited)
    else:
        waiting = await asyncio.to_thread(ParallamaClient, **given)  # reads the certificates of the machine
        with waiting:
            yield Using(waiting.admin, awaited)


class Foreign:
    """Answers every request with `answers`, one after the other, the last one ever again."""

    def __init__(self, *answers: tuple[int, str]) -> None:
        self.url = ""
        self.retry_after = "0"
        self.asked: list[str] = []
        """The method of each request."""
        self._answers = answers

    async def answer(self, request: web.Request) -> web.Response:
        status, text = self._answers[min(len(self.asked), len(self._answers) - 1)]
        self.asked.append(request.method)
        headers = {"Retry-After": self.retry_after, "Location": "/elsewhere"}
        return web.Response(status=status, text=text or None, content_type="text/html", headers=headers)


@asynccontextmanager
async def foreign(*answers: tuple[int, str]) -> AsyncIterator[Foreign]:
    """A server with these answers: status and body."""
    one, app = Foreign(*answers), web.Application()
    app.router.add_route("*", "/{path:.*}", one.answer)
    async with TestServer(app) as server:
        one.url = str(server.make_url("/"))
        yield one
