"""Who may ask for what: keys, permissions, and names that would leave the node, whatever their spelling."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from asking import CHAT, MODEL, UNARY, ask, bearer
from kept_gateway import ALONE, in_one_loop
from kept_gateway import alone as alone
from kept_gateway import gateway as gateway
from kept_gateway import gateway_settings as gateway_settings
from kept_gateway import kept_gateways as kept_gateways
from kept_gateway import node as node
from kept_gateway import served as served
from raw_http import raw_client
from running import RunningGateway, eventually, running_gateway
from wire import Wire

from parallama.app import POOL
from parallama.identity import keys
from parallama.testing import Answer, FakeOllama, Fault, SeenRequest

pytestmark = in_one_loop

CLOUD = "gpt-oss:120b-cloud"
ALLOWED = pytest.mark.parametrize("gateway_settings", [{"models": {"allow_cloud": True}}])

SPELLINGS = [
    '{"model":"%s","messages":[]}',
    '{"Model":"%s","messages":[]}',
    '{"MODEL":"%s","messages":[]}',
    '{"mode\\u006c":"%s","messages":[]}',
    '{"\\u004dODEL":"%s"}',
    '{"model":"llama3.2:1b","model":"%s"}',
    '{"model":"llama3.2:1b","MODEL":"%s","messages":[]}',
    '{"MODEL":"llama3.2:1b","model":"%s"}',
    '{"model":"%s","model":null}',
    ' \n{"messages":[{"model":"llama3.2:1b"}],"model":"%s"} {"model":"llama3.2:1b"}',
]
NAMES = [
    "x:cloud",
    "x:CLOUD",
    CLOUD,
    "gpt-oss:120b-Cloud",
    "registry.ollama.ai/library/x:cloud",
    " x:cloud ",
    "x\\u003acloud",
    "x:clou\\u0064",
    "a/b-cloud",
]


def generations(node: FakeOllama) -> list[SeenRequest]:
    """Whatever came to the node but its health checks."""
    checks = ("/api/version", "/api/tags", "/api/ps")
    return [seen for seen in node.requests if seen.path not in checks]


@pytest.mark.parametrize("path", ["/api/chat", "/ollama/api/generate", "/api/embed", "/api/show"])
async def test_a_cloud_model_is_refused_in_every_spelling_of_the_key(
    gateway: RunningGateway, node: FakeOllama, path: str
) -> None:
    for spelling in SPELLINGS:
        got = await ask(gateway, path, (spelling % CLOUD).encode())
        assert got.status == 403, spelling
        assert "models.allow_cloud" in got.json()["error"]
    assert generations(node) == []
    rows = await gateway.rows(len(SPELLINGS))
    assert {(row["status"], row["outcome"], row["error"]) for row in rows} == {(403, "refused", "not_allowed")}
    assert {(row["model_asked"], row["model"], row["node"]) for row in rows} == {(CLOUD, None, None)}


@pytest.mark.parametrize("path", ["/api/chat", "/ollama/v1/chat"])
@pytest.mark.parametrize("name", NAMES)
async def test_a_cloud_model_is_refused_in_every_spelling_of_its_name(
    gateway: RunningGateway, node: FakeOllama, path: str, name: str
) -> None:
    body = f'{{"model":"{name}","messages":[{{"role":"user","content":"hello"}}]}}'
    got = await ask(gateway, path, body.encode())
    assert got.status == 403
    assert list(got.json()) == ["error"]
    assert generations(node) == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/pull", {"name": CLOUD}),
        ("/api/push", {"model": CLOUD}),
        ("/api/create", {"model": "mine", "from": CLOUD}),
        ("/api/create", {"model": CLOUD, "from": MODEL}),
        ("/api/create", {"model": "mine", "from": MODEL, "remote_host": "https://elsewhere.example"}),
        ("/api/copy", {"source": CLOUD, "destination": "mine"}),
        ("/api/copy", {"\u017fource": CLOUD, "destination": "mine"}),
        ("/api/copy", {"source": MODEL, "destination": "mine:cloud"}),
        ("/api/show", {"name": CLOUD}),
        ("/api/experimental/web_search", {"query": "weather"}),
        ("/api/experimental/web_fetch", {"url": "https://elsewhere.example"}),
    ],
)
async def test_not_even_an_admin_makes_a_node_call_the_cloud(
    gateway: RunningGateway, node: FakeOllama, path: str, body: Any
) -> None:
    assert (await ask(gateway, path, body, admin=True)).status == 403
    assert generations(node) == []


@ALLOWED
@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_a_cloud_model_reaches_the_node_where_the_settings_allow_it(
    gateway: RunningGateway, node: FakeOllama, spelling: str
) -> None:
    await ask(gateway, "/api/chat", (spelling % CLOUD).encode())
    seen = await node.request_for("/api/chat")
    assert json.loads(seen.body)["model"] == CLOUD


async def test_the_node_reads_the_model_that_was_judged(gateway: RunningGateway, node: FakeOllama) -> None:
    got = await ask(gateway, "/api/chat", f'{{"model":"{CLOUD}","Model":"{MODEL}"}}'.encode())
    assert got.status == 200
    assert json.loads((await node.request_for("/api/chat")).body) == {"model": MODEL}


@pytest_asyncio.fixture(loop_scope="module")
async def with_stub(database_url: str, node: FakeOllama) -> AsyncIterator[RunningGateway]:
    """A node whose model `harmless` is a stub of a cloud model; it does not tell its models to the first probe."""
    models = [{"name": "harmless:latest", "digest": "0" * 64, "remote_host": "https://ollama.com:443"}]
    node.cue(Answer(status=500, error="not yet"), "/api/tags")
    node.cue(Answer(lines=[json.dumps({"models": models}).encode()]), "/api/tags", times=None)
    async with running_gateway(database_url, node.url) as gateway:
        yield gateway


@pytest.mark.parametrize("name", ["harmless", "Harmless:latest", "library/harmless"])
async def test_a_local_name_for_a_cloud_model_is_refused_from_the_first_request_on(
    with_stub: RunningGateway, node: FakeOllama, name: str
) -> None:
    assert (await ask(with_stub, "/api/chat", {**CHAT, "model": name})).status == 403
    assert generations(node) == []


MANAGEMENT = [
    ("POST", "/api/pull", {"model": "phi"}),
    ("POST", "/ollama/api/push", {"model": MODEL}),
    ("POST", "/api/create", {"model": "mine", "from": MODEL}),
    ("POST", "/api/copy", {"source": MODEL, "destination": "mine"}),
    ("DELETE", "/ollama/api/delete", {"model": MODEL}),
]


@pytest.mark.parametrize(("method", "path", "body"), MANAGEMENT)
async def test_managing_models_needs_an_admin(
    gateway: RunningGateway, node: FakeOllama, method: str, path: str, body: Any
) -> None:
    got = await ask(gateway, path, body, method=method)
    assert got.status == 403
    assert "manage_models" in got.json()["error"]
    assert generations(node) == []
    got = await ask(gateway, path, body, method=method, admin=True)
    assert got.status == 200
    assert [seen.method for seen in generations(node)] == [method]
    rows = await gateway.rows(2)
    assert [(row["operation"], row["outcome"], row["username"]) for row in rows] == [
        ("manage", "refused", "alice"),
        ("manage", "ok", "root"),
    ]


@ALONE
async def test_models_that_an_admin_adds_are_known_soon(gateway: RunningGateway) -> None:
    assert not gateway.app[POOL].catalog.exists("mine")
    await ask(gateway, "/api/copy", {"source": MODEL, "destination": "mine"}, admin=True)
    await eventually(lambda: gateway.app[POOL].catalog.exists("mine"))


@pytest.mark.parametrize("path", ["/api/chat", "/ollama/api/chat", "/ollama/v1/chat"])
async def test_a_wrong_key_is_a_401_in_the_dialect_and_leaves_no_row(
    gateway: RunningGateway, node: FakeOllama, path: str
) -> None:
    for header in (bearer(keys.new_key()), "Authorization: Bearer x", "Authorization: Basic eDp5", "X-Nothing: x"):
        async with raw_client(gateway.port) as client:
            got = await client.ask("POST", path, UNARY, header)
        assert (got.status, list(got.json())) == (401, ["error"])
    assert generations(node) == []
    assert await gateway.rows(0) == []


async def test_a_mistyped_key_is_refused_without_the_database(database_url: str, node: FakeOllama) -> None:
    async with Wire(database_url).running() as wire, running_gateway(wire.url, node.url) as gateway:
        wire.cut()
        mistyped = gateway.key[:-1] + ("a" if gateway.key[-1] != "a" else "b")
        async with raw_client(gateway.port) as client:
            got = await client.ask("POST", "/api/chat", UNARY, bearer(mistyped))
            assert got.status == 401
        async with raw_client(gateway.port) as client:
            got = await client.ask("POST", "/api/chat", UNARY, bearer(keys.new_key()))
            assert got.status == 503, "the database is needed to know a new key, and away"
            assert "retry-after" in got.head.lower()
        wire.down = False


LINE = b'{"model":"m","message":{"role":"assistant","content":"four"},"done":false}\n'
LAST = b'{"model":"m","message":{"role":"assistant","content":""},"done":true,"prompt_eval_count":7,"eval_count":2}\n'


@pytest.mark.parametrize("fault", [Fault.CLOSE, Fault.NO_DONE])
async def test_an_answer_that_lacks_only_its_last_newline_is_whole(
    gateway: RunningGateway, node: FakeOllama, fault: Fault
) -> None:
    if fault is Fault.NO_DONE:  # the body ends cleanly there
        node.cue(Answer(lines=[LINE, LAST[:-1]]))
    else:
        node.cue(Answer(lines=[LINE, LAST], fault=fault, after_body=len(LINE + LAST) - 1))
    got = await ask(gateway, "/api/chat", CHAT)
    assert (got.status, got.body) == (200, (LINE + LAST)[:-1])
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["prompt_tokens"], row["output_tokens"]) == (200, "ok", 7, 2)
