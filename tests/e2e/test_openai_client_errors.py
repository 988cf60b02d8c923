"""Refusals and failures as the official `openai` client raises them: the class, the code, the parameter."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from typing import Any
from uuid import UUID

import openai
import pytest
from openai_clients import MODEL, QUESTION, Ai
from running import RunningGateway
from shared_gateway import ai as ai
from shared_gateway import gateway as gateway
from shared_gateway import gateway_settings as gateway_settings
from shared_gateway import in_one_loop
from shared_gateway import node as node
from shared_gateway import served as served

from parallama.identity.keys import new_key
from parallama.testing import BUSY, Answer, FakeOllama, Fault

pytestmark = in_one_loop

AUDIO = {"voice": "alloy", "format": "wav"}
FAR_IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/sky.png"}}
FILE = {"type": "file", "file": {"file_id": "file-1"}}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "spoken answers": ({"modalities": ["text", "audio"], "audio": AUDIO}, "modalities"),
    "web search": ({"web_search_options": {}}, "web_search_options"),
    "no messages": ({"messages": []}, "messages"),
    "an unknown role": ({"messages": [{"role": "stranger", "content": "Hi"}]}, "messages[0].role"),
    "no content": ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    "an image that is elsewhere": (user(FAR_IMAGE), "messages[0].content[0]"),
    "a file": (user(FILE), "messages[0].content[0]"),
    "no tokens at all": ({"max_tokens": 0}, "max_tokens"),
    "fewer than no tokens": ({"max_completion_tokens": -1}, "max_completion_tokens"),
    "a word for a number": ({"temperature": "hot"}, "temperature"),
    "a number for stops": ({"stop": 3}, "stop"),
    "no choices": ({"n": 0}, "n"),
    "too many choices": ({"n": 1000}, "n"),
    "too many log probabilities": ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    "tools of another shape": ({"tools": {"name": "weather"}}, "tools"),
}


async def failure(call: Awaitable[Any], kind: type[openai.APIStatusError]) -> Any:
    """The error that the call raises; of exactly this class, with an id and a message."""
    with pytest.raises(kind) as caught:
        await call
    error = caught.value
    assert type(error) is kind
    assert UUID(error.request_id)
    assert isinstance(error.body, dict)
    assert error.body.keys() == {"message", "type", "param", "code"}
    assert error.body["message"] in str(error)
    return error


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_answered_truly_is_refused(node: FakeOllama, ai: Ai, name: str, stream: bool) -> None:
    arguments, param = REFUSED[name]
    error = await failure(ai.chat(**arguments, stream=stream), openai.BadRequestError)
    assert error.param.startswith(param)
    assert error.code in ("invalid_parameter", "missing_parameter")
    assert error.type == "invalid_request_error"
    assert not node.seen("/api/chat")


async def test_a_required_field_that_is_missing_is_named(gateway: RunningGateway, node: FakeOllama) -> None:
    for body, param in (({"model": MODEL}, "messages"), ({"messages": QUESTION}, "model")):
        url = f"{gateway.url}/v1/chat/completions"
        async with gateway.http.post(url, json=body, headers=gateway.auth) as answer:
            error = (await answer.json())["error"]
        assert (answer.status, error["param"], error["code"]) == (400, param, "missing_parameter")
    assert not node.seen("/api/chat")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"model"'])
async def test_a_body_that_is_no_object_is_refused(gateway: RunningGateway, body: bytes) -> None:
    for path in ("chat/completions", "completions", "embeddings", "responses"):
        async with gateway.http.post(f"{gateway.url}/openai/v1/{path}", data=body, headers=gateway.auth) as answer:
            error = (await answer.json())["error"]
        assert (answer.status, error["type"]) == (400, "invalid_request_error")
        assert error["code"] in ("invalid_json", "invalid_json_shape")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_bad_key_is_not_authenticated(node: FakeOllama, ai: Ai, stream: bool) -> None:
    error = await failure(replace(ai, key=new_key()).chat(stream=stream), openai.AuthenticationError)
    assert (error.code, error.type) == ("invalid_api_key", "invalid_request_error")
    await failure(replace(ai, key="sk-somebody-elses")("models.list"), openai.AuthenticationError)
    assert not node.seen("/api/chat")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_is_not_there_is_not_found(gateway: RunningGateway, ai: Ai, stream: bool) -> None:
    error = await failure(ai.chat(model="nosuch", stream=stream), openai.NotFoundError)
    assert error.code == "model_not_found"
    assert "nosuch" in error.message
    assert (await gateway.row())["id"] == UUID(error.request_id)
    asking: dict[str, Any] = {
        "completions": {"prompt": "Why?"},
        "embeddings": {"input": "sky"},
        "responses": {"input": "Why?"},
    }
    for method, arguments in asking.items():
        error = await failure(ai(f"{method}.create", model="nosuch", **arguments), openai.NotFoundError)
        assert error.code == "model_not_found"


async def test_a_path_that_is_not_there_is_not_found(ai: Ai) -> None:
    await failure(ai("get", "/nosuch", cast_to=object), openai.NotFoundError)
    await failure(ai("post", "/chat", cast_to=object, body={}), openai.NotFoundError)
    await failure(ai("files.list"), openai.NotFoundError)


async def test_a_method_that_is_not_there_is_told(ai: Ai) -> None:
    error = await failure(ai("post", "/models", cast_to=object, body={}), openai.APIStatusError)
    assert (error.status_code, error.response.headers["allow"].split(", ")[0]) == (405, "GET")


async def test_a_model_of_the_cloud_is_not_allowed(node: FakeOllama, ai: Ai) -> None:
    await failure(ai.chat(model="gpt-oss:120b-cloud"), openai.PermissionDeniedError)
    assert not node.seen("/api/chat")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [503, 500, 429])
async def test_a_node_that_fails_before_its_answer_keeps_its_status(
    gateway: RunningGateway, node: FakeOllama, ai: Ai, status: int, stream: bool
) -> None:
    node.cue(Answer(status=status, error=BUSY))
    kind, outcome = (openai.RateLimitError, "refused") if status == 429 else (openai.InternalServerError, "failed")
    error = await failure(ai.chat(stream=stream), kind)
    assert (error.status_code, error.body["message"]) == (status, BUSY)
    if status != 500:
        assert 1 <= int(error.response.headers["retry-after"]) <= 5
    assert len(node.seen("/api/chat")) == 1
    assert (await gateway.row())["outcome"] == outcome


def hurried(kind: type[Any], waits: list[float]) -> type[Any]:
    """The client, which notes how long it would wait before it asks again, and does not."""

    class Hurried(kind):  # type: ignore[misc]
        def _calculate_retry_timeout(self, *args: Any, **named: Any) -> float:
            waits.append(super()._calculate_retry_timeout(*args, **named))
            return 0

    return Hurried


async def test_a_busy_node_is_asked_again_when_it_was_said(gateway: RunningGateway, node: FakeOllama, ai: Ai) -> None:
    node.cue(Answer(status=503, error=BUSY), times=2)
    waits: list[float] = []
    got = await replace(ai, kind=hurried(ai.kind, waits), options={"max_retries": 2}).chat()
    assert got.choices[0].message.content
    assert waits == [2.0, 2.0], "what Retry-After says, not the client's own half a second"
    assert len(node.seen("/api/chat")) == 3
    assert [row["status"] for row in await gateway.rows(3)] == [503, 503, 200]


@pytest.mark.parametrize("broken", [Answer(fault=Fault.CLOSE, after_body=60), Answer(fault=Fault.NO_DONE)])
async def test_a_document_that_the_node_breaks_is_a_bad_gateway(
    gateway: RunningGateway, node: FakeOllama, ai: Ai, broken: Answer
) -> None:
    node.cue(broken, "/api/chat")
    error = await failure(ai.chat(), openai.InternalServerError)
    assert error.status_code == 502
    assert (await gateway.row())["outcome"] == "failed"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_in_the_place_of_an_answer_is_a_status(node: FakeOllama, ai: Ai, stream: bool) -> None:
    node.cue(Answer(fault=Fault.ERROR_LINE, after_lines=0, error="out of memory"), "/api/chat")
    error = await failure(ai.chat(stream=stream), openai.InternalServerError)
    assert "out of memory" in error.message
