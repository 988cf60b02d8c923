"""What is where, byte for byte: methods, paths, framing and connections as Ollama's own clients expect them."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest
from asking import CHAT, MODEL, UNARY, ask, bearer
from kept_gateway import ALONE, in_one_loop
from kept_gateway import alone as alone
from kept_gateway import gateway as gateway
from kept_gateway import gateway_settings as gateway_settings
from kept_gateway import kept_gateways as kept_gateways
from kept_gateway import node as node
from kept_gateway import served as served
from raw_http import RawClient, raw_client, request_bytes
from running import RunningGateway

from parallama.testing import Answer, FakeOllama

pytestmark = in_one_loop

MOUNTS = pytest.mark.parametrize("mount", ["/api", "/ollama/api"])
BLOB = "/blobs/sha256:" + "0" * 64


def old(method: str, path: str, body: Any, *headers: str) -> bytes:
    """The same request in HTTP/1.0."""
    return request_bytes(method, path, body, *headers).replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)


@MOUNTS
@pytest.mark.parametrize(("path", "status"), [("/tags", 200), ("/version", 200), (BLOB, 404)])
async def test_a_head_request_gets_a_head_alone(
    gateway: RunningGateway, node: FakeOllama, mount: str, path: str, status: int
) -> None:
    async with raw_client(gateway.port) as client:
        for _ in range(2):
            got = await client.ask("HEAD", mount + path, None, bearer(gateway.admin_key))
            assert got.status == status
            assert "transfer-encoding" not in got.head.lower()
        assert (await client.ask("GET", "/api/version", None, bearer(gateway.key))).json() == {"version": "0.0.0"}
    assert [seen.method for seen in node.seen("/api" + path)].count("HEAD") == 2


@ALONE
@MOUNTS
async def test_a_delete_with_a_body_deletes_the_model(gateway: RunningGateway, node: FakeOllama, mount: str) -> None:
    got = await ask(gateway, mount + "/delete", {"model": MODEL}, method="DELETE", admin=True)
    assert (got.status, got.body) == (200, b"")
    seen = await node.request_for("/api/delete")
    assert (seen.method, json.loads(seen.body)) == ("DELETE", {"model": MODEL})
    assert node.models.find(MODEL) is None


@pytest.mark.parametrize(("path", "body"), [("/api/chat", CHAT), ("/ollama/v1/chat", {**CHAT, "stream": True})])
async def test_a_stream_to_an_http_1_0_client_ends_with_the_connection(
    gateway: RunningGateway, path: str, body: Any
) -> None:
    async with raw_client(gateway.port) as client:
        await client.send(old("POST", path, body, bearer(gateway.key)))
        got = await client.answer()
    assert got.framing == "close"
    assert got.lines()[-1]["done"] is True
    assert (await gateway.row())["response_bytes"] == len(got.body)


async def test_a_document_to_an_http_1_0_client_has_a_length(gateway: RunningGateway) -> None:
    async with raw_client(gateway.port) as client:
        await client.send(old("POST", "/api/chat", UNARY, bearer(gateway.key)))
        got = await client.answer()
        assert got.framing == "length"
        assert got.json()["done"] is True
        assert await client.reader.read() == b""


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/chat", {"model": "missing"}, 404),
        ("/api/chat", b"no json", 400),
        ("/api/chat", {"model": "x:cloud"}, 403),
        ("/ollama/v1/chat", {"model": 7}, 400),
        ("/api/nothing", {}, 404),
        ("/api/tags", {}, 405),
    ],
)
async def test_a_connection_is_used_again_after_an_error(
    gateway: RunningGateway, path: str, body: Any, status: int
) -> None:
    async with raw_client(gateway.port) as client:
        got = await client.ask("POST", path, body, bearer(gateway.key))
        assert got.status == status
        if "Connection: close" not in got.head:
            got = await client.ask("POST", "/api/chat", UNARY, bearer(gateway.key))
            assert got.json()["done"] is True
        else:
            assert await client.reader.read() == b""
            assert status in (404, 405), "only what is refused unread may cost the connection"


async def test_two_requests_sent_at_once_are_answered_in_order(gateway: RunningGateway) -> None:
    async with raw_client(gateway.port) as client:
        first = request_bytes("POST", "/api/chat", CHAT, bearer(gateway.key))
        await client.send(first + request_bytes("GET", "/api/version", None, bearer(gateway.key)))
        assert (await client.answer()).lines()[-1]["done"] is True
        assert (await client.answer()).json() == {"version": "0.0.0"}
    assert [row["operation"] for row in await gateway.rows(2)] == ["chat", "list"]


async def test_the_second_of_two_requests_goes_with_its_client(gateway: RunningGateway, node: FakeOllama) -> None:
    node.cue(Answer(hold_head=asyncio.Event()))
    async with raw_client(gateway.port) as client:
        await client.send(request_bytes("POST", "/api/chat", CHAT, bearer(gateway.key)) * 2)
        seen = await node.request_for("/api/chat")
    await asyncio.wait_for(seen.client_left.wait(), 30)
    assert (await gateway.row())["outcome"] == "cancelled"
    assert len(node.seen("/api/chat")) == 1


async def test_a_compressed_question_gets_ollamas_answer(gateway: RunningGateway, node: FakeOllama) -> None:
    body = gzip.compress(json.dumps(CHAT).encode())
    got = await ask(gateway, "/api/chat", body, "Content-Encoding: gzip")
    assert got.status == 400
    assert got.json()["error"].startswith("invalid character '\\x1f' looking for beginning of value")
    assert node.seen("/api/chat") == []


@pytest.mark.parametrize("path", ["/api/chat", "/ollama/v1/chat"])
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "nonsense", ""])
async def test_the_content_type_of_a_question_is_not_looked_at(gateway: RunningGateway, path: str, kind: str) -> None:
    assert (await ask(gateway, path, UNARY, f"Content-Type: {kind}")).status == 200


@MOUNTS
@pytest.mark.parametrize("path", ["/chat", "/generate", "/embed", "/show"])
async def test_no_body_is_a_missing_one(gateway: RunningGateway, mount: str, path: str) -> None:
    for body in (None, b""):
        got = await ask(gateway, mount + path, body, method="POST")
        assert (got.status, got.json()) == (400, {"error": "missing request body"})


@MOUNTS
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["/nothing", "", "/chat/more", "/blobs"])
async def test_a_path_that_is_not_there_is_gins_404_for_those_with_a_key(
    gateway: RunningGateway, mount: str, method: str, path: str
) -> None:
    got = await ask(gateway, mount + path, method=method)
    assert (got.status, got.body) == (404, b"404 page not found")
    assert "Content-Type: text/plain\r\n" in got.head
    async with raw_client(gateway.port) as client:
        got = await client.ask(method, mount + path)
    assert (got.status, list(got.json())) == (401, ["error"])


async def test_a_path_that_is_not_there_is_json_in_the_simple_dialect(gateway: RunningGateway) -> None:
    got = await ask(gateway, "/ollama/v1/nothing")
    assert (got.status, list(got.json())) == (404, ["error"])
    got = await ask(gateway, "/ollama/v1/chat")
    assert (got.status, list(got.json())) == (405, ["error"])
    assert "Allow: POST\r\n" in got.head


@MOUNTS
@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/chat", "POST"),
        ("POST", "/delete", "DELETE"),
        ("PUT", BLOB, "HEAD, POST"),
        ("POST", "/tags", "GET, HEAD"),
    ],
)
async def test_a_method_that_is_not_there_names_those_that_are(
    gateway: RunningGateway, mount: str, method: str, path: str, allow: str
) -> None:
    got = await ask(gateway, mount + path, method=method)
    assert (got.status, got.body) == (405, b"405 method not allowed")
    assert f"Allow: {allow}\r\n" in got.head


@MOUNTS
async def test_a_slash_too_many_is_sent_to_where_the_client_found_us(
    gateway: RunningGateway, node: FakeOllama, mount: str
) -> None:
    got = await ask(gateway, mount + "/tags/?a=b%20c&a=d")
    assert got.status == 301
    assert f"Location: {mount}/tags?a=b+c&a=d\r\n" in got.head
    assert got.body.decode().startswith(f'<a href="{mount}/tags?a=b+c&amp;a=d">Moved Permanently</a>')
    got = await ask(gateway, mount + "/chat/", CHAT)
    assert (got.status, got.body) == (307, b"")
    assert f"Location: {mount}/chat\r\n" in got.head
    assert all(seen.path in ("/api/version", "/api/tags", "/api/ps") for seen in node.requests)
    assert [seen for seen in node.requests if seen.target != seen.path] == []


@pytest.mark.parametrize("path", ["/ollama", "/ollama/"])
async def test_liveness_needs_no_key(gateway: RunningGateway, path: str) -> None:
    async with raw_client(gateway.port) as client:
        got = await client.ask("GET", path)
        assert (got.status, got.body) == (200, b"Ollama is running")
        got = await client.ask("HEAD", path)
        assert got.status == 200
        assert "Content-Length: 17" in got.head
        assert (await client.ask("GET", path)).body == b"Ollama is running"
    assert await gateway.rows(0) == []


@MOUNTS
async def test_odd_bytes_in_a_path_reach_the_node_encoded(
    gateway: RunningGateway, node: FakeOllama, mount: str
) -> None:
    for digest in (f"sha256%3A{'0' * 64}", "x%3Fy%0d%0az%20%25", "%C3%A4"):
        assert (await ask(gateway, f"{mount}/blobs/{digest}", method="HEAD", admin=True)).status in (400, 404)
    targets = [seen.target for seen in node.requests if seen.method == "HEAD"]
    assert targets == [f"/api/blobs/sha256:{'0' * 64}", "/api/blobs/x%3Fy%0D%0Az%20%25", "/api/blobs/%C3%A4"]


@MOUNTS
async def test_an_encoded_slash_does_not_lead_to_another_path_of_the_node(
    gateway: RunningGateway, node: FakeOllama, mount: str
) -> None:
    for method in ("HEAD", "POST"):
        got = await ask(gateway, f"{mount}/blobs/..%2F..%2Fapi%2Fchat", method=method, admin=True)
        assert got.status == 404
    assert [seen.target for seen in node.requests if ".." in seen.target] == []


async def test_a_client_is_never_kept_waiting_by_another(gateway: RunningGateway, node: FakeOllama) -> None:
    node.cue(Answer(hold_head=(gate := asyncio.Event())))

    async def slow(client: RawClient) -> bool:
        return bool((await client.ask("POST", "/api/chat", CHAT, bearer(gateway.key))).lines()[-1]["done"])

    async with raw_client(gateway.port) as client, asyncio.TaskGroup() as group:
        task = group.create_task(slow(client))
        await node.request_for("/api/chat")
        assert (await ask(gateway, "/api/chat", UNARY)).status == 200
        assert not task.done()
        gate.set()
    assert task.result()


ALIAS = "team/gr\u00f6\u00dfe <1>"
ALIASED = pytest.mark.parametrize(
    "gateway_settings",
    [{"gateways": {"ollama": {"model_mappings": {ALIAS: MODEL, "gone": "missing"}, "default_model": ALIAS}}}],
)


@ALIASED
@pytest.mark.parametrize("named", [{"model": ALIAS}, {}], ids=["named", "by default"])
@pytest.mark.parametrize(
    ("path", "question"),
    [
        ("/generate", {"prompt": "Why?"}),
        ("/generate", {"prompt": "Why?", "stream": False}),
        ("/chat", {"messages": []}),
        ("/chat", {"messages": [{"role": "user", "content": "Why?"}]}),
        ("/chat", {"messages": [{"role": "user", "content": "Why?"}], "stream": False}),
    ],
)
async def test_a_client_meets_its_own_name_of_the_model(
    gateway: RunningGateway, node: FakeOllama, path: str, question: dict[str, Any], named: dict[str, Any]
) -> None:
    async with raw_client(gateway.port) as client:
        for _ in range(2):
            got = await client.ask("POST", "/api" + path, {**question, **named}, bearer(gateway.key))
            assert got.status == 200
            assert {line["model"] for line in got.lines()} == {ALIAS}
            assert got.lines()[-1]["done"] is True
    seen = await node.request_for("/api" + path)
    assert json.loads(seen.body) == {**question, "model": MODEL}


@ALIASED
@pytest.mark.parametrize("named", [{"model": ALIAS}, {"name": ALIAS}, {}])
async def test_an_alias_is_shown_as_its_target(
    gateway: RunningGateway, node: FakeOllama, named: dict[str, Any]
) -> None:
    got = await ask(gateway, "/api/show", named or {"verbose": False})
    assert (got.status, "capabilities" in got.json()) == (200, True)
    seen = await node.request_for("/api/show")
    assert MODEL in json.loads(seen.body).values()


@ALIASED
@pytest.mark.parametrize("path", ["/api/tags", "/ollama/v1/models"])
async def test_the_list_of_models_has_the_aliases_that_lead_to_one(gateway: RunningGateway, path: str) -> None:
    async with raw_client(gateway.port) as client:
        for _ in range(2):
            got = await client.ask("GET", path, None, bearer(gateway.key))
            names = [model["name"] for model in got.json()["models"]]
            assert MODEL in names
            assert names[-1] == ALIAS
            assert "gone" not in names
        assert (await client.ask("HEAD", "/api/tags", None, bearer(gateway.key))).status == 200


@ALIASED
async def test_an_alias_is_nothing_that_one_can_delete(gateway: RunningGateway, node: FakeOllama) -> None:
    got = await ask(gateway, "/api/delete", {"model": ALIAS}, method="DELETE", admin=True)
    assert got.status in (400, 404)
    assert (await ask(gateway, "/api/delete", {}, method="DELETE", admin=True)).status == 400
    assert node.models.find(MODEL) is not None
    seen = await node.request_for("/api/delete")
    assert json.loads(seen.body) == {"model": ALIAS}


@ALIASED
async def test_an_alias_of_a_model_that_is_not_there_says_so(gateway: RunningGateway) -> None:
    got = await ask(gateway, "/api/chat", {**CHAT, "model": "gone"})
    assert (got.status, got.json()) == (404, {"error": "model 'gone' not found"})
