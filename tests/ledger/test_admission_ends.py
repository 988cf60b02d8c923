"""What an exchange pays in the end: what its node has spent, however it ended."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio
from asking import CHAT, MODEL, Gate, bearer
from limited_people import GENERATE, Person, charged
from limited_people import gateway as gateway
from limited_people import in_one_loop as in_one_loop
from limited_people import node as node
from limited_people import person as person
from limited_people import served as served
from raw_http import raw_client, request_bytes
from running import eventually

from parallama.app import STORE
from parallama.ledger.store import Standing
from parallama.limits import Limit, Meter, Period, Scope
from parallama.testing import Answer, FakeOllama, Fault

pytestmark = in_one_loop

STREAM = {**GENERATE, "stream": True}
THINKER = "qwen3:0.6b"


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, Any]:
    return {}


@pytest_asyncio.fixture(loop_scope="module")
async def limited(person: Person) -> Person:
    """Somebody whose every meter is counted, with much room."""
    for meter in ("requests", "prompt_tokens", "output_tokens", "total_tokens"):
        await person.limit(meter, 100_000)
    return person


async def used(person: Person) -> dict[str, int]:
    """What is settled of each meter."""
    gateway = person.gateway
    async with gateway.database.connection() as one:
        user_id = await one.fetchval("SELECT id FROM users WHERE username = $1", person.name)
    limits = [
        Limit(subject=user_id, scope=Scope("*", None, meter, Period.DAY), amount=1)
        for meter in Meter
        if meter is not Meter.CONCURRENCY
    ]
    standings: list[Standing] = list(await gateway.app[STORE].standings(limits))
    return {one.limit.scope.meter.value: one.used for one in standings}


async def agrees(person: Person, rows: list[dict[str, Any]]) -> None:
    """The counts are what the rows say."""
    prompt = sum(row["prompt_tokens"] or 0 for row in rows)
    output = sum(row["output_tokens"] or 0 for row in rows)
    requests = sum(row["node"] is not None for row in rows)
    expected = {"requests": requests, "prompt_tokens": prompt, "output_tokens": output}
    await eventually(lambda: _is(person, {**expected, "total_tokens": prompt + output}))


async def _is(person: Person, expected: dict[str, int]) -> bool:
    return await used(person) == expected


async def leave(person: Person, node: FakeOllama, body: Any, path: str, *, head: bool) -> dict[str, Any]:
    """Ask, and go once the node is at work, or the head of the answer is there; the row."""
    async with raw_client(person.gateway.port) as client:
        await client.send(request_bytes("POST", path, body, bearer(person.key)))
        seen = await node.request_for("/api/generate")
        if head:
            await client.head()
            await client.chunk()
    await seen.client_left.wait()
    (row,) = await person.rows(1)
    return row


@pytest.mark.parametrize("body", [GENERATE, STREAM], ids=["unary", "stream"])
async def test_what_the_node_counts_is_what_is_paid(limited: Person, node: FakeOllama, body: dict[str, Any]) -> None:
    got = await limited.ask(body)
    last = got.lines()[-1]
    rows = await limited.rows(1)
    assert charged(rows) == last["prompt_eval_count"] + last["eval_count"]
    await agrees(limited, rows)


async def test_who_leaves_a_stream_pays_for_what_was_said(limited: Person, node: FakeOllama) -> None:
    node.cue(Answer(hold_chunks=Gate()), "/api/generate")
    row = await leave(limited, node, STREAM, "/api/generate", head=True)
    assert (row["outcome"], row["estimated"]) == ("cancelled", True)
    assert row["prompt_tokens"] >= 1
    assert row["output_tokens"] >= 1
    await agrees(limited, [row])


async def test_who_leaves_before_a_document_pays_by_the_time_that_it_took(limited: Person, node: FakeOllama) -> None:
    got = await limited.ask({**GENERATE, "options": {"num_predict": 20}})
    assert got.json()["eval_count"] >= 8  # the speed of the model is known
    node.requests.clear()
    node.cue(Answer(hold_head=Gate()), "/api/generate")
    async with raw_client(limited.gateway.port) as client:
        body = {**GENERATE, "options": {"num_predict": 20}}
        await client.send(request_bytes("POST", "/api/generate", body, bearer(limited.key)))
        seen = await node.request_for("/api/generate")
    await seen.client_left.wait()
    rows = await limited.rows(2)
    assert (rows[1]["outcome"], rows[1]["estimated"]) == ("cancelled", True)
    assert rows[1]["prompt_tokens"] >= 1
    assert 0 <= rows[1]["output_tokens"] <= 20
    await agrees(limited, rows)


@pytest.mark.parametrize("status", [400, 404, 500, 503])
async def test_what_the_node_refuses_is_a_request_without_tokens(
    limited: Person, node: FakeOllama, status: int
) -> None:
    node.cue(Answer(status=status, error="no"), "/api/generate")
    assert (await limited.ask()).status == status
    rows = await limited.rows(1)
    assert charged(rows) == 0
    await agrees(limited, rows)
    assert (await used(limited))["requests"] == 1


async def test_a_node_that_hangs_up_without_a_word_is_a_request_without_tokens(
    limited: Person, node: FakeOllama
) -> None:
    node.cue(Answer(fault=Fault.CLOSE, after_head=0), "/api/generate", times=None)
    assert (await limited.ask()).status == 502
    rows = await limited.rows(1)
    assert charged(rows) == 0
    await agrees(limited, rows)


async def test_a_node_that_dies_in_a_stream_is_paid_for_what_it_said(limited: Person, node: FakeOllama) -> None:
    node.cue(Answer(fault=Fault.CLOSE, after_body=300), "/api/generate")
    await limited.ask(STREAM)
    rows = await limited.rows(1)
    assert (rows[0]["outcome"], rows[0]["estimated"]) == ("failed", True)
    assert rows[0]["prompt_tokens"] >= 1
    assert rows[0]["output_tokens"] >= 1
    await agrees(limited, rows)


@pytest.mark.parametrize(
    ("more", "times"),
    [
        ({"format": "json"}, 2),
        ({"format": "json", "think": True}, 2),
        ({"format": "json", "think": False}, 1),
        ({"think": True}, 1),
    ],
)
async def test_a_prompt_that_a_thinking_model_reads_twice_is_paid_twice(
    limited: Person, node: FakeOllama, more: dict[str, Any], times: int
) -> None:
    got = await limited.ask({**CHAT, "model": THINKER, "stream": False, **more}, "/api/chat")
    told = got.json()
    rows = await limited.rows(1)
    assert rows[0]["prompt_tokens"] == times * told["prompt_eval_count"]
    assert rows[0]["output_tokens"] == told["eval_count"]
    await agrees(limited, rows)


async def test_a_model_that_does_not_think_reads_a_prompt_once(limited: Person, node: FakeOllama) -> None:
    got = await limited.ask({**CHAT, "model": MODEL, "stream": False, "format": "json"}, "/api/chat")
    rows = await limited.rows(1)
    assert rows[0]["prompt_tokens"] == got.json()["prompt_eval_count"]


async def test_a_stream_has_settled_before_its_last_line_is_out(person: Person, node: FakeOllama) -> None:
    await person.limit("concurrency", 1)
    async with raw_client(person.gateway.port) as client:
        for _ in range(20):
            assert (await client.ask("POST", "/api/generate", STREAM, bearer(person.key))).status == 200
