"""What tests of the relay ask and look at: bodies, bare clients with a key, gates that tell who waits, metrics."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from raw_http import Got, RawClient, raw_client, request_bytes
from running import RunningGateway, eventually

from parallama.app import POOL

MODEL = "llama3.2:1b"
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Say something long, please."}]}
UNARY: dict[str, Any] = {**CHAT, "stream": False}
EMBED: dict[str, Any] = {"model": "nomic-embed-text", "input": "four words of text"}

STREAMS = [
    ("/ollama/api/chat", CHAT),
    ("/api/generate", {"model": MODEL, "prompt": "Say something long, please."}),
    ("/ollama/v1/chat", {**CHAT, "stream": True}),
]
"""One stream of each codec: a path of the gateway and the body for it."""


class Gate(asyncio.Event):
    """A gate that tells when somebody has come to it."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()

    async def wait(self) -> Literal[True]:
        self.reached.set()
        return await super().wait()


def node_path(path: str) -> str:
    """Where the node is asked for what the gateway has at `path`."""
    return "/api/" + path.rpartition("/")[2]


def bearer(key: str) -> str:
    """The header line that shows `key`."""
    return f"Authorization: Bearer {key}"


@asynccontextmanager
async def asked(
    gateway: RunningGateway, path: str, body: Any, *headers: str, method: str = "POST", admin: bool = False
) -> AsyncIterator[RawClient]:
    """A connection on which alice (or the admin) has sent a request."""
    key = bearer(gateway.admin_key if admin else gateway.key)
    async with raw_client(gateway.port) as client:
        await client.send(request_bytes(method, path, body, key, *headers))
        yield client


async def ask(gateway: RunningGateway, path: str, body: Any = None, *headers: str, **how: Any) -> Got:
    """One request of alice's on a connection of its own, and its answer."""
    how.setdefault("method", "POST" if body is not None else "GET")
    async with asked(gateway, path, body, *headers, **how) as client:
        return await client.answer(how["method"])


async def metric(gateway: RunningGateway, name: str) -> float:
    """The sum of all children of a metric."""
    async with gateway.http.get(f"{gateway.url}/metrics", headers=gateway.admin_auth) as answer:
        text = await answer.text()
    values = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M)
    return sum(map(float, values))


async def at_rest(gateway: RunningGateway) -> None:
    """Nothing is in flight any more, by every count there is."""
    await eventually(lambda: gateway.app[POOL].nodes[0].in_flight == 0)
    await eventually(lambda: _none_in_flight(gateway))


async def _none_in_flight(gateway: RunningGateway) -> bool:
    return not await metric(gateway, "parallama_requests_in_flight") + await metric(
        gateway, "parallama_node_requests_in_flight"
    )


async def under_way(gateway: RunningGateway) -> bool:
    """Whether a handler is at work."""
    return await metric(gateway, "parallama_requests_in_flight") > 0
