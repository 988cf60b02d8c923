"""Chats through the official `openai` client: texts, roles, limits, choices, images, and what is counted."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from asking import Gate
from openai_clients import MODEL, QUESTION, Ai, asked, booked, says, text_of
from running import CEILING_S, RunningGateway
from shared_gateway import ai as ai
from shared_gateway import gateway as gateway
from shared_gateway import gateway_settings as gateway_settings
from shared_gateway import in_one_loop
from shared_gateway import node as node
from shared_gateway import served as served

from parallama.app import POOL
from parallama.testing import Answer, FakeOllama

pytestmark = in_one_loop

PNG = b"\x89PNG\r\n\x1a\n, nearly"


def image(url: str) -> list[dict[str, Any]]:
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "user", "content": parts}]


async def test_a_chat_is_answered_whole(gateway: RunningGateway, node: FakeOllama, ai: Ai) -> None:
    node.cue(says("The sky ", "is blue: 🌍\u2028."))
    got = await ai.chat()
    (choice,) = got.choices
    assert (got.object, got.model) == ("chat.completion", MODEL)
    assert (choice.index, choice.finish_reason) == (0, "stop")
    assert (choice.message.role, choice.message.content) == ("assistant", "The sky is blue: 🌍\u2028.")
    assert not choice.message.tool_calls
    assert (got.usage.prompt_tokens, got.usage.completion_tokens, got.usage.total_tokens) == (7, 5, 12)
    assert await booked(gateway) == (7, 5)
    assert (await gateway.row())["streamed"] is False


async def test_a_stream_says_the_same_piece_by_piece(gateway: RunningGateway, node: FakeOllama, ai: Ai) -> None:
    node.cue(says("The sky ", "is blue: 🌍\u2028."))
    parts = await ai.chat(stream=True)
    assert text_of(parts) == "The sky is blue: 🌍\u2028."
    assert {part.object for part in parts} == {"chat.completion.chunk"}
    assert {part.model for part in parts} == {MODEL}
    assert len({(part.id, part.created) for part in parts}) == 1
    choices = [part.choices[0] for part in parts]
    assert [choice.delta.role for choice in choices if choice.delta.role] == ["assistant"]
    assert choices[0].delta.role == "assistant"
    assert [choice.finish_reason for choice in choices] == [*[None] * (len(choices) - 1), "stop"]
    assert choices[-1].delta.model_dump(exclude_none=True) == {}
    assert await booked(gateway) == (7, 5)
    assert (await gateway.row())["streamed"] is True


async def test_answers_have_ids_of_their_own(ai: Ai) -> None:
    ids = [(await ai.chat()).id for _ in range(3)]
    assert len(set(ids)) == 3
    assert all(one.startswith("chatcmpl-") for one in ids)


async def test_an_empty_answer_is_still_an_answer(node: FakeOllama, ai: Ai) -> None:
    node.cue(says(), times=2)
    once = await ai.chat()
    parts = await ai.chat(stream=True)
    assert (once.choices[0].message.content, once.choices[0].finish_reason) == ("", "stop")
    assert text_of(parts) == ""
    assert parts[0].choices[0].delta.role == "assistant"
    assert parts[-1].choices[0].finish_reason == "stop"


async def test_text_on_the_done_line_is_not_lost(node: FakeOllama, ai: Ai) -> None:
    node.cue(says("The sky", message={"content": " is blue."}), times=2)
    assert (await ai.chat()).choices[0].message.content == "The sky is blue."
    assert text_of(await ai.chat(stream=True)) == "The sky is blue."


@pytest.mark.parametrize("reason", ["load", "unload", None])
async def test_a_foreign_reason_of_the_end_is_a_stop(node: FakeOllama, ai: Ai, reason: str | None) -> None:
    node.cue(says("Yes.", done_reason=reason), times=2)
    assert (await ai.chat()).choices[0].finish_reason == "stop"
    assert (await ai.chat(stream=True))[-1].choices[0].finish_reason == "stop"


async def test_a_developer_speaks_as_the_system(node: FakeOllama, ai: Ai) -> None:
    roles = ["system", "developer", "user", "assistant", "user"]
    await ai.chat(messages=[{"role": role, "content": f"as {role}"} for role in roles])
    said = [(message["role"], message["content"]) for message in (await asked(node))["messages"]]
    assert said[:2] == [("system", "as system"), ("system", "as developer")]
    assert said[2:] == [(role, f"as {role}") for role in roles[2:]]


async def test_parts_of_a_message_stay_one_message(node: FakeOllama, ai: Ai) -> None:
    parts = [{"type": "text", "text": "Why is"}, {"type": "text", "text": "the sky blue?"}]
    await ai.chat(messages=[{"role": "user", "content": parts}])
    (message,) = (await asked(node))["messages"]
    assert message["content"].split() == ["Why", "is", "the", "sky", "blue?"]


async def test_nothing_is_chosen_that_was_not_asked_for(node: FakeOllama, ai: Ai) -> None:
    await ai.chat()
    sent = await asked(node)
    assert sent["stream"] is True
    assert not sent.get("options")
    assert not {"think", "format", "tools"} & {key for key, value in sent.items() if value is not None}


async def test_samplers_reach_the_node_as_options(node: FakeOllama, ai: Ai) -> None:
    samplers = {"temperature": 0.5, "top_p": 0.9, "seed": 3, "frequency_penalty": 0.25, "presence_penalty": -0.5}
    await ai.chat(**samplers)
    assert (await asked(node))["options"] == samplers


@pytest.mark.parametrize(("stop", "sent"), [("sky", ["sky"]), (["sky", "sea"], ["sky", "sea"])])
async def test_stops_reach_the_node_as_a_list(node: FakeOllama, ai: Ai, stop: Any, sent: list[str]) -> None:
    await ai.chat(stop=stop)
    assert (await asked(node))["options"] == {"stop": sent}


@pytest.mark.parametrize(
    ("given", "limit"),
    [({"max_completion_tokens": 3}, 3), ({"max_tokens": 4}, 4), ({"max_tokens": 9, "max_completion_tokens": 3}, 3)],
    ids=["new", "old", "both"],
)
async def test_a_limit_of_tokens_is_kept(
    gateway: RunningGateway, node: FakeOllama, ai: Ai, given: dict[str, int], limit: int
) -> None:
    got = await ai.chat(**given)
    assert (await asked(node))["options"] == {"num_predict": limit}
    assert (got.choices[0].finish_reason, got.usage.completion_tokens) == ("length", limit)
    parts = await ai.chat(**given, stream=True)
    assert parts[-1].choices[0].finish_reason == "length"
    assert [row["output_tokens"] for row in await gateway.rows(2)] == [limit, limit]


async def test_usage_is_told_in_a_stream_that_asked_for_it(gateway: RunningGateway, node: FakeOllama, ai: Ai) -> None:
    node.cue(says("Yes."))
    parts = await ai.chat(stream=True, stream_options={"include_usage": True})
    assert parts[-1].choices == []
    assert (parts[-1].usage.prompt_tokens, parts[-1].usage.completion_tokens, parts[-1].usage.total_tokens) == (
        7,
        5,
        12,
    )
    assert [part.usage for part in parts[:-1]] == [None] * (len(parts) - 1)
    assert all(part.choices for part in parts[:-1])
    assert await booked(gateway) == (7, 5)


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": False}}], ids=["absent", "false"])
async def test_usage_is_not_told_in_a_stream_that_did_not_ask(ai: Ai, options: dict[str, Any]) -> None:
    parts = await ai.chat(stream=True, **options)
    assert all(part.choices and part.usage is None for part in parts)


async def test_usage_is_the_nodes_own_also_where_the_simulator_counts(gateway: RunningGateway, ai: Ai) -> None:
    usage = (await ai.chat()).usage
    assert await booked(gateway) == (usage.prompt_tokens, usage.completion_tokens)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 20


@pytest.mark.parametrize("stream", [False, True])
async def test_three_choices_are_three_answers_to_one_prompt(
    gateway: RunningGateway, node: FakeOllama, ai: Ai, stream: bool
) -> None:
    for word in ("one", "two", "three"):
        node.cue(says(word, "."))
    got = await ai.chat(n=3, seed=7, stream=stream, stream_options={"include_usage": True})
    if stream:
        texts = [text_of(got, choice) for choice in range(3)]
        ends = {one.index: one.finish_reason for part in got for one in part.choices if one.finish_reason}
        assert ends == dict.fromkeys(range(3), "stop")
        roles = [one.index for part in got for one in part.choices if one.delta.role == "assistant"]
        assert roles == [0, 1, 2]
    else:
        texts = [choice.message.content for choice in got.choices]
        assert [choice.index for choice in got.choices] == [0, 1, 2]
    assert texts == ["one.", "two.", "three."]
    usage = (got[-1] if stream else got).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (7, 15, 22)
    assert await booked(gateway) == (7, 15)
    bodies = [await asked(node, number=number) for number in range(3)]
    assert len(node.seen("/api/chat")) == 3
    assert [body["messages"] for body in bodies] == [QUESTION] * 3
    assert len({body["options"]["seed"] for body in bodies}) == 3


async def test_the_node_is_asked_for_one_choice_after_another_on_one_lease(
    gateway: RunningGateway, node: FakeOllama, ai: Ai
) -> None:
    gates = [Gate(), Gate(), Gate()]
    for gate in gates:
        node.cue(Answer(lines=says("Yes.").lines, hold_body=gate))
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(ai.chat(n=3))
        for number, gate in enumerate(gates, 1):
            await asyncio.wait_for(gate.reached.wait(), CEILING_S)
            assert len(node.seen("/api/chat")) == number
            assert gateway.app[POOL].nodes[0].in_flight == 1
            gate.set()
    assert len(asking.result().choices) == 3


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_are_told(node: FakeOllama, ai: Ai, stream: bool) -> None:
    best = {"token": "A", "logprob": -0.5, "bytes": [65]}
    line = {"token": "Yes", "logprob": -1.5, "bytes": [89, 101, 115], "top_logprobs": [best]}
    bare = {"token": "!", "logprob": -2.5}
    node.cue(says("Yes", logprobs=[line, bare]))
    got = await ai.chat(logprobs=True, top_logprobs=1, stream=stream)
    sent = await asked(node)
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, 1)
    choices = [part.choices[0] for part in got] if stream else got.choices
    told = [token for choice in choices if choice.logprobs for token in choice.logprobs.content or []]
    assert [(token.token, token.logprob) for token in told] == [("Yes", -1.5), ("!", -2.5)]
    assert told[0].bytes == [89, 101, 115]
    assert [(one.token, one.logprob) for one in told[0].top_logprobs] == [("A", -0.5)]
    assert told[1].top_logprobs == []


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "image/webp;charset=utf-8"])
async def test_an_image_reaches_the_node(node: FakeOllama, ai: Ai, kind: str) -> None:
    encoded = base64.b64encode(PNG).decode()
    await ai.chat(messages=image(f"data:{kind};base64,{encoded}"))
    (message,) = (await asked(node))["messages"]
    assert (message["content"], [base64.b64decode(one) for one in message["images"]]) == ("What is this?", [PNG])


HARMLESS: dict[str, Any] = {
    "user": "someone",
    "store": True,
    "metadata": {"project": "sky"},
    "service_tier": "auto",
    "logit_bias": {"42": -100},
    "prediction": {"type": "content", "content": "The sky"},
    "safety_identifier": "someone",
    "prompt_cache_key": "sky",
}


async def test_what_changes_nothing_is_ignored(node: FakeOllama, ai: Ai) -> None:
    got = await ai.chat(**HARMLESS, extra_body={"nobody_knows": {"this": [1]}, "seed": None})
    assert got.choices[0].message.content
    assert set(await asked(node)) <= {"model", "messages", "stream", "options"}
