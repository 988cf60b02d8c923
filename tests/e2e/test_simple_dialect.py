"""`/ollama/v1`, the simplified dialect, over HTTP: the exact shapes, its errors, and what is booked."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from kept_gateway import ALONE, in_one_loop
from kept_gateway import alone as alone
from kept_gateway import gateway as gateway
from kept_gateway import kept_gateways as kept_gateways
from kept_gateway import node as node
from kept_gateway import served as served
from running import RunningGateway, running_gateway

from parallama.testing import Answer, FakeOllama, Fault, fake_ollama

pytestmark = in_one_loop

MODEL, EMBEDDER = "llama3.2:1b", "nomic-embed-text"
MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]
GENERATE = {"model": MODEL, "prompt": "Why is the sky blue?"}
CHAT = {"model": MODEL, "messages": MESSAGES}
TEXTS = [b'{"message":{"role":"assistant","content":"%d"},"done":false}\n' % number for number in range(9)]

JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"


@pytest.fixture
def gateway_settings() -> dict[str, Any]:
    return {"usage": {"flush_ms": 1}}


@dataclass
class Got:
    status: int
    content_type: str
    headers: Any
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        assert self.body.endswith(b"\n")
        return [json.loads(line) for line in self.body.splitlines()]


async def ask(gateway: RunningGateway, path: str, body: Any = None, key: str | None = None) -> Got:
    """Send `body` (JSON, or bytes as they are) to `/ollama/v1` + path; no body: a GET."""
    headers = {"Authorization": f"Bearer {key or gateway.key}"}
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    method = "GET" if body is None else "POST"
    async with gateway.http.request(method, f"{gateway.url}/ollama/v1{path}", data=data, headers=headers) as answer:
        return Got(answer.status, answer.headers["Content-Type"], answer.headers, await answer.read())


def check_usage(usage: dict[str, int], row: dict[str, Any]) -> None:
    """The usage that the client was told is the node's, and what is booked."""
    assert list(usage) == ["prompt_tokens", "completion_tokens", "total_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0
    assert row["prompt_tokens"] == usage["prompt_tokens"]
    assert (row["output_tokens"] or 0) == usage["completion_tokens"]
    assert (row["outcome"], row["status"], row["estimated"]) == ("ok", 200, False)
    assert (row["gateway"], row["node"]) == ("ollama", "node-1")


async def test_models_are_listed_in_four_fields(gateway: RunningGateway) -> None:
    got = await ask(gateway, "/models")
    assert (got.status, got.content_type) == (200, JSON)
    assert list(got.document) == ["models"]
    by_name = {model["name"]: model for model in got.document["models"]}
    llama = by_name[MODEL]
    assert list(llama) == ["name", "size", "modified", "details"]
    assert llama["size"] == "1.2B"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", llama["modified"])
    assert llama["details"] == {"format": "gguf", "family": "llama"}
    assert by_name["nomic-embed-text:latest"]["details"] == {"format": "gguf", "family": "nomic-bert"}
    row = await gateway.row()
    assert (row["operation"], row["prompt_tokens"], row["output_tokens"]) == ("list", None, None)


async def test_a_generation_is_one_document_of_text(gateway: RunningGateway) -> None:
    got = await ask(gateway, "/generate", GENERATE)
    assert (got.status, got.content_type) == (200, JSON)
    assert list(got.document) == ["model", "text", "usage"]
    assert got.document["model"] == MODEL
    assert got.document["text"]
    row = await gateway.row()
    check_usage(got.document["usage"], row)
    assert (row["operation"], row["model_asked"], row["streamed"]) == ("generate", MODEL, False)


async def test_a_streamed_generation_is_lines_of_text_and_ends_with_usage(gateway: RunningGateway) -> None:
    whole = await ask(gateway, "/generate", GENERATE)
    got = await ask(gateway, "/generate", {**GENERATE, "stream": True})
    assert (got.status, got.content_type) == (200, NDJSON)
    *pieces, last = got.lines
    assert len(pieces) > 1
    assert all(list(piece) == ["text"] for piece in pieces)
    assert list(last) == ["text", "usage", "done"]
    assert last["done"] is True
    assert "".join(line["text"] for line in got.lines) == whole.document["text"]
    assert last["usage"] == whole.document["usage"]
    _, row = await gateway.rows(2)
    check_usage(last["usage"], row)
    assert row["streamed"]


async def test_a_chat_is_one_document_with_the_answers_message(gateway: RunningGateway) -> None:
    got = await ask(gateway, "/chat", CHAT)
    assert (got.status, got.content_type) == (200, JSON)
    assert list(got.document) == ["model", "messages", "usage"]
    (message,) = got.document["messages"]
    assert list(message) == ["role", "content"]
    assert message["role"] == "assistant"
    assert message["content"]
    row = await gateway.row()
    check_usage(got.document["usage"], row)
    assert (row["operation"], row["streamed"]) == ("chat", False)


async def test_a_streamed_chat_is_lines_of_messages_and_ends_with_usage(gateway: RunningGateway) -> None:
    whole = await ask(gateway, "/chat", CHAT)
    got = await ask(gateway, "/chat", {**CHAT, "stream": True})
    assert (got.status, got.content_type) == (200, NDJSON)
    *pieces, last = got.lines
    assert len(pieces) > 1
    assert all(list(piece) == ["messages"] for piece in pieces)
    assert list(last) == ["messages", "usage", "done"]
    texts = [message["content"] for line in got.lines for message in line["messages"]]
    assert "".join(texts) == whole.document["messages"][0]["content"]
    _, row = await gateway.rows(2)
    check_usage(last["usage"], row)


@pytest.mark.parametrize(("given", "count"), [("the sky", 1), (["the sky", "the sea"], 2)])
async def test_embeddings_are_a_list_of_vectors(gateway: RunningGateway, given: Any, count: int) -> None:
    got = await ask(gateway, "/embeddings", {"model": EMBEDDER, "input": given})
    assert (got.status, got.content_type) == (200, JSON)
    assert list(got.document) == ["model", "embeddings", "usage"]
    assert [len(vector) for vector in got.document["embeddings"]] == [768] * count
    row = await gateway.row()
    check_usage(got.document["usage"], row)
    assert row["operation"] == "embed"


async def test_parameters_become_the_nodes_options(gateway: RunningGateway, node: FakeOllama) -> None:
    parameters = {"max_tokens": 3, "temperature": 0.5, "top_p": 1, "stop": "!", "seed": 7, "num_ctx": 2048}
    got = await ask(gateway, "/generate", {**GENERATE, "parameters": parameters})
    assert got.document["usage"]["completion_tokens"] == 3
    sent = json.loads((await node.request_for("/api/generate")).body)
    options = {"num_predict": 3, "temperature": 0.5, "top_p": 1.0, "stop": ["!"], "seed": 7, "num_ctx": 2048}
    assert sent == {**GENERATE, "options": options, "stream": True}


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/generate", b'{"model": ', "JSON"),
        ("/generate", b"[]", "object"),
        ("/generate", {"prompt": "x"}, "model"),
        ("/generate", {"model": MODEL}, "prompt"),
        ("/generate", {**GENERATE, "prompt": 5}, "prompt"),
        ("/generate", {**GENERATE, "stream": "yes"}, "stream"),
        ("/generate", {**GENERATE, "promt": "x"}, "promt"),
        ("/generate", {**GENERATE, "temperature": 1}, "parameters"),
        ("/generate", {**GENERATE, "parameters": {"max_tokens": 0}}, "parameters.max_tokens"),
        ("/generate", {**GENERATE, "parameters": {"max_tokens": "3"}}, "parameters.max_tokens"),
        ("/chat", {**CHAT, "messages": "hi"}, "messages"),
        ("/chat", {**CHAT, "messages": [{"role": "user"}]}, "messages[0].content"),
        ("/embeddings", {"model": EMBEDDER, "input": 5}, "input"),
        ("/embeddings", {"model": EMBEDDER, "input": "x", "stream": True}, "stream"),
    ],
)
async def test_a_wrong_request_is_told_what_is_wrong(
    gateway: RunningGateway, node: FakeOllama, path: str, body: Any, named: str
) -> None:
    got = await ask(gateway, path, body)
    assert (got.status, got.content_type) == (400, JSON)
    assert list(got.document) == ["error"]
    assert named in got.document["error"]
    assert not [request for request in node.requests if request.method == "POST"]
    row = await gateway.row()
    assert (row["status"], row["outcome"]) == (400, "refused")
    assert row["error"] in (
        "bad_request",
        "invalid_json",
        "invalid_json_shape",
        "missing_parameter",
        "invalid_parameter",
    )
    assert (row["prompt_tokens"], row["output_tokens"]) == (None, None)


async def test_routing_errors_have_the_dialects_shape(gateway: RunningGateway) -> None:
    nowhere = await ask(gateway, "/nowhere", {})
    wrong = await ask(gateway, "/chat")
    stranger = await ask(gateway, "/chat", CHAT, key="no-key")
    assert (nowhere.status, wrong.status, stranger.status) == (404, 405, 401)
    assert wrong.headers["Allow"] == "POST"
    for got in (nowhere, wrong, stranger):
        assert got.content_type == JSON
        assert list(got.document) == ["error"]
        assert isinstance(got.document["error"], str)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_unknown_model_is_a_404_in_the_nodes_words(gateway: RunningGateway, stream: bool) -> None:
    got = await ask(gateway, "/chat", {**CHAT, "model": "nosuch", "stream": stream})
    assert got.status == 404
    assert list(got.document) == ["error"]
    assert "nosuch" in got.document["error"]
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["model_asked"]) == (404, "refused", "nosuch")
    assert row["output_tokens"] is None


@ALONE
@pytest.mark.parametrize("stream", [False, True])
async def test_a_node_that_is_down_is_an_error_status(gateway: RunningGateway, node: FakeOllama, stream: bool) -> None:
    await node.close()
    got = await ask(gateway, "/chat", {**CHAT, "stream": stream})
    assert got.status == 502
    assert list(got.document) == ["error"]
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["error"]) == (502, "failed", "upstream_failed")


@pytest.mark.parametrize("after", [sum(map(len, TEXTS[:3])), sum(map(len, TEXTS[:3])) + 9], ids=["line", "half a line"])
@pytest.mark.parametrize("fault", [Fault.CLOSE, Fault.RESET])
async def test_a_stream_that_the_node_breaks_ends_with_an_error_line(
    gateway: RunningGateway, node: FakeOllama, fault: Fault, after: int
) -> None:
    node.cue(Answer(lines=TEXTS, fault=fault, after_body=after), "/api/chat")
    got = await ask(gateway, "/chat", {**CHAT, "stream": True})
    assert got.status == 200
    *pieces, last = got.lines
    assert list(last) == ["error"]
    told = [message["content"] for piece in pieces for message in piece["messages"]]
    assert told == ["0", "1", "2"][: len(told)]
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["streamed"], row["estimated"]) == (502, "failed", True, True)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(lines=TEXTS, fault=Fault.CLOSE, after_body=200),
        Answer(lines=TEXTS),
        Answer(fault=Fault.ERROR_LINE, after_lines=2, error="the runner died"),
        Answer(fault=Fault.BAD_JSON, after_lines=2),
    ],
    ids=["closes", "ends too soon", "tells an error", "no JSON"],
)
async def test_a_document_that_the_node_breaks_is_an_error_status(
    gateway: RunningGateway, node: FakeOllama, answer: Answer
) -> None:
    node.cue(answer, "/api/chat")
    got = await ask(gateway, "/chat", CHAT)
    assert (got.status, got.content_type) == (502, JSON)
    assert list(got.document) == ["error"]
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["estimated"]) == (502, "failed", True)


async def test_the_nodes_own_error_keeps_its_status_and_words(gateway: RunningGateway, node: FakeOllama) -> None:
    busy = "server busy, please try again.  maximum pending requests exceeded"
    node.cue(Answer(status=503, error=busy), "/api/generate")
    got = await ask(gateway, "/generate", {**GENERATE, "stream": True})
    assert (got.status, got.document) == (503, {"error": busy})
    assert int(got.headers["Retry-After"]) > 0


class TestOfASimulator:
    @pytest_asyncio.fixture(loop_scope="module")
    async def gateway(self, database_url: str) -> AsyncIterator[RunningGateway]:
        async with fake_ollama(mark=True) as node, running_gateway(database_url, node.url) as gateway:
            yield gateway

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/models", None),
            ("/generate", GENERATE),
            ("/chat", {**CHAT, "stream": True}),
            ("/embeddings", {"model": EMBEDDER, "input": "x"}),
        ],
    )
    async def test_the_mark_of_a_simulator_is_kept(self, gateway: RunningGateway, path: str, body: Any) -> None:
        got = await ask(gateway, path, body)
        assert got.status == 200
        assert got.headers["x-parallama-simulated"] == "1"


async def test_a_real_nodes_answer_has_no_simulators_mark(gateway: RunningGateway) -> None:
    assert "x-parallama-simulated" not in (await ask(gateway, "/generate", GENERATE)).headers
