"""Tools and thinking with the official `anthropic` client: what the node is asked, and what becomes of its answer."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic import BadRequestError
from anthropic_fixtures import (
    ASKED,
    MODEL,
    QUESTION,
    THINKER,
    WAYS,
    WEATHER,
    Ask,
    asking,
    calls,
    cue,
    helped,
    make,
    sent,
    text_of,
)
from running import RunningGateway
from shared_gateway import gateway as gateway
from shared_gateway import gateway_settings as gateway_settings
from shared_gateway import in_one_loop
from shared_gateway import node as node
from shared_gateway import served as served
from test_anthropic_client import IMAGE, PNG

from parallama.testing import FakeOllama

pytestmark = in_one_loop

TOOLS: dict[str, Any] = {**ASKED, "tools": [WEATHER]}
CLOCK = {**WEATHER, "name": "clock"}
THINKS: dict[str, Any] = {**ASKED, "model": THINKER, "thinking": {"type": "enabled", "budget_tokens": 1024}}
PARIS, ROME = ("weather", {"city": "Paris"}), ("weather", {"city": "Rome"})


@pytest.fixture(params=WAYS)
def ask(request: pytest.FixtureRequest, gateway: RunningGateway) -> Ask:
    return asking(gateway, request.param)


def tool_uses(message: Any) -> list[tuple[str, Any]]:
    return [(block.name, block.input) for block in message.content if block.type == "tool_use"]


async def test_a_tool_is_offered_called_and_answered(gateway: RunningGateway, node: FakeOllama, ask: Ask) -> None:
    asked = [{"role": "user", "content": "Use the tool weather for Paris."}]
    message = await ask("messages.create", **{**TOOLS, "messages": asked})
    (use,) = message.content
    assert (use.type, use.name, list(use.input)) == ("tool_use", "weather", ["city"])
    assert message.stop_reason == "tool_use"
    offered = {"name": "weather", "description": WEATHER["description"], "parameters": WEATHER["input_schema"]}
    assert (await sent(node))["tools"] == [{"type": "function", "function": offered}]

    result = {"type": "tool_result", "tool_use_id": use.id, "content": "Sunny."}
    turns = [*asked, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    answer = await ask("messages.create", **{**TOOLS, "messages": turns})
    assert text_of(answer)
    assert answer.stop_reason == "end_turn"
    _, called, told = (await sent(node, 1))["messages"]
    assert called["role"] == "assistant"
    assert called["tool_calls"][0]["function"]["name"] == "weather"
    assert called["tool_calls"][0]["function"]["arguments"] == use.input
    assert (told["role"], told["content"]) == ("tool", "Sunny.")
    assert (told["tool_call_id"], told["tool_name"]) == (use.id, "weather")


async def test_calls_without_ids_and_numbers_become_blocks_with_both(node: FakeOllama, ask: Ask) -> None:
    cue(node, {"content": "Looking."}, calls(PARIS), calls(ROME, ("clock", {})))
    message = await ask("messages.create", **TOOLS)
    assert [block.type for block in message.content] == ["text", "tool_use", "tool_use", "tool_use"]
    assert tool_uses(message) == [PARIS, ROME, ("clock", {})]
    assert len({block.id for block in message.content[1:]}) == 3
    assert message.stop_reason == "tool_use"


@pytest.mark.parametrize("way", WAYS)
async def test_parallel_calls_are_streamed_as_blocks_of_their_own(
    gateway: RunningGateway, node: FakeOllama, way: str
) -> None:
    cue(node, {"content": "Looking."}, calls(PARIS, ROME), {"content": "There."}, calls(("clock", {})))
    _, message = await helped(make(gateway, way), **TOOLS)
    assert [block.type for block in message.content] == ["text", "tool_use", "tool_use", "text", "tool_use"]
    assert tool_uses(message) == [PARIS, ROME, ("clock", {})]
    assert text_of(message) == "Looking.There."
    assert message.stop_reason == "tool_use"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (24, 13)


async def test_results_are_told_by_id_with_errors_and_images_before_the_text(node: FakeOllama, ask: Ask) -> None:
    uses = [
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}},
        {"type": "tool_use", "id": "toolu_2", "name": "clock", "input": {}},
    ]
    results = [
        {"type": "tool_result", "tool_use_id": "toolu_2", "content": "No clock.", "is_error": True},
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "Rain."}, IMAGE]},
        {"type": "text", "text": "Well?"},
    ]
    turns = [*QUESTION, {"role": "assistant", "content": uses}, {"role": "user", "content": results}]
    await ask("messages.create", **{**TOOLS, "tools": [WEATHER, CLOCK], "messages": turns})
    _, called, clock, weather, asked = (await sent(node))["messages"]
    assert [call["function"]["name"] for call in called["tool_calls"]] == ["weather", "clock"]
    assert [call["id"] for call in called["tool_calls"]] == ["toolu_1", "toolu_2"]
    assert (clock["tool_call_id"], clock["tool_name"], clock["content"]) == ("toolu_2", "clock", "Error: No clock.")
    assert (weather["tool_call_id"], weather["tool_name"], weather["content"]) == ("toolu_1", "weather", "Rain.")
    assert weather["images"] == [PNG]
    assert (asked["role"], asked["content"]) == ("user", "Well?")


@pytest.mark.parametrize(
    ("choice", "offered"),
    [
        ({"type": "auto"}, ["weather", "clock"]),
        ({"type": "any"}, ["weather", "clock"]),
        ({"type": "none"}, []),
        ({"type": "tool", "name": "clock"}, ["clock"]),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
async def test_a_choice_of_tools_decides_which_are_offered(
    node: FakeOllama, ask: Ask, choice: Any, offered: list[str]
) -> None:
    await ask("messages.create", **ASKED, tools=[WEATHER, CLOCK], tool_choice=choice)
    tools = (await sent(node)).get("tools") or []
    assert [tool["function"]["name"] for tool in tools] == offered


async def test_without_parallel_tool_use_only_the_first_call_is_told(node: FakeOllama, ask: Ask) -> None:
    cue(node, calls(PARIS, ROME))
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    message = await ask("messages.create", **TOOLS, tool_choice=choice)
    assert tool_uses(message) == [PARIS]


@pytest.mark.parametrize(
    "wrong",
    [
        {"tool_choice": {"type": "tool", "name": "nosuch"}},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"tools": [{"type": "bash_20250124", "name": "bash"}]},
    ],
    ids=["no such tool", "web search", "bash"],
)
async def test_tools_that_no_node_has_are_refused_by_name(node: FakeOllama, ask: Ask, wrong: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError) as caught:
        await ask("messages.create", **{**TOOLS, **wrong})
    assert "tool" in str(caught.value)
    assert not node.seen("/api/chat")


async def test_thinking_is_asked_for_and_told_apart_from_the_text(
    gateway: RunningGateway, node: FakeOllama, ask: Ask
) -> None:
    message = await ask("messages.create", **THINKS)
    assert [block.type for block in message.content] == ["thinking", "text"]
    thought, _ = message.content
    assert thought.thinking == "Let me think about that."
    assert isinstance(thought.signature, str)
    assert thought.signature
    assert (await sent(node))["think"] is True
    row = await gateway.row()
    assert (row["prompt_tokens"], row["output_tokens"]) == (message.usage.input_tokens, message.usage.output_tokens)


@pytest.mark.parametrize("way", WAYS)
async def test_streamed_thinking_is_signed_before_its_block_ends(gateway: RunningGateway, way: str) -> None:
    whole = await asking(gateway, way)("messages.create", **THINKS)
    events, streamed = await helped(make(gateway, way), **THINKS)
    raw = [event for event in events if event.type.startswith("content_block")]
    thinking = [event for event in raw if event.index == 0]
    assert [thinking[0].type, thinking[-1].type] == ["content_block_start", "content_block_stop"]
    assert [event.delta.type for event in thinking[1:-1]][-1] == "signature_delta"
    assert [block.type for block in streamed.content] == ["thinking", "text"]
    assert streamed.content[0].thinking == whole.content[0].thinking
    assert streamed.content[0].signature
    assert text_of(streamed) == text_of(whole)


async def test_a_thought_is_given_back_with_its_signature(node: FakeOllama, ask: Ask) -> None:
    message = await ask("messages.create", **THINKS)
    redacted = {"type": "redacted_thinking", "data": "AAAA"}
    content = [*(block.to_dict() for block in message.content), redacted]
    turns = [*QUESTION, {"role": "assistant", "content": content}, {"role": "user", "content": "Sure?"}]
    await ask("messages.create", **{**THINKS, "messages": turns})
    _, replayed, _ = (await sent(node, 1))["messages"]
    assert replayed["thinking"] == message.content[0].thinking
    assert replayed["content"] == text_of(message)


@pytest.mark.parametrize("thinking", [{"type": "disabled"}, None], ids=["disabled", "not asked for"])
async def test_who_asks_for_no_thinking_gets_none(node: FakeOllama, ask: Ask, thinking: Any) -> None:
    given = {**THINKS, "thinking": thinking} if thinking else {**ASKED, "model": THINKER}
    message = await ask("messages.create", **given)
    assert [block.type for block in message.content] == ["text"]
    assert (await sent(node))["think"] is False


async def test_a_model_that_cannot_think_answers_all_the_same(node: FakeOllama, ask: Ask) -> None:
    message = await ask("messages.create", **{**THINKS, "model": MODEL})
    assert [block.type for block in message.content] == ["text"]
    assert "think" not in await sent(node)


@pytest.mark.parametrize(("effort", "level"), [("low", "low"), ("medium", "medium"), ("high", "high")])
async def test_an_effort_is_a_level_of_thinking(node: FakeOllama, ask: Ask, effort: str, level: str) -> None:
    await ask("messages.create", **{**ASKED, "model": THINKER, "output_config": {"effort": effort}})
    assert (await sent(node))["think"] == level


async def test_a_schema_of_the_answer_reaches_the_node(node: FakeOllama, ask: Ask) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    wanted = {"format": {"type": "json_schema", "schema": schema}}
    await ask("messages.create", **ASKED, output_config=wanted)
    assert (await sent(node))["format"] == schema
