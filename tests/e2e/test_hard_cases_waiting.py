"""Streams of events that wait for their node, in every dialect: heartbeats, and what may come behind one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from asking import Gate
from dialects import Dialect
from hearing import errors
from raw_http import RawClient
from running import RunningGateway
from shared_gateway import gateway as gateway
from shared_gateway import in_one_loop
from shared_gateway import node as node
from shared_gateway import served as served
from test_hard_cases import FALSE_ENDS, TEXTS, asked, every_event_stream, lines

from parallama.testing import BUSY, Answer, FakeOllama, Fault

pytestmark = in_one_loop


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, Any]:
    return {"relay": {"heartbeat_after_s": 0.05, "heartbeat_s": 0.05}, "usage": {"flush_ms": 1}}


def heartbeat(dialect: Dialect) -> bytes:
    return b'event: ping\ndata: {"type":"ping"}\n\n' if "anthropic" in dialect.path else b": ping\n\n"


@every_event_stream
async def test_a_stream_beats_until_its_node_answers(
    gateway: RunningGateway, node: FakeOllama, dialect: Dialect
) -> None:
    gate = Gate()
    node.cue(Answer(lines=lines(dialect, *TEXTS), hold_head=gate))
    async with asked(gateway, dialect) as client:
        assert "text/event-stream" in await client.head()
        beats = [await client.chunk() for _ in range(2)]
        gate.set()
        rest = [chunk async for chunk in chunks(client)]
    assert beats == [heartbeat(dialect)] * 2
    assert dialect.stream(b"".join(rest)).text == "".join(TEXTS)
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["estimated"]) == (200, "ok", False)


async def chunks(client: RawClient) -> AsyncIterator[bytes]:
    while chunk := await client.chunk():
        yield chunk


REFUSALS = {
    "busy": Answer(status=503, error=BUSY),
    "unknown": Answer(status=404, error="model 'x' not found"),
    "gone": Answer(fault=Fault.CLOSE),
}


@every_event_stream
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_an_error_behind_a_heartbeat_is_told_in_the_stream(
    gateway: RunningGateway, node: FakeOllama, dialect: Dialect, refusal: str
) -> None:
    gate = Gate()
    node.cue(replace(REFUSALS[refusal], hold_head=gate))
    async with asked(gateway, dialect) as client:
        await client.head()
        assert await client.chunk() == heartbeat(dialect)
        gate.set()
        rest = b"".join([chunk async for chunk in chunks(client)])
    assert errors(rest) == 1
    assert not [end for end in FALSE_ENDS if end in rest]
    row = await gateway.row()
    assert row["outcome"] in ("failed", "refused")
    assert row["status"] >= 400
