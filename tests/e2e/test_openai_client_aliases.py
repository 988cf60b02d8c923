"""Names of OpenAI's that stand for models of the node, through the official client; and the headers of answers."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import openai
import pytest
from asking import ask
from openai_clients import EMBEDDER, MODEL, QUESTION, Ai, asked
from running import RunningGateway
from shared_gateway import ai as ai
from shared_gateway import gateway as gateway
from shared_gateway import in_one_loop
from shared_gateway import node as node
from shared_gateway import served as served

from parallama.testing import FakeOllama

pytestmark = in_one_loop

VECTORS = "text-embedding-ada-002"


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, Any]:
    mappings = {"gpt-4": MODEL, VECTORS: EMBEDDER, "gpt-nowhere": "nosuch:7b"}
    return {"usage": {"flush_ms": 1}, "gateways": {"openai": {"model_mappings": mappings, "default_model": "gpt-4"}}}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_is_answered_under_the_clients_name(
    gateway: RunningGateway, node: FakeOllama, ai: Ai, stream: bool
) -> None:
    got = await ai.chat(model="gpt-4", stream=stream)
    assert {one.model for one in (got if stream else [got])} == {"gpt-4"}
    assert (await asked(node))["model"] == MODEL
    row = await gateway.row()
    assert (row["model_asked"], row["model"], row["outcome"]) == ("gpt-4", MODEL, "ok")


async def test_every_kind_of_answer_bears_the_clients_name(node: FakeOllama, ai: Ai) -> None:
    completion = await ai("completions.create", model="gpt-4", prompt="Why?")
    response = await ai("responses.create", model="gpt-4", input="Why?")
    *_, last = await ai("responses.create", model="gpt-4", input="Why?", stream=True)
    embedding = await ai("embeddings.create", model=VECTORS, input="sky")
    assert [completion.model, response.model, last.response.model] == ["gpt-4"] * 3
    assert embedding.model == VECTORS
    assert (await asked(node, "/api/generate"))["model"] == MODEL
    assert [(await asked(node, number=number))["model"] for number in range(2)] == [MODEL] * 2
    assert (await asked(node, "/api/embed"))["model"] == EMBEDDER


async def test_the_names_of_the_node_still_count(node: FakeOllama, ai: Ai) -> None:
    assert (await ai.chat(model=MODEL)).model == MODEL
    assert (await asked(node))["model"] == MODEL


async def test_aliases_of_what_the_node_has_are_listed_and_found(node: FakeOllama, ai: Ai) -> None:
    ids = [model.id for model in (await ai("models.list")).data]
    assert sorted(ids) == sorted([*(entry["name"] for entry in node.models.tags()), "gpt-4", VECTORS])
    found = await ai("models.retrieve", "gpt-4")
    assert (found.id, found.owned_by) == ("gpt-4", "parallama")
    assert found.created == (await ai("models.retrieve", MODEL)).created


async def test_an_alias_of_what_the_node_lacks_is_not_found(ai: Ai) -> None:
    for call in (ai.chat(model="gpt-nowhere"), ai("models.retrieve", "gpt-nowhere")):
        with pytest.raises(openai.NotFoundError) as caught:
            await call
        assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("mount", ["/v1", "/openai/v1"])
async def test_a_request_without_a_model_gets_the_default(
    gateway: RunningGateway, node: FakeOllama, mount: str
) -> None:
    asking: list[tuple[str, dict[str, Any]]] = [
        ("chat/completions", {"messages": QUESTION}),
        ("completions", {"prompt": "Why?"}),
        ("responses", {"input": "Why?"}),
    ]
    for path, body in asking:
        got = await ask(gateway, f"{mount}/{path}", body)
        assert (got.status, got.json()["model"]) == (200, "gpt-4")
    assert (await asked(node))["model"] == MODEL
    assert {row["model_asked"] for row in await gateway.rows(3)} == {"gpt-4"}


async def test_every_answer_bears_its_id_and_the_model_that_answered(gateway: RunningGateway, ai: Ai) -> None:
    got = await ai("chat.completions.with_raw_response.create", model="gpt-4", messages=QUESTION)
    assert got.headers["x-parallama-model"] == MODEL
    assert got.headers["x-parallama-node"] == "node-1"
    assert got.headers["content-type"].startswith("application/json")
    assert UUID(got.headers["x-request-id"]) == (await gateway.row())["id"]
    assert (got.request_id, got.parse().model) == (got.headers["x-request-id"], "gpt-4")


async def test_every_other_answer_bears_its_id(gateway: RunningGateway) -> None:
    chat = {"messages": QUESTION, "stream": True}
    answers = [
        await ask(gateway, "/v1/chat/completions", chat),
        await ask(gateway, "/v1/models"),
        await ask(gateway, "/v1/nosuch"),
        await ask(gateway, "/v1/chat/completions", {"messages": []}),
        await ask(gateway, "/v1/chat/completions", {**chat, "model": "nosuch"}),
    ]
    headers = [{name.lower(): value for name, value in answer.headers} for answer in answers]
    assert [answer.status for answer in answers] == [200, 200, 404, 400, 404]
    assert len({UUID(one["x-request-id"]) for one in headers}) == len(answers)
    assert headers[0]["x-parallama-model"] == MODEL
    assert headers[0]["content-type"].split(";")[0] == "text/event-stream"
