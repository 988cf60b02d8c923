"""Every authenticated exchange ends as exactly one row, and the row says what happened."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from asking import CHAT, EMBED, MODEL, STREAMS, UNARY, ask, at_rest, bearer, metric
from kept_gateway import ALONE, in_one_loop
from kept_gateway import alone as alone
from kept_gateway import gateway as gateway
from kept_gateway import gateway_settings as gateway_settings
from kept_gateway import kept_gateways as kept_gateways
from kept_gateway import node as node
from kept_gateway import served as served
from raw_http import raw_client, request_bytes
from running import RunningGateway, running_gateway
from upstream_client import accepted
from usage_rows import made_at
from wire import Wire

from parallama.testing import Answer, FakeOllama, Fault

pytestmark = in_one_loop

Body = dict[str, Any]


def same(row: Body, **expected: Any) -> None:
    """The columns named are as expected."""
    assert {name: row[name] for name in expected} == expected


async def ids_of(gateway: RunningGateway, name: str) -> Body:
    async with gateway.database.connection() as one:
        found = await one.fetchrow(
            "SELECT users.id AS user_id, api_keys.id AS key_id FROM users JOIN api_keys ON user_id = users.id "
            "WHERE username = $1",
            name,
        )
    assert found is not None
    return dict(found)


def sizes(body: Any) -> int:
    return len(json.dumps(body).encode())


@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_a_stream_leaves_one_row_with_the_nodes_counts(
    gateway: RunningGateway, node: FakeOllama, path: str, body: Any
) -> None:
    before = datetime.now(UTC)
    got = await ask(gateway, path, body, "X-Request-ID: mine-7")
    assert (got.status, got.framing) == (200, "chunked")
    row = await gateway.row()
    last = got.lines()[-1]
    counts = (
        (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"])
        if "usage" in last
        else (last["prompt_eval_count"], last["eval_count"])
    )
    same(row, status=200, outcome="ok", error=None, streamed=True, gateway="ollama", node="node-1")
    same(row, model_asked=MODEL, model=MODEL, username="alice", client_request_id="mine-7")
    same(row, operation=path.rpartition("/")[2], prompt_tokens=counts[0], output_tokens=counts[1], estimated=False)
    same(row, request_bytes=sizes(body), response_bytes=len(got.body), **await ids_of(gateway, "alice"))
    assert f"x-request-id: {row['id']}" in got.head
    assert 0 < row["ttft_ms"] <= row["duration_ms"]
    assert made_at(row["id"]) == row["created_at"] <= datetime.now(UTC)
    assert abs((row["created_at"] - before).total_seconds()) < 60


@pytest.mark.parametrize("path", ["/api/chat", "/ollama/v1/chat"])
async def test_a_document_leaves_one_row_with_the_nodes_counts(gateway: RunningGateway, path: str) -> None:
    body = UNARY
    got = await ask(gateway, path, body, admin=True)
    assert (got.status, got.framing) == (200, "length")
    row = await gateway.row()
    found = got.json()
    usage = found.get("usage") or {
        "prompt_tokens": found["prompt_eval_count"],
        "completion_tokens": found["eval_count"],
    }
    same(row, status=200, outcome="ok", streamed=False, username="root", operation="chat", estimated=False)
    same(row, prompt_tokens=usage["prompt_tokens"], output_tokens=usage["completion_tokens"])
    same(row, request_bytes=sizes(body), response_bytes=len(got.body), client_request_id=None)


@pytest.mark.parametrize("path", ["/api/embed", "/ollama/v1/embeddings"])
async def test_an_embedding_costs_its_prompt_alone(gateway: RunningGateway, path: str) -> None:
    got = await ask(gateway, path, EMBED)
    assert got.status == 200
    row = await gateway.row()
    same(row, operation="embed", outcome="ok", prompt_tokens=6, output_tokens=None, estimated=False, streamed=False)
    same(row, model_asked="nomic-embed-text", model="nomic-embed-text", response_bytes=len(got.body))


ASIDES: list[tuple[str, str, Any, Body]] = [
    ("GET", "/api/tags", None, {"operation": "list", "status": 200, "outcome": "ok", "node": "node-1"}),
    ("HEAD", "/api/tags", None, {"operation": "list", "status": 200, "outcome": "ok", "response_bytes": 0}),
    ("GET", "/ollama/v1/models", None, {"operation": "list", "status": 200, "outcome": "ok"}),
    ("POST", "/api/show", {"model": MODEL}, {"operation": "show", "outcome": "ok", "model": MODEL}),
    ("POST", "/api/show", {"model": "nope"}, {"operation": "show", "status": 404, "outcome": "refused"}),
    ("GET", "/api/nothing", None, {"operation": "unknown", "status": 404, "error": "not_found", "node": None}),
    ("GET", "/ollama/v1/nothing", None, {"operation": "unknown", "status": 404, "error": "not_found", "node": None}),
    ("GET", "/api/chat", None, {"operation": "unknown", "status": 405, "error": "method_not_allowed", "node": None}),
    ("POST", "/api/chat/", {}, {"operation": "chat", "status": 307, "outcome": "ok", "node": None}),
    ("POST", "/api/chat", b"{", {"operation": "chat", "status": 400, "error": "bad_request", "node": None}),
    (
        "POST",
        "/api/pull",
        {"model": "x"},
        {"operation": "manage", "status": 403, "error": "not_allowed", "model": None},
    ),
    ("POST", "/api/chat", {"model": "x:cloud"}, {"status": 403, "model_asked": "x:cloud", "model": None, "node": None}),
    ("POST", "/api/chat", {"model": "no"}, {"status": 404, "outcome": "refused", "error": "node_error", "model": "no"}),
]


@pytest.mark.parametrize(("method", "path", "body", "expected"), ASIDES)
async def test_whatever_costs_no_tokens_leaves_one_row_without_any(
    gateway: RunningGateway, method: str, path: str, body: Any, expected: Body
) -> None:
    got = await ask(gateway, path, body, method=method)
    row = await gateway.row()
    same(row, prompt_tokens=None, output_tokens=None, estimated=False, streamed=False, username="alice")
    same(row, **{"status": got.status, "response_bytes": len(got.body)} | expected)
    assert (row["ttft_ms"] is None) == (row["node"] is None or not row["response_bytes"])


@pytest.mark.parametrize(("prompt", "output", "full"), [(200, 55, False), (200, 56, True), (250, 10, True)])
async def test_a_full_context_is_noted(
    gateway: RunningGateway, node: FakeOllama, prompt: int, output: int, full: bool
) -> None:
    last = {"model": MODEL, "done": True, "prompt_eval_count": prompt, "eval_count": output}
    for body in (CHAT, UNARY):
        node.cue(Answer(lines=[json.dumps(last, separators=(",", ":")).encode() + b"\n"]))
        assert (await ask(gateway, "/api/chat", {**body, "options": {"num_ctx": 256}})).status == 200
    assert [row["context_full"] for row in await gateway.rows(2)] == [full, full]


@ALONE
async def test_300_exchanges_at_once_leave_300_rows(gateway: RunningGateway, node: FakeOllama) -> None:
    kinds: list[tuple[str, str, Any]] = [
        ("POST", "/api/chat", CHAT),
        ("POST", "/ollama/v1/chat", {**CHAT, "stream": True}),
        ("POST", "/api/generate", {"model": MODEL, "prompt": "hello", "stream": False}),
        ("POST", "/api/embed", EMBED),
        ("GET", "/api/tags", None),
        ("POST", "/api/show", {"model": MODEL}),
        ("POST", "/api/chat", b"no json"),
        ("POST", "/api/chat", {"model": "x:cloud"}),
        ("GET", "/api/nothing", None),
        ("POST", "/api/chat", {"model": "missing", "messages": []}),
    ]
    answers = await asyncio.gather(*(ask(gateway, path, body, method=m) for m, path, body in kinds * 30))
    rows = await gateway.rows(300)
    assert len(rows) == 300
    assert Counter(row["status"] for row in rows) == Counter(got.status for got in answers)
    by_id = {str(row["id"]): row for row in rows}
    for got in answers:
        row = by_id[{name.lower(): value for name, value in got.headers}["x-request-id"]]
        assert (row["status"], row["response_bytes"]) == (got.status, len(got.body))
    await at_rest(gateway)
    assert await metric(gateway, "parallama_requests_total") == 300


@ALONE
async def test_cancelled_and_failed_exchanges_are_counted_once_each_among_others(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    node.cue(Answer(fault=Fault.RESET, after_body=500), "/api/generate", times=10)
    node.cue(Answer(fault=Fault.HANG, after_body=500), "/api/chat", times=10)

    async def leave() -> None:
        async with raw_client(gateway.port) as client:
            await client.send(request_bytes("POST", "/api/chat", CHAT, bearer(gateway.key)))
            await client.reader.readuntil(b"\r\n\r\n")

    generate = {"model": MODEL, "prompt": "hello"}
    await asyncio.gather(*(leave() for _ in range(10)), *(ask(gateway, "/api/generate", generate) for _ in range(10)))
    await asyncio.gather(*(ask(gateway, "/api/chat", CHAT) for _ in range(10)))
    rows = await gateway.rows(30)
    assert Counter(row["outcome"] for row in rows) == {"cancelled": 10, "failed": 10, "ok": 10}
    assert await metric(gateway, "parallama_node_errors_total") == 10
    await at_rest(gateway)


@ALONE
async def test_without_a_place_for_its_row_an_exchange_is_refused_and_none_is_lost(
    database_url: str, node: FakeOllama
) -> None:
    settings = {"usage": {"journal_mb": 1, "flush_ms": 10}}
    async with Wire(database_url).running() as wire, running_gateway(wire.url, node.url, settings) as gateway:
        assert (await ask(gateway, "/api/chat", UNARY)).status == 200
        await gateway.rows(1)
        assert await metric(gateway, "parallama_journal_bytes") > 0  # the admin's key is known too from here on
        wire.cut()
        served = await asyncio.gather(*(served_until_full(gateway) for _ in range(8)))
        assert sum(served) > 100, "the key is cached: only the rows must wait"
        for path in ("/api/chat", "/ollama/v1/chat", "/api/tags"):
            got = await ask(gateway, path, None if path.endswith("tags") else UNARY)
            assert got.status == 503
            assert got.json()["error"]
            assert "Retry-After: " in got.head
        assert len(node.seen("/api/chat")) == 1 + sum(served)
        ready = await ask(gateway, "/readyz")
        assert (ready.status, "journal" in ready.json()["reasons"]) == (503, True)
        assert await metric(gateway, "parallama_journal_bytes") >= 1 << 20
        wire.down = False
        rows = await gateway.rows(1 + sum(served) + 8 + 3)
        assert Counter(row["status"] for row in rows) == {200: 1 + sum(served), 503: 8 + 3}
        assert (await ask(gateway, "/api/chat", UNARY)).status == 200
        assert await metric(gateway, "parallama_usage_records_lost") == 0


async def served_until_full(gateway: RunningGateway) -> int:
    """How often a client is served before it is refused because usage cannot be recorded."""
    async with raw_client(gateway.port) as client:
        for served in itertools.count():
            got = await client.ask("POST", "/api/chat", UNARY, bearer(gateway.key))
            if got.status != 200:
                assert (got.status, "journal" in got.json()["error"]) == (503, True)
                return served
    raise AssertionError


async def test_connections_to_the_node_are_used_again(gateway: RunningGateway, node: FakeOllama) -> None:
    connected = accepted(node)
    async with raw_client(gateway.port) as client:
        for path, body in [*STREAMS, ("/api/chat", UNARY), ("/api/embed", EMBED)] * 40:
            got = await client.ask("POST", path, body, bearer(gateway.key))
            assert got.status == 200
    assert len(node.requests) >= 200
    assert len(connected) <= 5


async def test_an_error_of_the_node_does_not_cost_its_connection(gateway: RunningGateway, node: FakeOllama) -> None:
    connected = accepted(node)
    for path in ["/api/chat", "/ollama/v1/chat"] * 20:
        assert (await ask(gateway, path, {**CHAT, "model": "missing"})).status == 404
    assert len(connected) <= 5
