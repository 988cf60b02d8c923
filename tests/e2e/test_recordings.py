"""Every recorded exchange of a real Ollama, played through the gateway on real sockets, its answer cut five ways.

What the client reads must be what Ollama wrote, what the node reads what Ollama understood, and the row must have the
recording's own counts.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
from databases import fresh_database
from raw_http import Got, raw_client
from replayed import ANSWERED_HERE, BROKEN, NAMES, NOT_REPLAYED, PASSED_ON, READ_ANEW, Case, ways_to_cut
from running import RunningGateway, eventually, running_gateway

from parallama.proxy.security import SECURITY
from parallama.testing import FakeOllama, fake_ollama

in_one_loop = pytest.mark.asyncio(loop_scope="module")
"""The gateway and the node serve every test of this module."""

HOP_BY_HOP = ("connection", "transfer-encoding")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database_url(postgres: str) -> AsyncIterator[str]:
    async with fresh_database(postgres) as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node() -> AsyncIterator[FakeOllama]:
    async with fake_ollama() as node:
        yield node


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(database_url: str, node: FakeOllama) -> AsyncIterator[RunningGateway]:
    async with running_gateway(database_url, node.url, {"usage": {"flush_ms": 1}}) as gateway:
        yield gateway


async def exchange(gateway: RunningGateway, case: Case) -> Got:
    """Send the recorded request, waiting for 100 Continue where the recorded client did; the final answer."""
    head, body = case.request(gateway.admin_key)
    async with raw_client(gateway.port) as client:
        await client.send(head)
        if "Expect" in case.asked.headers:
            assert await client.head() == "HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(body)
        return await client.answer(case.asked.method)


def end_to_end(headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """What is neither of the connection nor ours."""
    ours = ("x-request-id", "x-client-request-id", "x-parallama-", "retry-after")
    return sorted(
        pair
        for pair in headers
        if pair[0].lower() not in HOP_BY_HOP and not pair[0].lower().startswith(ours) and pair not in SECURITY.items()
    )


async def rows_of(gateway: RunningGateway, name: str, count: int) -> list[dict[str, Any]]:
    """The rows of the case's requests, once there are `count`."""

    async def enough() -> list[Any] | None:
        async with gateway.database.connection() as one:
            found = await one.fetch("SELECT * FROM usage WHERE client_request_id = $1 ORDER BY id", name)
        assert len(found) <= count
        return found if len(found) == count else None

    return [dict(row) for row in await eventually(enough)]


def check_answer(got: Got, case: Case) -> None:
    wire = case.wire
    assert wire.head is not None
    assert got.status_line == wire.head.decode().split("\r\n")[0]
    assert got.framing == wire.framing
    assert end_to_end(got.headers) == end_to_end(wire.headers)
    assert set(SECURITY.items()) <= set(got.headers)
    assert ("x-client-request-id", case.name) in got.headers
    assert ("x-parallama-node", "node-1") in got.headers
    if case.name not in BROKEN:
        assert got.body == wire.body
        return
    assert got.body.startswith(wire.body)
    added = got.body.removeprefix(wire.body)
    assert added.endswith(b"\n")
    assert list(json.loads(added)) == ["error"]


def check_node(node: FakeOllama, case: Case) -> None:
    """What the node was sent: the client's very bytes, or what Ollama had understood of them."""
    seen = next(one for one in node.requests if (one.method, one.path) == (case.asked.method, case.path))
    assert not seen.header("authorization")
    assert not seen.header("x-request-id")
    if case.name not in READ_ANEW:
        assert seen.body == case.body
        return
    assert seen.body != case.body
    sent = json.loads(seen.body, object_pairs_hook=_once)
    assert sent["model"] == case.model
    assert sent.get("stream") is (None if case.streamed else False)
    reached = case.last.get("done_reason") == "length"
    assert (sent.get("options") or {}).get("num_predict") == (case.last["eval_count"] if reached else None)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    assert len({key.casefold() for key in keys}) == len(keys), keys
    return dict(pairs)


def test_every_recording_is_replayed_or_answered_here_or_listed_with_a_reason() -> None:
    listed = [*NOT_REPLAYED, *ANSWERED_HERE, *PASSED_ON]
    assert sorted(listed) == NAMES
    assert {*BROKEN, *READ_ANEW} <= set(PASSED_ON)
    assert all(Case(name).wire.complete for name in PASSED_ON if name != "server-killed")


@in_one_loop
@pytest.mark.parametrize("name", PASSED_ON)
async def test_a_recorded_exchange_passes_byte_for_byte(gateway: RunningGateway, node: FakeOllama, name: str) -> None:
    case = Case(name)
    ways = ways_to_cut(case.wire)
    for way in ways:
        node.clear()
        node.requests.clear()
        node.cue(way, case.path, times=None)  # a health check may ask for the same path meanwhile
        check_answer(await exchange(gateway, case), case)
        check_node(node, case)
    node.clear()
    expected = case.row()
    for row in await rows_of(gateway, name, len(ways)):
        assert {key: row[key] for key in expected} == expected
        if case.is_cut:
            assert row["estimated"]
            assert row["prompt_tokens"] >= 1
            assert not case.streamed or row["output_tokens"] >= case.least_output


@in_one_loop
@pytest.mark.parametrize("name", ANSWERED_HERE)
async def test_the_gateway_answers_in_ollamas_place(gateway: RunningGateway, node: FakeOllama, name: str) -> None:
    case = Case(name)
    node.requests.clear()
    got = await exchange(gateway, case)
    assert case.wire.head is not None
    assert got.status_line == case.wire.head.decode().split("\r\n")[0]
    assert _without_date(got) == [pair for pair in end_to_end(case.wire.headers) if pair[0] != "Date"]
    assert got.framing == case.wire.framing
    assert got.body == case.wire.body
    assert not node.seen(case.path)
    if name != "root-head":
        (row,) = await rows_of(gateway, name, 1)
        assert (row["status"], row["outcome"], row["node"]) == (
            case.wire.status,
            "ok" if got.status < 400 else "refused",
            None,
        )


def _without_date(got: Got) -> list[tuple[str, str]]:
    return [pair for pair in end_to_end(got.headers) if pair[0] != "Date"]


@in_one_loop
async def test_a_name_of_the_cloud_is_refused_in_ollamas_shape(gateway: RunningGateway, node: FakeOllama) -> None:
    case = Case("cloud-name")
    node.requests.clear()
    got = await exchange(gateway, case)
    assert got.status == 403
    assert list(got.json()) == ["error"]
    assert ("Content-Type", "application/json; charset=utf-8") in got.headers
    assert not node.seen("/api/chat")
