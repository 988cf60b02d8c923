"""Completions through the official `openai` client: prompts, echo, log probabilities, choices, streams."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai_clients import MODEL, THINKER, Ai, asked, booked, text_of, writes
from running import RunningGateway
from shared_gateway import ai as ai
from shared_gateway import gateway as gateway
from shared_gateway import gateway_settings as gateway_settings
from shared_gateway import in_one_loop
from shared_gateway import node as node
from shared_gateway import served as served

from parallama.testing import Answer, FakeOllama, Fault

pytestmark = in_one_loop

PATH = "/api/generate"
TOKENS = [
    {"token": "Ye", "logprob": -1.5, "top_logprobs": [{"token": "No", "logprob": -2.5}]},
    {"token": "s", "logprob": -0.5, "top_logprobs": [{"token": "s", "logprob": -0.5}]},
]


async def complete(ai: Ai, **arguments: Any) -> Any:
    return await ai("completions.create", **{"model": MODEL, "prompt": "Why?", **arguments})


async def test_a_completion_is_answered_whole(gateway: RunningGateway, node: FakeOllama, ai: Ai) -> None:
    node.cue(writes("Because ", "it is."))
    got = await complete(ai)
    (choice,) = got.choices
    assert (got.object, got.model, got.id[:5]) == ("text_completion", MODEL, "cmpl-")
    assert (choice.index, choice.text, choice.finish_reason) == (0, "Because it is.", "stop")
    assert (got.usage.prompt_tokens, got.usage.completion_tokens, got.usage.total_tokens) == (7, 5, 12)
    assert await booked(gateway) == (7, 5)
    assert (await gateway.row())["operation"] == "generate"
    sent = await asked(node, PATH)
    assert (sent["prompt"], sent["stream"]) == ("Why?", True)
    assert not sent.get("options")


async def test_a_completion_streams(gateway: RunningGateway, node: FakeOllama, ai: Ai) -> None:
    node.cue(writes("Because ", "it is."))
    parts = await complete(ai, stream=True, stream_options={"include_usage": True})
    assert text_of(parts) == "Because it is."
    assert {part.object for part in parts} == {"text_completion"}
    assert [one.finish_reason for part in parts for one in part.choices if one.finish_reason] == ["stop"]
    assert parts[-1].choices == []
    assert (parts[-1].usage.prompt_tokens, parts[-1].usage.completion_tokens) == (7, 5)
    assert await booked(gateway) == (7, 5)


async def test_usage_is_not_told_in_a_stream_that_did_not_ask(ai: Ai) -> None:
    assert all(part.choices and part.usage is None for part in await complete(ai, stream=True))


async def test_samplers_limits_and_the_suffix_reach_the_node(node: FakeOllama, ai: Ai) -> None:
    got = await complete(ai, max_tokens=3, temperature=0.5, seed=3, stop="zzz", suffix="the end")
    sent = await asked(node, PATH)
    assert sent["options"] == {"num_predict": 3, "temperature": 0.5, "seed": 3, "stop": ["zzz"]}
    assert sent["suffix"] == "the end"
    assert (got.choices[0].finish_reason, got.usage.completion_tokens) == ("length", 3)


@pytest.mark.parametrize("stream", [False, True])
async def test_each_prompt_gets_its_choice(gateway: RunningGateway, node: FakeOllama, ai: Ai, stream: bool) -> None:
    node.cue(writes("one"))
    node.cue(writes("two"))
    got = await complete(ai, prompt=["First?", "Second?"], stream=stream)
    if stream:
        texts = [text_of(got, 0), text_of(got, 1)]
    else:
        assert [choice.index for choice in got.choices] == [0, 1]
        texts = [choice.text for choice in got.choices]
    assert texts == ["one", "two"]
    assert [(await asked(node, PATH, number))["prompt"] for number in range(2)] == ["First?", "Second?"]
    assert await booked(gateway) == (14, 10)


async def test_several_choices_pay_for_the_prompt_once(gateway: RunningGateway, node: FakeOllama, ai: Ai) -> None:
    node.cue(writes("one"))
    node.cue(writes("two"))
    got = await complete(ai, n=2)
    assert [choice.text for choice in got.choices] == ["one", "two"]
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (7, 10)
    assert await booked(gateway) == (7, 10)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_echo_begins_with_the_prompt(node: FakeOllama, ai: Ai, stream: bool) -> None:
    node.cue(writes("Because."))
    got = await complete(ai, echo=True, stream=stream)
    assert (text_of(got) if stream else got.choices[0].text) == "Why?Because."


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_are_told_by_token(node: FakeOllama, ai: Ai, stream: bool) -> None:
    node.cue(writes("Yes", logprobs=TOKENS))
    got = await complete(ai, logprobs=1, stream=stream)
    sent = await asked(node, PATH)
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, 1)
    choices = [one for part in got for one in part.choices] if stream else got.choices
    told = [one.logprobs for one in choices if one.logprobs]
    assert [token for one in told for token in one.tokens] == ["Ye", "s"]
    assert [value for one in told for value in one.token_logprobs] == [-1.5, -0.5]
    assert [best for one in told for best in one.top_logprobs] == [{"No": -2.5}, {"s": -0.5}]
    assert all(len(one.text_offset) == len(one.tokens) for one in told)


async def test_a_completion_does_not_spend_tokens_on_thinking(node: FakeOllama, ai: Ai) -> None:
    await complete(ai, model=THINKER)
    assert (await asked(node, PATH))["think"] is False
    await complete(ai, model=MODEL)
    assert (await asked(node, PATH, 1)).get("think") is None


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "tokens": ({"prompt": [1, 2, 3]}, "prompt"),
    "lists of tokens": ({"prompt": [[1, 2], [3]]}, "prompt"),
    "echo with log probabilities": ({"echo": True, "logprobs": 1}, "echo logprobs"),
    "the best of many": ({"best_of": 5}, "best_of"),
    "too many log probabilities": ({"logprobs": 50}, "logprobs"),
    "no tokens at all": ({"max_tokens": 0}, "max_tokens"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_answered_truly_is_refused(node: FakeOllama, ai: Ai, name: str) -> None:
    arguments, params = REFUSED[name]
    with pytest.raises(openai.BadRequestError) as caught:
        await complete(ai, **arguments)
    assert str(caught.value.param).split("[")[0] in params.split()
    assert caught.value.code == "invalid_parameter"
    assert not node.seen(PATH)


@pytest.mark.parametrize("fault", [Fault.ERROR_LINE, Fault.NO_DONE])
async def test_a_stream_that_breaks_is_an_error(
    gateway: RunningGateway, node: FakeOllama, ai: Ai, fault: Fault
) -> None:
    node.cue(Answer(fault=fault, after_lines=3), PATH)
    parts: list[Any] = []
    with pytest.raises(openai.APIError):
        await complete(ai, stream=True, into=parts)
    assert text_of(parts)
    assert not any(one.finish_reason for part in parts for one in part.choices)
    assert (await gateway.row())["outcome"] == "failed"
