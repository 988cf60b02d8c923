"""Tools through the official `openai` client: what is offered, what is called, and what comes back to the model."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai_clients import MODEL, QUESTION, Ai, asked, calls, says, tool
from running import RunningGateway
from shared_gateway import ai as ai
from shared_gateway import gateway as gateway
from shared_gateway import gateway_settings as gateway_settings
from shared_gateway import in_one_loop
from shared_gateway import node as node
from shared_gateway import served as served

from parallama.testing import FakeOllama

pytestmark = in_one_loop

WEATHER, TIME = tool("weather", city="string"), tool("time", zone="string", big="integer")
TOOLS = [WEATHER, TIME]
WANTED = [{"role": "user", "content": "Use the tool weather for Paris."}]
NAMED = {"type": "function", "function": {"name": "time"}}
BIG = 2**53 + 1


def called(choices: list[Any]) -> list[tuple[str, Any]]:
    """Names and arguments of the calls in a document's choice."""
    return [(call.function.name, json.loads(call.function.arguments)) for call in choices[0].message.tool_calls]


def joined(parts: list[Any]) -> list[dict[str, str]]:
    """The calls of a stream, put together as the client's users do it: by index."""
    found: list[dict[str, str]] = []
    for delta in (call for part in parts for one in part.choices for call in one.delta.tool_calls or []):
        if delta.index == len(found):
            found.append({"id": "", "name": "", "arguments": ""})
        one = found[delta.index]
        one["id"] += delta.id or ""
        one["name"] += delta.function.name or ""
        one["arguments"] += delta.function.arguments or ""
    return found


async def test_a_tool_is_offered_and_called(gateway: RunningGateway, node: FakeOllama, ai: Ai) -> None:
    got = await ai.chat(messages=WANTED, tools=TOOLS)
    (choice,) = got.choices
    ((name, arguments),) = called(got.choices)
    assert (choice.finish_reason, name, list(arguments)) == ("tool_calls", "weather", ["city"])
    assert not choice.message.content
    assert choice.message.tool_calls[0].type == "function"
    assert choice.message.tool_calls[0].id
    offered = (await asked(node))["tools"]
    assert [one["function"]["name"] for one in offered] == ["weather", "time"]
    assert offered[0]["function"]["parameters"] == WEATHER["function"]["parameters"]
    assert (await gateway.row())["output_tokens"] == got.usage.completion_tokens


@pytest.mark.parametrize("stream", [False, True])
async def test_parallel_calls_are_numbered_from_0_whatever_the_node_says(
    node: FakeOllama, ai: Ai, stream: bool
) -> None:
    paris, berlin, now = ("weather", {"city": "Paris"}), ("weather", {"city": "Berlin"}), ("time", {"big": BIG})
    node.cue(says(calls(paris, text="Let me see."), calls(berlin), message=calls(now)))
    got = await ai.chat(messages=WANTED, tools=TOOLS, stream=stream)
    if stream:
        found = joined(got)
        ends = [part.choices[0].finish_reason for part in got if part.choices[0].finish_reason]
        text = "".join(part.choices[0].delta.content or "" for part in got)
    else:
        found = [{"id": call.id, **call.function.model_dump()} for call in got.choices[0].message.tool_calls]
        ends = [got.choices[0].finish_reason]
        text = got.choices[0].message.content
    assert [(call["name"], json.loads(call["arguments"])) for call in found] == [paris, berlin, now]
    assert len({call["id"] for call in found}) == 3
    assert all(call["id"] for call in found)
    assert (ends, text) == (["tool_calls"], "Let me see.")


async def test_text_before_and_after_a_call_is_kept(node: FakeOllama, ai: Ai) -> None:
    node.cue(says("Before. ", calls(("weather", {})), "After."), times=2)
    once = await ai.chat(messages=WANTED, tools=TOOLS)
    parts = await ai.chat(messages=WANTED, tools=TOOLS, stream=True)
    assert once.choices[0].message.content == "Before. After."
    assert called(once.choices) == [("weather", {})]
    assert "".join(part.choices[0].delta.content or "" for part in parts) == "Before. After."
    assert [call["arguments"] for call in joined(parts)] == ["{}"]


async def test_one_call_is_kept_where_parallel_ones_are_not_wanted(node: FakeOllama, ai: Ai) -> None:
    node.cue(says(calls(("weather", {}), ("time", {}))), times=2)
    asking: dict[str, Any] = {"messages": WANTED, "tools": TOOLS, "parallel_tool_calls": False}
    assert called((await ai.chat(**asking)).choices) == [("weather", {})]
    assert [call["name"] for call in joined(await ai.chat(**asking, stream=True))] == ["weather"]


@pytest.mark.parametrize(
    ("choice", "offered"),
    [("none", []), ("auto", ["weather", "time"]), ("required", ["weather", "time"]), (NAMED, ["time"])],
    ids=["none", "auto", "required", "named"],
)
async def test_the_choice_of_tools_decides_what_is_offered(
    node: FakeOllama, ai: Ai, choice: Any, offered: list[str]
) -> None:
    await ai.chat(tools=TOOLS, tool_choice=choice)
    assert [one["function"]["name"] for one in (await asked(node)).get("tools") or []] == offered


async def test_a_choice_that_is_not_offered_is_refused(node: FakeOllama, ai: Ai) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await ai.chat(tools=[WEATHER], tool_choice=NAMED)
    assert str(caught.value.param).startswith("tool_choice")
    assert not node.seen("/api/chat")


async def test_a_custom_tool_is_refused(node: FakeOllama, ai: Ai) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await ai.chat(tools=[{"type": "custom", "custom": {"name": "shell"}}])
    assert str(caught.value.param).startswith("tools[0]")
    assert not node.seen("/api/chat")


async def test_results_of_tools_go_back_with_their_ids_and_names(node: FakeOllama, ai: Ai) -> None:
    """The round trip as programs do it: the message as it came is appended, then the results."""
    node.cue(says(calls(("weather", {"city": "Paris"}), ("time", {"zone": "CET"}))))
    first = (await ai.chat(messages=WANTED, tools=TOOLS)).choices[0].message
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": f"result of {call.function.name}"}
        for call in reversed(first.tool_calls)
    ]
    history = [*WANTED, first.model_dump(), *results, {"role": "user", "content": "And now?"}]
    assert (await ai.chat(messages=history, tools=TOOLS)).choices[0].message.content
    user, assistant, *told, last = (await asked(node, number=1))["messages"]
    assert (user["content"], last["content"]) == (WANTED[0]["content"], "And now?")
    sent = [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in assistant["tool_calls"]]
    ids = [call.id for call in first.tool_calls]
    assert sent == [(ids[0], "weather", {"city": "Paris"}), (ids[1], "time", {"zone": "CET"})]
    assert [(one["role"], one["tool_call_id"], one["tool_name"], one["content"]) for one in told] == [
        ("tool", ids[1], "time", "result of time"),
        ("tool", ids[0], "weather", "result of weather"),
    ]


async def test_a_result_in_parts_keeps_its_id(node: FakeOllama, ai: Ai) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    result = {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "Rain."}]}
    await ai.chat(messages=[*WANTED, {"role": "assistant", "content": None, "tool_calls": [call]}, result])
    _, assistant, told = (await asked(node))["messages"]
    assert assistant["tool_calls"][0]["function"]["arguments"] == {}
    assert (told["tool_call_id"], told["tool_name"], told["content"]) == ("call_1", "weather", "Rain.")


async def test_arguments_that_are_no_json_are_refused(node: FakeOllama, ai: Ai) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":'}}
    with pytest.raises(openai.BadRequestError) as caught:
        await ai.chat(messages=[*WANTED, {"role": "assistant", "tool_calls": [call]}])
    assert caught.value.param == "messages[1].tool_calls[0].function.arguments"
    assert not node.seen("/api/chat")


async def test_the_stream_helper_puts_the_answer_together(node: FakeOllama, ai: Ai) -> None:
    """The helper checks each chunk: an index that is not the next one makes it fail."""
    node.cue(says("Let me ", "see.", calls(("weather", {"city": "Paris"})), calls(("time", {"zone": "CET"}))))
    events, final = await ai.helper(
        "chat.completions.stream", "get_final_completion", model=MODEL, messages=QUESTION, tools=TOOLS
    )
    kinds = [event.type for event in events]
    assert kinds.count("tool_calls.function.arguments.done") == 2
    deltas = [event.delta for event in events if event.type == "content.delta" and event.delta]
    assert deltas == ["Let me ", "see."]
    assert final.choices[0].message.content == "Let me see."
    assert called(final.choices) == [("weather", {"city": "Paris"}), ("time", {"zone": "CET"})]
    assert final.choices[0].finish_reason == "tool_calls"
