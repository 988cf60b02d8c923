"""Errors with the official `anthropic` client: the right class, what to do, and the id under which to ask."""

from __future__ import annotations

import json
import logging
from typing import Any
from uuid import UUID

import pytest
from anthropic import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
)
from anthropic._exceptions import OverloadedError
from anthropic_fixtures import ASKED, MODEL, QUESTION, WAYS, Ask, asking, call, make
from running import RunningGateway
from shared_gateway import gateway as gateway
from shared_gateway import gateway_settings as gateway_settings
from shared_gateway import in_one_loop
from shared_gateway import node as node
from shared_gateway import served as served

from parallama.identity.keys import new_key
from parallama.testing import BUSY, Answer, FakeOllama, Fault

pytestmark = in_one_loop

STREAM = {**ASKED, "stream": True}
PATHS = ["/v1/messages", "/anthropic/v1/messages"]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ask(way: str, gateway: RunningGateway) -> Ask:
    return asking(gateway, way)


def check_shape(error: APIStatusError, kind: str) -> None:
    body: Any = error.body
    assert (body["type"], body["error"]["type"], error.type) == ("error", kind, kind)
    assert body["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_wrong_key_is_an_authentication_error(gateway: RunningGateway, way: str, stream: bool) -> None:
    with pytest.raises(AuthenticationError) as caught:
        await call(make(gateway, way, new_key()), "messages.create", **ASKED, stream=stream)
    check_shape(caught.value, "authentication_error")
    assert not await gateway.rows(0)


@pytest.mark.parametrize("path", PATHS)
async def test_a_key_may_come_as_x_api_key(gateway: RunningGateway, path: str) -> None:
    for headers, status in (({"x-api-key": gateway.key}, 200), ({"x-api-key": new_key()}, 401), ({}, 401)):
        sent = {**headers, "anthropic-version": "2023-06-01"}
        async with gateway.http.post(gateway.url + path, json=ASKED, headers=sent) as answer:
            assert answer.status == status
            assert json.loads(await answer.read())["type"] == ("message" if status == 200 else "error")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("method", ["messages.create", "beta.messages.create"])
async def test_an_unknown_model_is_not_found(gateway: RunningGateway, ask: Ask, method: str, stream: bool) -> None:
    with pytest.raises(NotFoundError) as caught:
        await ask(method, **{**ASKED, "model": "nosuch"}, stream=stream)
    check_shape(caught.value, "not_found_error")
    assert "nosuch" in str(caught.value)
    assert (await gateway.row())["status"] == 404


async def test_an_unknown_model_has_no_tokens_and_no_entry(gateway: RunningGateway, ask: Ask) -> None:
    with pytest.raises(NotFoundError):
        await ask("messages.count_tokens", model="nosuch", messages=QUESTION)
    with pytest.raises(NotFoundError) as caught:
        await ask("models.retrieve", model_id="nosuch")
    check_shape(caught.value, "not_found_error")


async def test_an_unknown_path_is_not_found_in_the_dialect(gateway: RunningGateway) -> None:
    with pytest.raises(NotFoundError) as caught:
        await call(make(gateway, "async"), "post", path="/v1/complete", cast_to=object, body={})
    check_shape(caught.value, "not_found_error")
    async with gateway.http.get(f"{gateway.url}/v1/messages", headers=gateway.auth) as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")
        assert json.loads(await answer.read())["type"] == "error"


@pytest.mark.parametrize("model", ["gpt-oss:120b-cloud", "gpt-oss:cloud"])
async def test_a_model_that_leaves_the_node_is_refused(node: FakeOllama, ask: Ask, model: str) -> None:
    with pytest.raises(PermissionDeniedError) as caught:
        await ask("messages.create", **{**ASKED, "model": model})
    check_shape(caught.value, "permission_error")
    assert not node.seen("/api/chat")


URL = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no messages": ({"messages": []}, "messages"),
    "max_tokens 0": ({"max_tokens": 0}, "max_tokens"),
    "a foreign role": ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
    "an image by URL": ({"messages": [{"role": "user", "content": [URL]}]}, "source"),
    "an unknown block": ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, "hologram"),
    "temperature": ({"extra_body": {"temperature": "hot"}}, "temperature"),
    "stop_sequences": ({"extra_body": {"stop_sequences": [1]}}, "stop_sequences"),
    "tools": ({"extra_body": {"tools": {}}}, "tools"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_request_is_a_bad_request_that_names_the_field(node: FakeOllama, ask: Ask, name: str) -> None:
    change, field = WRONG[name]
    with pytest.raises(BadRequestError) as caught:
        await ask("messages.create", **{**ASKED, **change})
    check_shape(caught.value, "invalid_request_error")
    assert field in str(caught.value)
    assert not node.seen("/api/chat")


async def test_max_tokens_is_required(gateway: RunningGateway) -> None:
    for path in PATHS:
        body = {"model": MODEL, "messages": QUESTION}
        async with gateway.http.post(gateway.url + path, json=body, headers=gateway.auth) as answer:
            assert answer.status == 400
            error = json.loads(await answer.read())["error"]
            assert error["type"] == "invalid_request_error"
            assert "max_tokens" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_busy_node_is_overloaded(gateway: RunningGateway, node: FakeOllama, ask: Ask, stream: bool) -> None:
    node.cue(Answer(status=503, error=BUSY), "/api/chat")
    with pytest.raises(OverloadedError) as caught:
        await ask("messages.create", **ASKED, stream=stream)
    assert caught.value.status_code == 529
    check_shape(caught.value, "overloaded_error")
    assert 0 < int(caught.value.response.headers["retry-after"]) <= 120
    row = await gateway.row()
    assert (row["outcome"], row["prompt_tokens"], row["output_tokens"]) == ("failed", None, None)


async def test_a_node_that_is_asked_too_often_says_so(gateway: RunningGateway, node: FakeOllama, ask: Ask) -> None:
    node.cue(Answer(status=429, error=BUSY), "/api/chat")
    with pytest.raises(RateLimitError) as caught:
        await ask("messages.create", **ASKED)
    check_shape(caught.value, "rate_limit_error")
    assert 0 < int(caught.value.response.headers["retry-after"]) <= 120
    assert (await gateway.row())["status"] == 429


async def test_a_client_waits_as_it_is_told_and_then_gets_its_answer(
    gateway: RunningGateway, node: FakeOllama, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    node.cue(Answer(status=503, error=BUSY), "/api/chat")
    with caplog.at_level(logging.INFO, "anthropic._base_client"):
        message = await call(make(gateway, way, max_retries=2), "messages.create", **ASKED)
    assert message.stop_reason == "end_turn"
    assert len(node.seen("/api/chat")) == 2
    (waited,) = [record.args for record in caplog.records if record.msg.startswith("Retrying request")]
    assert isinstance(waited, tuple)
    assert waited[-1] == 2.0
    rows = await gateway.rows(2)
    assert [row["outcome"] for row in rows] == ["failed", "ok"]
    assert rows[0]["prompt_tokens"] is None


@pytest.mark.parametrize("fault", [Fault.CLOSE, Fault.RESET])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_node_that_dies_before_its_answer_is_a_server_error(
    gateway: RunningGateway, node: FakeOllama, ask: Ask, fault: Fault, stream: bool
) -> None:
    node.cue(Answer(fault=fault), "/api/chat", times=None)
    with pytest.raises(InternalServerError) as caught:
        await ask("messages.create", **ASKED, stream=stream)
    assert caught.value.status_code == 502
    check_shape(caught.value, "api_error")
    assert (await gateway.row())["outcome"] == "failed"


async def test_half_an_answer_is_never_a_document(gateway: RunningGateway, node: FakeOllama, ask: Ask) -> None:
    node.cue(Answer(fault=Fault.CLOSE, after_body=300), "/api/chat")
    with pytest.raises(InternalServerError) as caught:
        await ask("messages.create", **ASKED)
    assert caught.value.status_code == 502
    assert (await gateway.row())["outcome"] == "failed"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_nodes_own_refusal_is_told_in_its_words(node: FakeOllama, ask: Ask, stream: bool) -> None:
    node.cue(Answer(status=400, error="this model does not support images"), "/api/chat")
    with pytest.raises(BadRequestError, match="does not support images") as caught:
        await ask("messages.create", **ASKED, stream=stream)
    check_shape(caught.value, "invalid_request_error")


@pytest.mark.parametrize("stream", [False, True])
async def test_every_answer_has_an_id_that_is_that_of_its_row(gateway: RunningGateway, way: str, stream: bool) -> None:
    body = {**ASKED, "stream": stream}
    async with gateway.http.post(gateway.url + PATHS[0], json=body, headers=gateway.auth) as answer:
        assert answer.status == 200
        await answer.read()
    with pytest.raises(NotFoundError) as caught:
        await call(make(gateway, way), "messages.create", **{**ASKED, "model": "nosuch"}, stream=stream)
    refused = caught.value.response.headers
    assert caught.value.request_id == refused["request-id"]
    for headers, row in zip([answer.headers, refused], await gateway.rows(2), strict=True):
        assert headers["request-id"] == headers["x-request-id"]
        assert UUID(headers["request-id"]) == row["id"]
