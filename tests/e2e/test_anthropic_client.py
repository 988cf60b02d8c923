"""The official `anthropic` client, unmodified, sync and async, at both places where its base_url may point."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic_fixtures import ASKED, EMBEDDER, MODEL, QUESTION, WAYS, Ask, asking, call, cue, sent, text_of
from running import RunningGateway
from shared_gateway import gateway as gateway
from shared_gateway import gateway_settings as gateway_settings
from shared_gateway import in_one_loop
from shared_gateway import node as node
from shared_gateway import served as served

from parallama.testing import FakeOllama

pytestmark = in_one_loop

PNG = base64.b64encode(b"\x89PNG, nearly").decode()
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}


@pytest.fixture(params=WAYS)
def ask(request: pytest.FixtureRequest, gateway: RunningGateway) -> Ask:
    return asking(gateway, request.param)


def check_row(row: dict[str, Any], message: Any, *, streamed: bool = False) -> None:
    """What the client was told is what is booked."""
    assert (row["gateway"], row["operation"], row["status"], row["outcome"]) == ("anthropic", "chat", 200, "ok")
    assert (row["prompt_tokens"], row["output_tokens"]) == (message.usage.input_tokens, message.usage.output_tokens)
    assert (row["streamed"], row["estimated"], row["username"]) == (streamed, False, "alice")
    assert row["model_asked"] == message.model


@pytest.mark.parametrize("kind", [Anthropic, AsyncAnthropic])
@pytest.mark.parametrize("path", ["", "/anthropic"])
async def test_both_clients_are_answered_at_both_places(gateway: RunningGateway, kind: Any, path: str) -> None:
    client = kind(base_url=gateway.url + path, api_key=gateway.key, max_retries=0)
    message = await call(client, "messages.create", **ASKED)
    assert (message.type, message.role, message.model) == ("message", "assistant", MODEL)
    assert message.id.startswith("msg_")
    check_row(await gateway.row(), message)


async def test_a_text_is_the_nodes_with_its_counts(gateway: RunningGateway, node: FakeOllama, ask: Ask) -> None:
    cue(node, {"content": "Blue "}, {"content": "is 🌍."}, prompt=24, output=13)
    message = await ask("messages.create", **ASKED)
    assert [(block.type, block.text) for block in message.content] == [("text", "Blue is 🌍.")]
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert (message.usage.input_tokens, message.usage.output_tokens) == (24, 13)
    body = await sent(node)
    assert (body["model"], body["messages"], body["stream"]) == (MODEL, QUESTION, True)
    assert body["options"] == {"num_predict": 64}
    check_row(await gateway.row(), message)


async def test_a_stream_says_what_the_document_says(gateway: RunningGateway, ask: Ask) -> None:
    whole = await ask("messages.create", **ASKED)
    events = await ask("messages.create", **ASKED, stream=True)
    deltas = [event.delta.text for event in events if event.type == "content_block_delta"]
    assert len(deltas) > 2
    assert "".join(deltas) == text_of(whole)
    (last,) = [event for event in events if event.type == "message_delta"]
    assert last.delta.stop_reason == whole.stop_reason == "end_turn"
    assert last.usage.output_tokens == whole.usage.output_tokens
    assert events[-1].type == "message_stop"
    rows = await gateway.rows(2)
    check_row(rows[0], whole)
    assert (rows[1]["streamed"], rows[1]["output_tokens"]) == (True, last.usage.output_tokens)


@pytest.mark.parametrize(
    "system",
    [
        "Be brief.",
        [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    ],
    ids=["text", "blocks"],
)
async def test_the_system_prompt_is_the_first_message(node: FakeOllama, ask: Ask, system: Any) -> None:
    await ask("messages.create", **ASKED, system=system)
    assert (await sent(node))["messages"] == [{"role": "system", "content": "Be brief."}, *QUESTION]


async def test_several_system_blocks_are_all_there(node: FakeOllama, ask: Ask) -> None:
    blocks = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]
    await ask("messages.create", **ASKED, system=blocks)
    first, *_ = (await sent(node))["messages"]
    assert first["role"] == "system"
    assert first["content"].startswith("Be brief.")
    assert first["content"].endswith("Be kind.")


async def test_an_image_reaches_the_node_beside_its_text(node: FakeOllama, ask: Ask) -> None:
    content = [IMAGE, {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral"}}]
    await ask("messages.create", **{**ASKED, "messages": [{"role": "user", "content": content}]})
    (message,) = (await sent(node))["messages"]
    assert (message["role"], message["content"], message["images"]) == ("user", "What is this?", [PNG])


async def test_a_plain_text_document_is_part_of_the_prompt(node: FakeOllama, ask: Ask) -> None:
    source = {"type": "text", "media_type": "text/plain", "data": "The sky is green."}
    content = [{"type": "document", "source": source, "title": "Sky"}, {"type": "text", "text": "Is it?"}]
    await ask("messages.create", **{**ASKED, "messages": [{"role": "user", "content": content}]})
    (message,) = (await sent(node))["messages"]
    assert "The sky is green." in message["content"]
    assert message["content"].endswith("Is it?")


async def test_empty_text_blocks_and_equal_roles_in_a_row_pass(node: FakeOllama, ask: Ask) -> None:
    empty = {"type": "text", "text": ""}
    asked = [{"role": "user", "content": "First."}, {"role": "user", "content": [empty, {**empty, "text": "Second."}]}]
    await ask("messages.create", **{**ASKED, "messages": asked})
    messages = (await sent(node))["messages"]
    assert [message["role"] for message in messages] == ["user", "user"]
    assert [message["content"] for message in messages] == ["First.", "Second."]


async def test_a_prefilled_answer_reaches_the_node_as_it_is(node: FakeOllama, ask: Ask) -> None:
    asked = [*QUESTION, {"role": "assistant", "content": "Because"}]
    await ask("messages.create", **{**ASKED, "messages": asked})
    assert (await sent(node))["messages"] == asked


async def test_sampling_and_stops_become_the_nodes_options(node: FakeOllama, ask: Ask) -> None:
    old = {"temperature": 0.5, "top_p": 0.9, "top_k": 40}
    await ask("messages.create", **ASKED, stop_sequences=["!", "\n"], extra_body=old)
    assert (await sent(node))["options"] == {**old, "stop": ["!", "\n"], "num_predict": 64}


async def test_a_stop_sequence_ends_the_answer(ask: Ask) -> None:
    whole = await ask("messages.create", **ASKED)
    cut = await ask("messages.create", **ASKED, stop_sequences=[" simulated"])
    assert text_of(whole).startswith("This is a simulated")
    assert text_of(cut) == "This is a"
    assert cut.stop_reason in ("end_turn", "stop_sequence")


@pytest.mark.parametrize("stream", [False, True])
async def test_max_tokens_bounds_the_answer(gateway: RunningGateway, node: FakeOllama, ask: Ask, stream: bool) -> None:
    got = await ask("messages.create", **{**ASKED, "max_tokens": 3, "stream": stream})
    assert (await sent(node))["options"] == {"num_predict": 3}
    reason = next(e.delta.stop_reason for e in got if e.type == "message_delta") if stream else got.stop_reason
    assert reason == "max_tokens"
    assert (await gateway.row())["output_tokens"] == 3


async def test_an_answer_of_nothing_has_no_blocks(node: FakeOllama, ask: Ask) -> None:
    cue(node, output=1)
    message = await ask("messages.create", **ASKED)
    assert (message.content, message.stop_reason) == ([], "end_turn")
    cue(node, output=1)
    events = await ask("messages.create", **ASKED, stream=True)
    assert [event.type for event in events][-2:] == ["message_delta", "message_stop"]


async def test_tokens_are_counted_without_asking_a_node(gateway: RunningGateway, node: FakeOllama, ask: Ask) -> None:
    counted = {"model": MODEL, "messages": QUESTION}
    few = await ask("messages.count_tokens", **counted)
    many = await ask("messages.count_tokens", **counted, system="Be brief, please. " * 50)
    assert 1 <= few.input_tokens < many.input_tokens
    assert not node.seen("/api/chat")
    assert not node.seen("/api/generate")
    assert {row["output_tokens"] for row in await gateway.rows(2)} == {None}


async def test_the_models_are_listed_and_found_one_by_one(gateway: RunningGateway, node: FakeOllama, ask: Ask) -> None:
    page = await ask("models.list")
    ids = [model.id for model in page.data]
    assert ids == [entry["name"] for entry in node.models.tags()]
    assert {model.type for model in page.data} == {"model"}
    assert all(model.display_name and model.created_at.tzinfo for model in page.data)
    assert (page.first_id, page.last_id, page.has_more) == (ids[0], ids[-1], False)
    assert (await ask("models.retrieve", model_id=MODEL)).id == MODEL
    assert (await ask("models.retrieve", model_id=EMBEDDER)).type == "model"


async def test_pages_of_models_join_to_the_whole_list(gateway: RunningGateway, node: FakeOllama, ask: Ask) -> None:
    names = [entry["name"] for entry in node.models.tags()]
    first = await ask("models.list", limit=2)
    rest = await ask("models.list", limit=2, after_id=first.data[-1].id)
    before = await ask("models.list", before_id=rest.data[0].id)
    assert [model.id for model in [*first.data, *rest.data]] == names
    assert (first.has_more, rest.has_more) == (True, False)
    assert [model.id for model in before.data] == names[:2]


@pytest.mark.parametrize("path", ["/v1/models", f"/v1/models/{MODEL}"])
async def test_the_version_header_decides_in_which_shape_models_are_told(gateway: RunningGateway, path: str) -> None:
    async def keys(**headers: str) -> set[str]:
        async with gateway.http.get(gateway.url + path, headers=gateway.auth | headers) as answer:
            assert answer.status == 200
            return set(json.loads(await answer.read()))

    theirs = await keys(**{"anthropic-version": "2023-06-01"})
    assert theirs >= ({"has_more", "first_id"} if path == "/v1/models" else {"type", "display_name"})
    assert "object" in await keys()


async def test_the_beta_client_is_answered_like_any(gateway: RunningGateway, node: FakeOllama, ask: Ask) -> None:
    beta = await ask("beta.messages.create", **ASKED, betas=["files-api-2025-04-14"])
    plain = await ask("messages.create", **ASKED)
    events = await ask("beta.messages.create", **ASKED, stream=True, extra_query={"beta": "true"})
    counted = await ask("beta.messages.count_tokens", model=MODEL, messages=QUESTION)
    assert text_of(beta) == text_of(plain)
    assert events[-1].type == "message_stop"
    assert counted.input_tokens >= 1
    assert await sent(node, 0) == await sent(node, 1)
