"""What is booked of an answer that nobody waits for: only what its node may have worked on."""

from __future__ import annotations

from typing import Any

import pytest
from asking import MODEL, Gate, asked
from kept_gateway import gateway as gateway
from kept_gateway import in_one_loop
from kept_gateway import kept_gateways as kept_gateways
from kept_gateway import node as node
from kept_gateway import served as served
from running import RunningGateway, eventually

from parallama.app import POOL
from parallama.testing import Answer, FakeOllama

pytestmark = in_one_loop

PATH = "/api/generate"
UNARY = {"model": MODEL, "prompt": "four" * 5, "stream": False, "options": {"num_predict": 9}}


@pytest.fixture
def gateway_settings() -> dict[str, Any]:
    return {"nodes": [{"max_connections": 1}]}


def tokens(row: dict[str, Any]) -> tuple[int | None, int | None, bool]:
    return row["prompt_tokens"], row["output_tokens"], row["estimated"]


async def held(gateway: RunningGateway, node: FakeOllama) -> Gate:
    """What holds the next answer, after a whole one, from which the speed of the model is known."""
    async with asked(gateway, PATH, UNARY) as client:
        assert (await client.answer("POST")).json()["eval_count"] >= 8
    head = Gate()
    node.cue(Answer(hold_head=head), PATH)
    return head


async def test_who_leaves_while_all_connections_are_in_use_has_cost_nothing(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    head = await held(gateway, node)
    pool = gateway.app[POOL].nodes[0]
    async with asked(gateway, PATH, UNARY) as first:
        await head.reached.wait()
        async with asked(gateway, PATH, UNARY):
            await eventually(lambda: pool.in_flight == 2)
        await eventually(lambda: pool.in_flight == 1)
        head.set()
        assert (await first.answer("POST")).status == 200
    rows = await gateway.rows(3)
    assert [row["outcome"] for row in rows] == ["ok", "ok", "cancelled"]
    assert tokens(rows[2]) == (None, None, False)


async def test_who_leaves_before_a_document_pays_at_most_what_it_asked_for(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    head = await held(gateway, node)
    async with asked(gateway, PATH, UNARY):
        await head.reached.wait()
    prompt, output, estimated = tokens((await gateway.rows(2))[1])
    assert (prompt, estimated) == (5, True)
    assert output in range(10)


async def test_who_leaves_before_the_first_line_of_a_stream_pays_for_the_prompt(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    head = await held(gateway, node)
    async with asked(gateway, PATH, {**UNARY, "stream": True}):
        await head.reached.wait()
    assert tokens((await gateway.rows(2))[1]) == (5, None, True)
