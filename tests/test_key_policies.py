"""What a limited key is good for: gateways and models, in every dialect, judged before a node is asked."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import aiohttp
import orjson
import pytest
import pytest_asyncio
from asking import bearer
from one_gateway import gateway, in_one_loop, limited_key, node, served
from parallama_ollama.native import OllamaNative
from raw_http import Got, raw_client
from running import RunningGateway

from parallama.errors import NotAllowed, UpstreamFailed
from parallama.exchange import Caller, KeyPolicy
from parallama.gateway.api import Head, Outbound, Route
from parallama.proxy.resolve import admit, limit
from parallama.testing import FakeOllama, inbound

__all__ = ["gateway", "node", "served"]

pytestmark = in_one_loop

SMALL, THINKER, EMBEDDER = "llama3.2:1b", "qwen3:0.6b", "nomic-embed-text"
ALIASES = {"small": SMALL, "thinker": THINKER}


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, Any]:
    families = ("ollama", "openai", "anthropic")
    return {"gateways": {family: {"model_mappings": ALIASES} for family in families}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def small_key(served: tuple[RunningGateway, FakeOllama]) -> str:
    """Of alice, for the small model and no other."""
    return await limited_key(served[0], models=["llama3.2*"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def managing_key(served: tuple[RunningGateway, FakeOllama]) -> str:
    """Of the admin, for the small model and no other."""
    return await limited_key(served[0], "root", models=[SMALL, "mine/*"])


async def ask(gateway: RunningGateway, key: str, method: str, path: str, body: Any = None, *headers: str) -> Got:
    async with raw_client(gateway.port) as client:
        return await client.ask(method, path, body, bearer(key), *headers)


def generations(model: str) -> list[tuple[str, Any]]:
    messages = [{"role": "user", "content": "Hi"}]
    chat = {"model": model, "messages": messages, "stream": False}
    return [
        ("/api/chat", chat),
        ("/api/generate", {"model": model, "prompt": "Hi", "stream": False}),
        ("/api/embed", {"model": model, "input": "Hi"}),
        ("/api/embeddings", {"model": model, "prompt": "Hi"}),
        ("/api/show", {"model": model}),
        ("/ollama/v1/chat", chat),
        ("/ollama/v1/generate", {"model": model, "prompt": "Hi"}),
        ("/ollama/v1/embeddings", {"model": model, "input": "Hi"}),
        ("/v1/chat/completions", chat),
        ("/v1/completions", {"model": model, "prompt": "Hi"}),
        ("/v1/embeddings", {"model": model, "input": "Hi"}),
        ("/v1/responses", {"model": model, "input": "Hi"}),
        ("/v1/messages", {**chat, "max_tokens": 9}),
        ("/v1/messages/count_tokens", {"model": model, "messages": messages}),
    ]


@pytest.mark.parametrize("model", [THINKER, "thinker", "QWEN3:0.6b"])
async def test_another_model_is_refused_before_a_node_is_asked(
    gateway: RunningGateway, node: FakeOllama, small_key: str, model: str
) -> None:
    for path, body in generations(model):
        got = await ask(gateway, small_key, "POST", path, body)
        assert (got.status, f"not for the model '{model}'" in got.body.decode()) == (403, True), path
    assert {seen.path for seen in node.requests} <= {"/api/tags", "/api/ps", "/api/version"}


@pytest.mark.parametrize("model", [SMALL, "small", "LLAMA3.2:1B", "registry.ollama.ai/library/llama3.2:1b"])
async def test_its_own_model_is_served_by_each_of_its_names(
    gateway: RunningGateway, node: FakeOllama, small_key: str, model: str
) -> None:
    for path, body in generations(model):
        if "embed" not in path:
            assert (await ask(gateway, small_key, "POST", path, body)).status == 200, path


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/pull", {"model": THINKER}),
        ("POST", "/api/push", {"model": THINKER}),
        ("DELETE", "/api/delete", {"model": THINKER}),
        ("POST", "/api/create", {"model": THINKER, "from": SMALL}),
        ("POST", "/api/create", {"model": "mine/own", "from": THINKER}),
        ("POST", "/api/copy", {"source": THINKER, "destination": "mine/own"}),
        ("POST", "/api/copy", {"source": SMALL, "destination": THINKER}),
        ("POST", "/api/pull", {"model": "small"}),
    ],
)
async def test_a_limited_key_manages_no_other_model(
    gateway: RunningGateway, node: FakeOllama, managing_key: str, method: str, path: str, body: Any
) -> None:
    assert (await ask(gateway, managing_key, method, path, body)).status == 403
    assert node.seen(path) == []


async def test_a_limited_key_manages_its_own_models(
    gateway: RunningGateway, node: FakeOllama, managing_key: str
) -> None:
    copy = {"source": SMALL, "destination": "mine/own"}
    assert (await ask(gateway, managing_key, "POST", "/api/copy", copy)).status == 200
    assert (await ask(gateway, managing_key, "DELETE", "/api/delete", {"model": "mine/own"})).status == 200


async def test_the_code_is_told_where_the_dialect_has_one(gateway: RunningGateway, small_key: str) -> None:
    chat, question = {"model": THINKER, "messages": [{"role": "user", "content": "Hi"}]}, "not for the model"
    openai = (await ask(gateway, small_key, "POST", "/v1/chat/completions", chat)).json()["error"]
    assert (openai["type"], openai["code"]) == ("permission_error", "model_access_denied")
    anthropic = (await ask(gateway, small_key, "POST", "/v1/messages", {**chat, "max_tokens": 9})).json()["error"]
    assert anthropic["type"] == "permission_error"
    assert question in anthropic["message"]


LISTS = ["/api/tags", "/ollama/v1/models", "/v1/models", "/anthropic/v1/models"]


def listed_names(got: Got) -> list[str]:
    told = got.json()
    return [entry.get("id") or entry["name"] for entry in told.get("data") or told.get("models") or []]


@pytest.mark.parametrize("path", LISTS)
async def test_a_list_shows_what_the_key_is_for(gateway: RunningGateway, small_key: str, path: str) -> None:
    everything = listed_names(await ask(gateway, gateway.key, "GET", path))
    assert {SMALL, THINKER, "small", "thinker"} <= set(everything)
    assert listed_names(await ask(gateway, small_key, "GET", path)) == [SMALL, "small"]


@pytest.mark.parametrize("path", [*LISTS, "/api/ps"])
async def test_a_key_for_no_model_sees_none(gateway: RunningGateway, path: str) -> None:
    assert listed_names(await ask(gateway, await limited_key(gateway, models=[]), "GET", path)) == []


async def test_what_runs_is_shown_where_the_key_is_for_it(
    gateway: RunningGateway, small_key: str, node: FakeOllama
) -> None:
    for model in (SMALL, THINKER):
        body = {"model": model, "prompt": "Hi", "stream": False}
        assert (await ask(gateway, gateway.key, "POST", "/api/generate", body)).status == 200
    assert set(listed_names(await ask(gateway, gateway.key, "GET", "/api/ps"))) >= {SMALL, THINKER}
    assert listed_names(await ask(gateway, small_key, "GET", "/api/ps")) == [SMALL]


async def test_the_head_of_a_filtered_list_tells_no_length(gateway: RunningGateway, small_key: str) -> None:
    whole = await ask(gateway, gateway.key, "HEAD", "/api/tags")
    filtered = await ask(gateway, small_key, "HEAD", "/api/tags")
    assert (whole.status, filtered.status) == (200, 200)
    assert "content-length" not in {name.lower() for name, _ in filtered.headers}


@pytest.mark.parametrize("path", ["/v1/models", "/anthropic/v1/models"])
async def test_one_model_is_told_to_whose_key_is_for_it(gateway: RunningGateway, small_key: str, path: str) -> None:
    for name in (SMALL, "small"):
        assert (await ask(gateway, small_key, "GET", f"{path}/{name}")).json()["id"] == name
    for name in (THINKER, "thinker"):
        assert (await ask(gateway, gateway.key, "GET", f"{path}/{name}")).status == 200
        assert (await ask(gateway, small_key, "GET", f"{path}/{name}")).status == 403


async def test_a_list_of_which_nothing_is_left_out_is_the_nodes_very_bytes() -> None:
    body = b'{"models":[ {"name":"a:latest"} ], "more":1}'
    for path in ("/tags", "/ps"):
        codec = _native(path).open(inbound(path=path, method="GET", usable=["*"]))
        codec.begin(Head(200))
        assert codec.feed(body) + codec.finish() == body
        codec = _native(path).open(inbound(path=path, method="GET", usable=["b"]))
        codec.begin(Head(200))
        assert orjson.loads(codec.feed(body) + codec.finish()) == {"models": [], "more": 1}


@pytest.mark.parametrize("body", [b'{"models":5}', b"[]", b"<html>", b'{"models":[7]}'])
async def test_what_is_no_list_is_not_passed_to_a_limited_key(body: bytes) -> None:
    for path in ("/tags", "/ps"):
        codec = _native(path).open(inbound(path=path, method="GET", usable=["*"]))
        codec.begin(Head(200))
        codec.feed(body)
        with pytest.raises(UpstreamFailed):
            codec.finish()


async def test_an_error_of_the_node_passes_in_place_of_a_list() -> None:
    codec = _native("/tags").open(inbound(path="/tags", method="GET", usable=[]))
    assert codec.begin(Head(500)).status == 500
    assert codec.feed(b"oh no") + codec.finish() == b"oh no"


def _native(path: str) -> Route:
    return next(route for route in OllamaNative().routes() if (route.method, route.path) == ("GET", path))


async def test_a_key_for_some_gateways_is_refused_by_the_others(gateway: RunningGateway, node: FakeOllama) -> None:
    key = await limited_key(gateway, gateways=["openai"])
    assert (await ask(gateway, key, "GET", "/v1/models")).status == 200
    for path in ("/api/tags", "/ollama/v1/models", "/anthropic/v1/models"):
        got = await ask(gateway, key, "GET", path)
        assert (got.status, "not for the gateway" in got.body.decode()) == (403, True), path


async def test_a_lacking_permission_is_named(gateway: RunningGateway) -> None:
    async with gateway.database.connection() as one:
        await one.execute("INSERT INTO users (username) VALUES ('bare')")
    async with aiohttp.ClientSession() as http:
        headers = {"Authorization": f"Bearer {await limited_key(gateway, 'bare')}"}
        async with http.get(f"{gateway.url}/v1/models", headers=headers) as got:
            assert got.status == 403
            assert "use_openai" in (await got.json())["error"]["message"]


# the core's say, without a gateway


def caller(**policy: Any) -> Caller:
    permissions = frozenset(("use_*",))
    return Caller(
        user_id=uuid4(),
        username="u",
        key_id=uuid4(),
        admin=True,
        permissions=permissions,
        policy=KeyPolicy(**policy),
    )


async def test_being_an_admin_does_not_widen_a_key() -> None:
    route = _native("/tags")
    admit(caller(gateways=frozenset(("ollama",))), OllamaNative(), route)
    with pytest.raises(NotAllowed, match="gateway ollama") as refused:
        admit(caller(gateways=frozenset()), OllamaNative(), route)
    assert refused.value.code == "gateway_access_denied"


async def test_an_alias_is_judged_by_what_it_stands_for_and_refused_by_its_own_name() -> None:
    policy = KeyPolicy(models=("alias", "small"))
    asked = Outbound(method="POST", path="/api/chat", model="alias", target="large")
    with pytest.raises(NotAllowed, match="'alias'") as refused:
        limit([asked], policy)
    assert refused.value.code == "model_access_denied"
    limit([Outbound(method="POST", path="/api/chat", model="alias", target="small")], policy)


async def test_a_request_that_names_no_model_passes() -> None:
    limit([Outbound(method="GET", path="/api/version")], KeyPolicy(models=()))
