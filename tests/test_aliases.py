"""Names of models that only a family has, from the client's request to the row."""

from typing import Any

import orjson
import pytest
from kept_gateway import alone as alone
from kept_gateway import gateway as gateway
from kept_gateway import gateway_settings as gateway_settings
from kept_gateway import in_one_loop
from kept_gateway import kept_gateways as kept_gateways
from kept_gateway import node as node
from kept_gateway import served as served
from running import RunningGateway

from parallama.testing import FakeOllama

MODEL = "llama3.2:1b"
MAPPINGS = {
    "gpt-4": MODEL,
    "careful": {
        "model": MODEL,
        "num_ctx": 2048,
        "keep_alive": "10m",
        "parameters": {"options.temperature": 0.1, "options.top_k": {"value": 7, "allow_override": False}},
    },
    "thinker": {"model": "qwen3:0.6b", "parameters": {"think": "high"}},
    "gone": "no-such-model",
    "cloudy": "gpt-oss:120b-cloud",
}
FAMILY = {"default_model": "gpt-4", "model_mappings": MAPPINGS}
SETTINGS = {"gateways": {"ollama": FAMILY, "openai": FAMILY, "anthropic": FAMILY}}

SAID = [{"role": "user", "content": "hello"}]
ASKS = {
    "native chat": ("/api/chat", "/api/chat", {"messages": SAID, "stream": False}),
    "native generate": ("/ollama/api/generate", "/api/generate", {"prompt": "hello", "stream": False}),
    "simple": ("/ollama/v1/chat", "/api/chat", {"messages": SAID}),
    "openai": ("/v1/chat/completions", "/api/chat", {"messages": SAID}),
    "completions": ("/openai/v1/completions", "/api/generate", {"prompt": "hello"}),
    "responses": ("/v1/responses", "/api/chat", {"input": "hello"}),
    "anthropic": ("/v1/messages", "/api/chat", {"messages": SAID, "max_tokens": 20}),
}
ask = pytest.mark.parametrize(("path", "node_path", "body"), ASKS.values(), ids=ASKS)
pytestmark = [in_one_loop, pytest.mark.parametrize("gateway_settings", [SETTINGS], ids=[""])]


async def answer(gateway: RunningGateway, path: str, body: Any, status: int = 200) -> tuple[Any, Any]:
    async with gateway.http.post(gateway.url + path, json=body, headers=gateway.auth) as got:
        data = await got.read()
        assert got.status == status, data
        return orjson.loads(data), got.headers


async def node_body(node: FakeOllama, path: str) -> Any:
    return orjson.loads((await node.request_for(path)).body)


@ask
async def test_the_node_gets_its_own_name_and_the_client_hears_the_one_it_used(
    gateway: RunningGateway, node: FakeOllama, path: str, node_path: str, body: dict[str, Any]
) -> None:
    said, headers = await answer(gateway, path, {"model": "gpt-4", **body})
    assert said["model"] == "gpt-4"
    assert headers["x-parallama-model"] == MODEL
    assert (await node_body(node, node_path))["model"] == MODEL
    row = await gateway.row()
    assert (row["model_asked"], row["model"], row["outcome"]) == ("gpt-4", MODEL, "ok")


@ask
async def test_a_request_without_a_model_gets_the_default_one(
    gateway: RunningGateway, node: FakeOllama, path: str, node_path: str, body: dict[str, Any]
) -> None:
    said, _ = await answer(gateway, path, body)
    assert said["model"] == "gpt-4"
    assert (await node_body(node, node_path))["model"] == MODEL


@ask
async def test_parameters_of_an_alias_reach_the_node(
    gateway: RunningGateway, node: FakeOllama, path: str, node_path: str, body: dict[str, Any]
) -> None:
    _, headers = await answer(gateway, path, {"model": "careful:latest", **body})
    sent = await node_body(node, node_path)
    options = {"num_ctx": 2048, "temperature": 0.1, "top_k": 7}
    assert (sent["keep_alive"], {**sent["options"], **options}) == ("10m", sent["options"])
    assert (headers["x-parallama-context"], headers["x-parallama-context-full"]) == ("2048", "false")


async def test_a_client_may_override_a_default_but_no_forced_value(gateway: RunningGateway, node: FakeOllama) -> None:
    options = {"temperature": 1.5, "top_k": 99}
    await answer(gateway, "/api/chat", {"model": "careful", "messages": SAID, "stream": False, "options": options})
    sent = await node_body(node, "/api/chat")
    assert (sent["options"]["temperature"], sent["options"]["top_k"]) == (1.5, 7)


@ask
async def test_a_target_that_no_node_has_is_an_unknown_model(
    gateway: RunningGateway, path: str, node_path: str, body: dict[str, Any]
) -> None:
    said, _ = await answer(gateway, path, {"model": "gone", **body}, 404)
    assert "model 'gone' not found" in str(said)
    row = await gateway.row()
    assert (row["model_asked"], row["model"], row["outcome"]) == ("gone", "no-such-model", "refused")


@ask
async def test_an_alias_is_no_way_around_the_rule_about_clouds(
    gateway: RunningGateway, node: FakeOllama, path: str, node_path: str, body: dict[str, Any]
) -> None:
    await answer(gateway, path, {"model": "cloudy", **body}, 403)
    assert not node.seen(node_path)


async def test_whom_the_client_serves_is_in_the_row(gateway: RunningGateway) -> None:
    asks = {"messages": SAID, "model": "gpt-4"}
    await answer(gateway, "/v1/chat/completions", {**asks, "user": "u-1"})
    await answer(gateway, "/v1/completions", {"model": "gpt-4", "prompt": "hi", "user": "u-2"})
    await answer(gateway, "/v1/responses", {"model": "gpt-4", "input": "hi", "safety_identifier": "u-3\0" + "x" * 999})
    await answer(gateway, "/v1/messages", {**asks, "max_tokens": 9, "metadata": {"user_id": "u-4"}})
    await answer(gateway, "/v1/embeddings", {"model": "nomic-embed-text", "input": "hi", "user": "u-5"})
    await answer(gateway, "/v1/chat/completions", {**asks, "user": {"odd": 1}})
    names = [row["end_user"] for row in await gateway.rows(6)]
    assert names == ["u-1", "u-2", "u-3\ufffd" + "x" * 124, "u-4", "u-5", None]


async def test_a_default_of_an_alias_goes_before_what_the_dialect_fills_in(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    await answer(gateway, "/v1/messages", {"model": "thinker", "messages": SAID, "max_tokens": 20})
    assert (await node_body(node, "/api/chat"))["think"] == "high"


async def test_an_alias_is_no_name_for_what_is_managed_on_a_node(gateway: RunningGateway, node: FakeOllama) -> None:
    async with gateway.http.request(
        "DELETE", gateway.url + "/api/delete", json={"model": "gpt-4"}, headers=gateway.admin_auth
    ) as got:
        assert got.status == 404
    assert (await node_body(node, "/api/delete"))["model"] == "gpt-4"
    listed, _ = await lists(gateway)
    assert MODEL in listed


async def lists(gateway: RunningGateway) -> tuple[list[str], dict[str, list[str]]]:
    found = {}
    for path, entries, name in (
        ("/api/tags", "models", "name"),
        ("/ollama/v1/models", "models", "name"),
        ("/v1/models", "data", "id"),
        ("/anthropic/v1/models", "data", "id"),
    ):
        async with gateway.http.get(gateway.url + path, headers=gateway.auth) as got:
            found[path] = [entry[name] for entry in (await got.json())[entries]]
    return found["/api/tags"], found


async def test_names_that_a_node_has_a_model_for_are_listed_in_every_dialect(gateway: RunningGateway) -> None:
    _, found = await lists(gateway)
    for names in found.values():
        assert {MODEL, "gpt-4", "careful"} <= set(names)
        assert not {"gone", "cloudy"} & set(names)
        assert len(names) == len(set(names))


async def test_show_knows_the_alias(gateway: RunningGateway, node: FakeOllama) -> None:
    said, _ = await answer(gateway, "/api/show", {"model": "gpt-4"})
    assert said["details"]["family"] == "llama"
    assert await node_body(node, "/api/show") == {"model": MODEL}
