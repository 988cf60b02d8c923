"""Which headers pass in each direction, over real sockets, and the ids that every answer carries."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

import pytest
from asking import CHAT, UNARY, ask, asked, bearer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kept_gateway import alone as alone
from kept_gateway import gateway as gateway
from kept_gateway import gateway_settings as gateway_settings
from kept_gateway import in_one_loop
from kept_gateway import kept_gateways as kept_gateways
from kept_gateway import node as node
from kept_gateway import served as served
from raw_http import Got, raw_client
from running import RunningGateway

from parallama.testing import Answer, FakeOllama, SeenRequest
from parallama.version import __version__

pytestmark = in_one_loop

FROM_US = {"host", "user-agent", "content-length", "content-type"}
"""What the node may get when the client sends nothing of the allow-list but Content-Type."""

UNWELCOME = [
    "Origin: https://evil.example",
    "Referer: https://evil.example/page",
    "Cookie: session=1",
    "Accept-Encoding: gzip, br",
    "Keep-Alive: timeout=5",
    "Proxy-Authorization: Basic eDp5",
    "Proxy-Connection: keep-alive",
    "TE: trailers",
    "Upgrade: websocket",
    "Forwarded: for=10.0.0.1",
    "X-Forwarded-For: 10.0.0.1",
    "X-Forwarded-Host: evil.example",
    "X-Request-ID: mine",
    "X-Anything: at all",
    "User-Agent: curl/8",
    "Transfer-Encoding-Of-Mine: chunked",
    "Expect-CT: x",
]


def names(seen: SeenRequest) -> set[str]:
    return {name.lower() for name, _ in seen.headers}


def values(got: Got, name: str) -> list[str]:
    return [value for key, value in got.headers if key.lower() == name]


@pytest.mark.parametrize("path", ["/api/chat", "/ollama/v1/chat"])
async def test_what_is_between_the_client_and_us_never_reaches_the_node(
    gateway: RunningGateway, node: FakeOllama, path: str
) -> None:
    sent = ["Content-Type: application/json", f"X-Api-Key: {gateway.key}", *UNWELCOME]
    assert (await ask(gateway, path, UNARY, *sent)).status == 200
    seen = await node.request_for("/api/chat")
    assert names(seen) == FROM_US
    assert seen.header("host") == f"127.0.0.1:{node.port}"
    assert seen.header("user-agent") == f"parallama/{__version__}"
    assert gateway.key not in str(seen.headers)


@pytest.mark.parametrize("path", ["/api/tags", "/ollama/v1/models"])
async def test_a_key_in_any_header_stays_here(gateway: RunningGateway, node: FakeOllama, path: str) -> None:
    before = len(node.requests)
    for header in (bearer(gateway.key), f"X-Api-Key: {gateway.key}"):
        async with raw_client(gateway.port) as client:
            assert (await client.ask("GET", path, None, header)).status == 200
    assert len(node.requests) >= before + 2
    for seen in node.requests:
        assert gateway.key not in str(seen.headers)
        assert "authorization" not in names(seen)
        assert "x-api-key" not in names(seen)


async def test_traces_and_accept_reach_the_node(gateway: RunningGateway, node: FakeOllama) -> None:
    sent = ["Accept: application/x-ndjson", "traceparent: 00-1-2-01", "Tracestate: a=b", "Content-Type: text/plain"]
    assert (await ask(gateway, "/api/chat", CHAT, *sent)).status == 200
    seen = await node.request_for("/api/chat")
    for line in sent:
        name, _, value = line.partition(": ")
        assert seen.header(name.lower()) == value


TOKEN = st.text(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_0123456789!#$%&'*+.^`|~", min_size=1, max_size=20
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(named=st.lists(st.one_of(TOKEN, st.sampled_from(["Accept", "TRACEPARENT", "tracestate"])), max_size=5))
async def test_a_header_that_connection_names_never_reaches_the_node(
    gateway: RunningGateway, node: FakeOllama, named: list[str]
) -> None:
    reserved = {"connection", "host", "content-length", "transfer-encoding", "authorization", "x-api-key", "expect"}
    named = [name for name in named if name.lower() not in reserved | {"close", "keep-alive", "upgrade"}]
    lines = [f"{name}: secret" for name in named]
    got = await ask(gateway, "/api/chat", UNARY, f"Connection: {', '.join(named) or 'x'}", *lines)
    assert got.status == 200
    seen = node.seen("/api/chat")[-1]
    # the client's are gone; what we need ourselves is ours
    assert "secret" not in str(seen.headers)
    assert names(seen) <= FROM_US


@pytest.mark.parametrize(("path", "native"), [("/api/chat", True), ("/ollama/v1/chat", False)])
async def test_the_nodes_headers_reach_the_client_but_for_those_of_its_connection(
    gateway: RunningGateway, node: FakeOllama, path: str, native: bool
) -> None:
    body = b'{"model":"m","message":{"role":"assistant","content":"four"},"done":true}'
    head = [
        "HTTP/1.1 200 OK",
        "Content-Type: application/odd; charset=utf-8",
        "Date: Thu, 01 Jan 1970 00:00:00 GMT",
        "Server: node/1",
        "X-Of-The-Node: kept",
        "X-Hop: gone",
        "Connection: x-hop",
        "Keep-Alive: timeout=9",
        "Access-Control-Allow-Origin: *",
        f"Content-Length: {len(body)}",
    ]
    node.cue(Answer(raw=["\r\n".join([*head, "", ""]).encode(), body]))
    got = await ask(gateway, path, UNARY)
    assert got.status == 200
    given = {name.lower() for name, _ in got.headers}
    assert not given & {"server", "x-hop", "keep-alive", "access-control-allow-origin"}
    assert ("x-of-the-node" in given) == native
    if native:
        assert values(got, "content-type") == ["application/odd; charset=utf-8"]
        assert values(got, "date") == ["Thu, 01 Jan 1970 00:00:00 GMT"]
        assert values(got, "content-length") == [str(len(body))]
    else:
        assert values(got, "content-type") == ["application/json; charset=utf-8"]


async def test_answers_tell_the_node_and_the_model(gateway: RunningGateway) -> None:
    for path in ("/api/chat", "/ollama/v1/chat"):
        for body in (UNARY, {**CHAT, "stream": True}):
            got = await ask(gateway, path, body)
            assert values(got, "x-parallama-node") == ["node-1"]
            assert values(got, "x-parallama-model") == [body["model"]]
    got = await ask(gateway, "/api/tags")
    assert values(got, "x-parallama-node") == ["node-1"]
    assert values(got, "x-parallama-model") == []


EVERY: list[tuple[int, str, str, Any, bool]] = [
    (200, "POST", "/api/chat", CHAT, True),
    (200, "POST", "/ollama/v1/chat", UNARY | {"stream": False}, True),
    (200, "GET", "/api/tags", None, True),
    (200, "HEAD", "/api/tags", None, True),
    (200, "GET", "/ollama", None, False),
    (200, "GET", "/healthz", None, False),
    (401, "GET", "/metrics", None, False),
    (401, "POST", "/api/chat", CHAT, False),
    (401, "POST", "/ollama/v1/chat", CHAT, False),
    (400, "POST", "/api/chat", b"{", True),
    (403, "POST", "/api/chat", {"model": "x:cloud"}, True),
    (404, "POST", "/api/chat", {"model": "missing"}, True),
    (404, "GET", "/api/nothing", None, True),
    (404, "GET", "/ollama/v1/nothing", None, True),
    (404, "GET", "/nothing/at/all", None, False),
    (405, "GET", "/api/chat", None, True),
    (405, "POST", "/healthz", {}, False),
    (301, "GET", "/api/tags/", None, True),
    (307, "POST", "/api/chat/", CHAT, True),
    (413, "POST", "/api/chat", bytes(2 << 20), True),
    (413, "POST", "/ollama/v1/chat", bytes(2 << 20), True),
]


@pytest.mark.parametrize("gateway_settings", [{"server": {"max_body_mb": 1}}])
async def test_every_answer_carries_its_id_and_the_clients_and_no_servers_name(gateway: RunningGateway) -> None:
    ids = set()
    for status, method, path, body, known in EVERY:
        key = [bearer(gateway.key)] if known else []
        async with raw_client(gateway.port) as client:
            got = await client.ask(method, path, body, *key, "X-Request-ID: of the client's: 7")
        assert got.status == status, path
        (ours,) = values(got, "x-request-id")
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", ours)
        assert values(got, "x-client-request-id") == ["of the client's: 7"]
        assert values(got, "server") == []
        ids.add(UUID(ours))
    assert len(ids) == len(EVERY)
    rows = await gateway.rows(sum(known for *_, known in EVERY))
    assert {row["id"] for row in rows} < ids
    assert {row["client_request_id"] for row in rows} == {"of the client's: 7"}


@pytest.mark.parametrize("theirs", ["", "x" * 129, "caf\u00e9", "tab\there"])
async def test_an_unusable_id_of_the_client_is_ignored(gateway: RunningGateway, theirs: str) -> None:
    async with asked(gateway, "/api/tags", None, f"X-Request-ID: {theirs}", method="GET") as client:
        got = await client.answer()
    assert got.status == 200
    assert values(got, "x-client-request-id") == []
    assert (await gateway.row())["client_request_id"] is None
