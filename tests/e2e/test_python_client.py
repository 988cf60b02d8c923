"""The Python client, waiting and awaited, with both gateways, against a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
import pytest_asyncio
from databases import fresh_database
from running import RunningGateway, running_gateway

from parallama import AsyncParallamaClient, NotAllowed, NotAuthenticated, ParallamaClient
from parallama.errors import NotFound, Unavailable
from parallama.identity.passwords import Passwords
from parallama.identity.users import Users
from parallama.testing import Answer as Cue
from parallama.testing import FakeOllama, fake_ollama

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "llama3.2:1b"
PASSWORD = "correct horse battery staple"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(postgres: str) -> AsyncIterator[tuple[RunningGateway, FakeOllama]]:
    async with (
        fresh_database(postgres) as url,
        fake_ollama() as node,
        running_gateway(url, node.url) as gateway,
        Passwords().running() as passwords,
    ):
        await Users(gateway.database).create("carol", role="premium", password_hash=await passwords.hash(PASSWORD))
        yield gateway, node


@pytest.fixture
def gateway(served: tuple[RunningGateway, FakeOllama]) -> RunningGateway:
    return served[0]


@pytest.fixture
def node(served: tuple[RunningGateway, FakeOllama]) -> FakeOllama:
    return served[1]


class Client:
    """Either client, used alike."""

    def __init__(self, awaited: bool, given: Mapping[str, Any]) -> None:
        self._awaited, self._given = awaited, given

    async def __call__(self, call: Callable[[Any], Any]) -> Any:
        """What `call` gives of the client; a stream as the list of its pieces."""
        if not self._awaited:
            return await asyncio.to_thread(self._waiting, call)
        async with AsyncParallamaClient(**self._given) as client:
            found = await call(client)
            return [delta async for delta in found] if hasattr(found, "__aiter__") else found

    def _waiting(self, call: Callable[[Any], Any]) -> Any:
        with ParallamaClient(**self._given) as client:
            found = call(client)
            return list(found) if hasattr(found, "__next__") else found


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def awaited(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=["ollama", "openai"])
def client(request: pytest.FixtureRequest, awaited: bool, gateway: RunningGateway) -> Client:
    return Client(awaited, {"base_url": gateway.url, "api_key": gateway.key, "gateway": request.param})


async def test_models_are_listed(client: Client, node: FakeOllama) -> None:
    assert MODEL in [model.name for model in await client(lambda one: one.list_models())]


async def test_a_prompt_is_answered_with_its_usage(client: Client) -> None:
    found = await client(lambda one: one.generate(model=MODEL, prompt="Why is the sky blue?", temperature=0.7))
    assert (found.model, bool(found.text)) == (MODEL, True)
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens > 0


async def test_completions_are_the_same(client: Client) -> None:
    asked = {"model": MODEL, "prompt": "Why is the sky blue?", "temperature": 0.7}
    created = await client(lambda one: one.completions.create(**asked))
    assert created.text == (await client(lambda one: one.generate(**asked))).text


async def test_parameters_reach_the_node(client: Client, node: FakeOllama) -> None:
    await client(lambda one: one.generate(model=MODEL, prompt="x", temperature=0.25, max_tokens=7))
    options = json.loads(node.requests[-1].body)["options"]
    assert (options["temperature"], options["num_predict"]) == (0.25, 7)


async def test_a_chat_is_answered(client: Client) -> None:
    found = await client(lambda one: one.chat(model=MODEL, messages=[{"role": "user", "content": "Hello"}]))
    assert (found.message["role"], bool(found.text)) == ("assistant", True)
    assert found.usage.completion_tokens > 0


async def test_texts_become_vectors(client: Client) -> None:
    found = await client(lambda one: one.embeddings(model="nomic-embed-text:latest", input=["a", "b"]))
    assert len(found.embeddings) == 2
    assert all(isinstance(number, float) for number in found.embeddings[0])


@pytest.mark.parametrize("kind", ["generate", "chat"])
async def test_a_stream_says_what_the_whole_answer_says(client: Client, kind: str) -> None:
    asked = {"generate": {"prompt": "Hello"}, "chat": {"messages": [{"role": "user", "content": "Hello"}]}}[kind]
    deltas = await client(lambda one: getattr(one, kind)(model=MODEL, stream=True, **asked))
    whole = await client(lambda one: getattr(one, kind)(model=MODEL, **asked))
    assert len(deltas) > 2
    assert "".join(delta.text for delta in deltas) == whole.text
    assert [delta.done for delta in deltas] == [*[False] * (len(deltas) - 1), True]
    assert deltas[-1].usage == whole.usage


async def test_errors_are_those_of_the_gateway(client: Client) -> None:
    with pytest.raises(NotFound) as caught:
        await client(lambda one: one.generate(model="no-such-model", prompt="x"))
    assert (caught.value.status, "no-such-model" in str(caught.value)) == (404, True)


async def test_a_busy_gateway_is_asked_again(client: Client, node: FakeOllama) -> None:
    for _ in range(2):
        node.cue(Cue(status=503, error="busy"), "/api/generate")
    assert (await client(lambda one: one.generate(model=MODEL, prompt="x"))).text


async def test_a_wrong_key_is_told(awaited: bool, gateway: RunningGateway) -> None:
    with pytest.raises(NotAuthenticated):
        await Client(awaited, {"base_url": gateway.url, "api_key": "plm_wrong"})(lambda one: one.list_models())


async def test_a_gateway_that_is_not_there_is_unavailable(awaited: bool) -> None:
    with pytest.raises(Unavailable, match=r"the gateway at http://127.0.0.1:1 does not answer"):
        await Client(awaited, {"base_url": "http://127.0.0.1:1", "api_key": "x"})(lambda one: one.list_models())


@pytest.mark.parametrize("given", [{}, {"api_key": "x", "username": "u"}, {"username": "u"}])
async def test_one_credential_is_needed(given: dict[str, str], awaited: bool) -> None:
    with pytest.raises(ValueError, match="give either api_key=, or username= and password="):
        await Client(awaited, given)(lambda one: one.list_models())


async def test_a_login_is_renewed_when_its_token_has_ended(awaited: bool, gateway: RunningGateway) -> None:
    async def ended() -> None:
        async with gateway.database.connection() as one:
            await one.execute("UPDATE sessions SET generation = generation + 1")

    given = {"base_url": gateway.url, "username": "carol", "password": PASSWORD}
    if awaited:
        async with AsyncParallamaClient(**given) as client:
            before = await client.list_models()
            await ended()
            assert await client.list_models() == before
    else:
        waiting = await asyncio.to_thread(ParallamaClient, **given)
        with waiting:
            before = await asyncio.to_thread(waiting.list_models)
            await ended()
            assert await asyncio.to_thread(waiting.list_models) == before
    async with gateway.database.connection() as one:
        assert await one.fetchval("SELECT count(*) FROM refresh_tokens WHERE rotated_at IS NOT NULL") >= 1


async def test_a_wrong_password_is_told(awaited: bool, gateway: RunningGateway) -> None:
    with pytest.raises(NotAuthenticated) as caught:
        await Client(awaited, {"base_url": gateway.url, "username": "carol", "password": "wrong"})(
            lambda one: one.list_models()
        )
    assert caught.value.code == "invalid_credentials"


async def test_what_the_caller_may_not_do_is_told(awaited: bool, gateway: RunningGateway) -> None:
    async with gateway.database.connection() as one:
        await one.execute(
            "UPDATE api_keys SET models = '{}' WHERE user_id = (SELECT id FROM users WHERE username = 'alice')"
        )
    try:
        with pytest.raises(NotAllowed) as caught:
            await _until_refused(
                Client(awaited, {"base_url": gateway.url, "api_key": gateway.key, "gateway": "openai"})
            )
        assert caught.value.code == "model_access_denied"
    finally:
        async with gateway.database.connection() as one:
            await one.execute("UPDATE api_keys SET models = NULL")


async def _until_refused(client: Client) -> None:
    async with asyncio.timeout(30):
        while True:
            await client(lambda one: one.generate(model=MODEL, prompt="x"))
