"""The Python client, waiting and awaited, with both gateways, against a real server."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from databases import fresh_database
from python_client import Client, awaited, foreign
from running import RunningGateway, eventually, running_gateway

from parallama import AsyncParallamaClient, NotAllowed, NotAuthenticated, ParallamaClient
from parallama.errors import NotFound, Unavailable, UpstreamFailed
from parallama.identity.passwords import Passwords
from parallama.identity.users import Users
from parallama.testing import Answer as Cue
from parallama.testing import FakeOllama, Fault, fake_ollama

__all__ = ["awaited"]
pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "llama3.2:1b"
PASSWORD = "correct horse battery staple"
PAGE = Path(__file__).parents[2] / "docs" / "client.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


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
    options = json.loads(node.seen("/api/generate")[-1].body)["options"]
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


async def test_a_stream_that_breaks_off_has_failed(client: Client, node: FakeOllama) -> None:
    heard: list[str] = []
    node.cue(Cue(fault=Fault.RESET, after_body=1000), "/api/generate")
    with pytest.raises(UpstreamFailed):
        await client(lambda one: _heard(one.generate(model=MODEL, prompt="x", stream=True), heard))
    assert "".join(heard).startswith("This is a simulated answer")


def _heard(stream: Any, heard: list[str]) -> Any:
    """The stream, each piece of which is noted as it comes."""
    if hasattr(stream, "__await__"):
        return _heard_awaited(stream, heard)
    return [heard.append(delta.text) for delta in stream]


async def _heard_awaited(stream: Any, heard: list[str]) -> None:
    async for delta in await stream:
        heard.append(delta.text)


async def test_errors_are_those_of_the_gateway(client: Client) -> None:
    with pytest.raises(NotFound) as caught:
        await client(lambda one: one.generate(model="no-such-model", prompt="x"))
    assert (caught.value.status, "no-such-model" in str(caught.value)) == (404, True)


async def test_a_busy_gateway_is_asked_again(awaited: bool, gateway: RunningGateway, node: FakeOllama) -> None:
    client, before = Client(awaited, {"base_url": gateway.url, "api_key": gateway.key}), len(node.requests)
    node.cue(Cue(status=503, error="busy"), "/api/generate")
    assert (await client(lambda one: one.generate(model=MODEL, prompt="x"))).text
    assert len([seen for seen in node.requests[before:] if seen.path == "/api/generate"]) == 2


async def test_a_gateway_that_stays_busy_is_asked_as_often_as_was_said(awaited: bool) -> None:
    async with foreign((503, "busy")) as server:
        client = Client(awaited, {"base_url": server.url, "api_key": "x", "max_retries": 3})
        with pytest.raises(Unavailable, match="busy"):
            await client(lambda one: one.generate(model=MODEL, prompt="x"))
        assert server.asked == ["POST"] * 4


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

    async def renewals() -> int:
        async with gateway.database.connection() as one:
            return int(await one.fetchval("SELECT count(*) FROM refresh_tokens WHERE rotated_at IS NOT NULL"))

    async def renewed(listed: Callable[[], Awaitable[Any]], before: Any) -> bool:
        """The gateway hears soon, not at once, that the token has ended."""
        assert await listed() == before
        return await renewals() > earlier

    earlier = await renewals()
    given = {"base_url": gateway.url, "username": "carol", "password": PASSWORD}
    if awaited:
        async with AsyncParallamaClient(**given) as client:
            before = await client.list_models()
            await ended()
            await eventually(lambda: renewed(client.list_models, before))
    else:
        waiting = await asyncio.to_thread(ParallamaClient, **given)
        with waiting:
            before = await asyncio.to_thread(waiting.list_models)
            await ended()
            await eventually(lambda: renewed(lambda: asyncio.to_thread(waiting.list_models), before))


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


@pytest.mark.parametrize("example", EXAMPLES)
async def test_the_examples_of_the_page_run(
    example: str, gateway: RunningGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    code = compile(example.replace("http://127.0.0.1:8000", gateway.url), PAGE, "exec")
    await asyncio.to_thread(exec, code, {"key": gateway.admin_key})
    assert len(capsys.readouterr().out.splitlines()) >= 3


@pytest.mark.parametrize(("name", "stream"), [("ollama", False), ("openai", False), ("ollama", True)])
async def test_a_server_that_is_no_parallama_has_failed(awaited: bool, name: str, stream: bool) -> None:
    async with foreign((200, "<html>\n<p>Welcome</p>\n")) as server:
        client = Client(awaited, {"base_url": server.url, "api_key": "x", "gateway": name})
        with pytest.raises(UpstreamFailed):
            await client(lambda one: one.generate(model=MODEL, prompt="x", stream=stream))
