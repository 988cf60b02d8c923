"""Nothing of a request waits for the garbage collector, which hardly ever runs."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from asking import CHAT, EMBED, UNARY, ask, asked
from running import RunningGateway, eventually

from parallama.testing import Answer, FakeOllama, Fault

ASKED = 20


@pytest.fixture
def no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def requests() -> int:
    """How many requests there are in this process."""
    return sum(type(each) is web.Request for each in gc.get_objects())


@pytest.mark.parametrize(
    ("path", "body", "cue"),
    [
        pytest.param("/api/chat", UNARY, None, id="a document"),
        pytest.param("/api/chat", CHAT, None, id="a stream"),
        pytest.param("/ollama/v1/chat", {**CHAT, "stream": True}, None, id="a translated stream"),
        pytest.param("/api/embed", EMBED, None, id="an embedding"),
        pytest.param("/api/nope", UNARY, None, id="no such path"),
        pytest.param("/nope", UNARY, None, id="no such path outside the gateways"),
        pytest.param("/ollama/v1/chat", {**UNARY, "model": "nope"}, None, id="no such model"),
        pytest.param("/api/chat", [1], None, id="a bad request"),
        pytest.param("/api/chat", UNARY, Answer(fault=Fault.CLOSE), id="a node that breaks"),
        pytest.param("/api/chat", CHAT, Answer(fault=Fault.CLOSE, after_body=200), id="a stream that breaks"),
    ],
)
@pytest.mark.parametrize("gateway_settings", [{"relay": {"stall_s": 0.4}}])
async def test_a_request_is_gone_when_it_is_answered(
    gateway: RunningGateway, node: FakeOllama, no_collections: None, path: str, body: Any, cue: Answer | None
) -> None:
    before = requests()
    for _ in range(ASKED):
        if cue is not None:
            node.cue(cue)
        await ask(gateway, path, body)
    await eventually(lambda: requests() <= before + 1)


async def test_a_request_is_gone_when_its_client_has_left(
    gateway: RunningGateway, node: FakeOllama, no_collections: None
) -> None:
    before = requests()
    for number in range(ASKED):
        node.cue(Answer(hold_head=asyncio.Event()))
        async with asked(gateway, "/api/chat", CHAT):
            await node.request_for("/api/chat", number)
    await eventually(lambda: requests() <= before + 1)
