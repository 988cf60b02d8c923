"""The official `ollama` client, unmodified, sync and async, at both places where an OLLAMA_HOST may point."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from kept_gateway import ALONE, in_one_loop
from kept_gateway import alone as alone
from kept_gateway import gateway as gateway
from kept_gateway import kept_gateways as kept_gateways
from kept_gateway import node as node
from kept_gateway import served as served
from ollama import AsyncClient, Client, ResponseError
from running import RunningGateway

from parallama.identity.keys import new_key
from parallama.testing import Answer, FakeOllama, Fault

pytestmark = in_one_loop

MODEL, THINKER, EMBEDDER = "llama3.2:1b", "qwen3:0.6b", "nomic-embed-text"
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]
LINES = [b'{"message":{"role":"assistant","content":"%d"},"done":false}\n' % number for number in range(9)]

Ask = Callable[..., Awaitable[Any]]
"""Calls a method of a client by its name; a stream comes back as the list of its parts."""


async def with_client(host: str, key: str | None, method: str, **arguments: Any) -> Any:
    """One call of the blocking client, in a thread as a program of its own would be."""

    def call() -> Any:
        with Client(host, headers=_headers(key)) as client:
            got = getattr(client, method)(**arguments)
            return list(got) if isinstance(got, Iterator) else got

    return await asyncio.to_thread(call)


async def with_async_client(host: str, key: str | None, method: str, **arguments: Any) -> Any:
    """One call of the asyncio client."""
    async with AsyncClient(host, headers=_headers(key)) as client:
        got = await getattr(client, method)(**arguments)
        return [part async for part in got] if isinstance(got, AsyncIterator) else got


def _headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}


@pytest.fixture
def gateway_settings() -> dict[str, Any]:
    return {"usage": {"flush_ms": 1}}


@pytest.fixture(params=["", "/ollama"], ids=["root", "path"])
def host(request: pytest.FixtureRequest, gateway: RunningGateway) -> str:
    return gateway.url + str(request.param)


@pytest.fixture(params=[with_client, with_async_client], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest, host: str) -> Ask:
    """`ask(key, method, **arguments)`."""

    async def ask(key: str | None, method: str, **arguments: Any) -> Any:
        return await request.param(host, key, method, **arguments)

    return ask


def counted(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(row["operation"], row["streamed"], row["prompt_tokens"], row["output_tokens"]) for row in rows]


@ALONE
async def test_lists_and_details_are_the_nodes_own(gateway: RunningGateway, node: FakeOllama, ask: Ask) -> None:
    await ask(gateway.key, "generate", model=MODEL)  # loads it
    listed = await ask(gateway.key, "list")
    loaded = await ask(gateway.key, "ps")
    shown = await ask(gateway.key, "show", model=MODEL)
    assert [model.model for model in listed.models] == [entry["name"] for entry in node.models.tags()]
    assert [model.model for model in loaded.models] == [MODEL]
    assert shown.capabilities == ["completion", "tools"]
    rows = await gateway.rows(4)
    assert [row["operation"] for row in rows] == ["generate", "list", "list", "show"]
    assert {row["outcome"] for row in rows} == {"ok"}


async def test_chats_of_every_kind_work_and_are_counted(gateway: RunningGateway, ask: Ask) -> None:
    def weather(city: str) -> str:
        """Tell the weather.

        Args:
            city: where
        """
        return city

    wanted = [{"role": "user", "content": "Use the tool weather for Paris."}]
    seen = [{"role": "user", "content": "What is this?", "images": [b"\x89PNG, nearly"]}]
    once = await ask(gateway.key, "chat", model=MODEL, messages=QUESTION)
    parts = await ask(gateway.key, "chat", model=MODEL, messages=QUESTION, stream=True)
    called = await ask(gateway.key, "chat", model=MODEL, messages=wanted, tools=[weather])
    thought = await ask(gateway.key, "chat", model=THINKER, messages=QUESTION, think=True)
    looked = await ask(gateway.key, "chat", model=MODEL, messages=seen, options={"num_predict": 2})

    assert "".join(part.message.content or "" for part in parts) == once.message.content
    assert len(parts) > 2
    assert called.message.tool_calls[0].function.name == "weather"
    assert thought.message.thinking
    assert looked.eval_count == 2
    ends = [(once, False), (parts[-1], True), (called, False), (thought, False), (looked, False)]
    expected = [("chat", streamed, end.prompt_eval_count, end.eval_count) for end, streamed in ends]
    assert counted(await gateway.rows(5)) == expected


async def test_generations_of_every_kind_work_and_are_counted(gateway: RunningGateway, ask: Ask) -> None:
    asked = {"model": MODEL, "prompt": "Why?"}
    once = await ask(gateway.key, "generate", **asked)
    parts = await ask(gateway.key, "generate", **asked, stream=True)
    document = await ask(gateway.key, "generate", **asked, format="json")
    raw = await ask(gateway.key, "generate", **asked, raw=True)
    short = await ask(gateway.key, "generate", **asked, options={"num_predict": 3, "temperature": 0.1})

    assert "".join(part.response for part in parts) == once.response
    assert parts[-1].done
    assert isinstance(json.loads(document.response), dict)
    assert raw.context is None
    assert (short.eval_count, short.done_reason) == (3, "length")
    ends = [(once, False), (parts[-1], True), (document, False), (raw, False), (short, False)]
    expected = [("generate", streamed, end.prompt_eval_count, end.eval_count) for end, streamed in ends]
    assert counted(await gateway.rows(5)) == expected


async def test_embeddings_old_and_new_work_and_are_counted(gateway: RunningGateway, ask: Ask) -> None:
    new = await ask(gateway.key, "embed", model=EMBEDDER, input=["the sky", "the sea"], dimensions=8)
    old = await ask(gateway.key, "embeddings", model=EMBEDDER, prompt="the sky")
    assert [len(vector) for vector in new.embeddings] == [8, 8]
    assert len(old.embedding) == 768
    expected = [("embed", False, new.prompt_eval_count, None), ("embed", False, None, None)]
    assert counted(await gateway.rows(2)) == expected


@ALONE
async def test_an_admin_manages_the_models_of_the_node(
    gateway: RunningGateway, node: FakeOllama, ask: Ask, tmp_path: Path
) -> None:
    weights = b"not a model" * 10_000
    (tmp_path / "m.gguf").write_bytes(weights)
    key = gateway.admin_key

    digest = await ask(key, "create_blob", path=tmp_path / "m.gguf")
    made = await ask(key, "create", model="mine", files={"m.gguf": digest})
    steps = await ask(key, "create", model="brief", from_="mine", system="Be brief.", stream=True)
    copied = await ask(key, "copy", source="brief", destination="shorter")
    pulled = await ask(key, "pull", model="gemma3:1b")
    progress = await ask(key, "pull", model="gemma3:4b", stream=True)
    pushed = await ask(key, "push", model="mine", stream=True)
    deleted = await ask(key, "delete", model="brief")

    assert digest == "sha256:" + sha256(weights).hexdigest()
    assert node.seen(f"/api/blobs/{digest}")[0].body == weights
    assert {made.status, steps[-1].status, copied.status, pulled.status} == {"success"}
    assert {progress[-1].status, pushed[-1].status, deleted.status} == {"success"}
    assert any(step.total and step.completed == step.total for step in progress)
    there = {entry["name"] for entry in node.models.tags()}
    assert there >= {"mine:latest", "shorter:latest", "gemma3:1b", "gemma3:4b"}
    assert "brief:latest" not in there
    rows = await gateway.rows(8)
    assert [row["operation"] for row in rows] == ["manage"] * 8
    assert [row["streamed"] for row in rows] == [False, False, True, False, False, True, True, False]
    assert {(row["outcome"], row["prompt_tokens"], row["output_tokens"]) for row in rows} == {("ok", None, None)}


@ALONE
async def test_refusals_reach_the_client_as_response_errors(
    gateway: RunningGateway, node: FakeOllama, ask: Ask
) -> None:
    chat = {"method": "chat", "messages": QUESTION}
    assert await refused(ask(new_key(), **chat, model=MODEL)) == 401
    assert await refused(ask(None, **chat, model=MODEL, stream=True)) == 401
    assert await refused(ask(gateway.key, **chat, model="nosuch")) == 404
    assert await refused(ask(gateway.key, **chat, model="nosuch", stream=True)) == 404
    assert await refused(ask(gateway.key, "pull", model="gemma3:1b")) == 403
    assert await refused(ask(gateway.key, "delete", model=MODEL)) == 403
    assert await refused(ask(gateway.key, **chat, model="gpt-oss:120b-cloud")) == 403
    assert not node.seen("/api/pull")
    rows = await gateway.rows(5)
    assert [row["status"] for row in rows] == [404, 404, 403, 403, 403]
    assert {row["outcome"] for row in rows} == {"refused"}
    assert {row["username"] for row in rows} == {"alice"}


async def refused(call: Awaitable[Any]) -> int:
    with pytest.raises(ResponseError) as caught:
        await call
    assert caught.value.error
    return int(caught.value.status_code)


@pytest.mark.parametrize(
    "broken",
    [
        Answer(lines=LINES, fault=Fault.CLOSE, after_body=sum(map(len, LINES[:2]))),
        Answer(lines=LINES, fault=Fault.RESET, after_body=sum(map(len, LINES[:2]))),
        Answer(fault=Fault.ERROR_LINE, after_lines=3),
        Answer(fault=Fault.NO_DONE),
    ],
    ids=["closes", "resets", "tells", "stops"],
)
async def test_a_node_that_breaks_mid_stream_is_a_response_error(
    gateway: RunningGateway, node: FakeOllama, ask: Ask, broken: Answer
) -> None:
    node.cue(broken, "/api/chat")
    with pytest.raises(ResponseError):
        await ask(gateway.key, "chat", model=MODEL, messages=QUESTION, stream=True)
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["streamed"]) == (502, "failed", True)
    assert row["estimated"]
    assert row["output_tokens"] >= 1


async def test_half_a_line_is_never_taken_for_an_answer(gateway: RunningGateway, node: FakeOllama, ask: Ask) -> None:
    node.cue(Answer(lines=LINES, fault=Fault.CLOSE, after_body=len(LINES[0]) + 20), "/api/chat")
    with pytest.raises((ResponseError, json.JSONDecodeError)):
        await ask(gateway.key, "chat", model=MODEL, messages=QUESTION, stream=True)
    assert (await gateway.row())["outcome"] == "failed"


async def test_a_node_that_breaks_a_document_is_a_bad_gateway(
    gateway: RunningGateway, node: FakeOllama, ask: Ask
) -> None:
    node.cue(Answer(fault=Fault.CLOSE, after_body=60), "/api/chat")
    assert await refused(ask(gateway.key, "chat", model=MODEL, messages=QUESTION)) == 502
    assert (await gateway.row())["outcome"] == "failed"


async def test_the_key_may_come_from_ollamas_own_environment_variable(
    gateway: RunningGateway, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", gateway.key)
    await ask(None, "list")
    assert (await gateway.row())["username"] == "alice"
