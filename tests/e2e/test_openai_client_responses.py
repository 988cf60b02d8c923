"""Responses through the official `openai` client: items in and out, events, the stream helper, tools."""

from __future__ import annotations

import base64
import json
from typing import Any

import openai
import pytest
from openai_clients import MODEL, THINKER, Ai, asked, booked, calls, says
from pydantic import BaseModel
from running import RunningGateway
from shared_gateway import ai as ai
from shared_gateway import gateway as gateway
from shared_gateway import gateway_settings as gateway_settings
from shared_gateway import in_one_loop
from shared_gateway import node as node
from shared_gateway import served as served

from parallama.testing import Answer, FakeOllama, Fault

pytestmark = in_one_loop

WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": None,
}
TEXT_EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    *["response.output_text.delta"] * 2,
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


class Age(BaseModel):
    age: int


async def respond(ai: Ai, **arguments: Any) -> Any:
    return await ai("responses.create", **{"model": MODEL, "input": "Why is the sky blue?", **arguments})


async def streamed(ai: Ai, **arguments: Any) -> tuple[list[Any], Any]:
    arguments = {"model": MODEL, "input": "Why is the sky blue?", **arguments}
    return await ai.helper("responses.stream", "get_final_response", **arguments)


async def test_a_response_is_whole(gateway: RunningGateway, node: FakeOllama, ai: Ai) -> None:
    node.cue(says("Because ", "it is."))
    got = await respond(ai, store=True, metadata={"project": "sky"})
    assert (got.object, got.model, got.status, got.id[:5]) == ("response", MODEL, "completed", "resp_")
    assert [item.type for item in got.output] == ["message"]
    assert (got.output_text, got.output[0].role) == ("Because it is.", "assistant")
    assert (got.usage.input_tokens, got.usage.output_tokens, got.usage.total_tokens) == (7, 5, 12)
    assert (got.store, got.metadata, got.previous_response_id) == (False, {"project": "sky"}, None)
    assert (got.error, got.incomplete_details) == (None, None)
    assert await booked(gateway) == (7, 5)
    sent = await asked(node)
    assert (sent["messages"], sent["stream"]) == ([{"role": "user", "content": "Why is the sky blue?"}], True)


async def test_a_stream_tells_its_events_in_their_order(gateway: RunningGateway, node: FakeOllama, ai: Ai) -> None:
    node.cue(says("Because ", "it is."))
    events = await respond(ai, stream=True)
    assert [event.type for event in events] == TEXT_EVENTS
    assert [event.sequence_number for event in events] == list(range(len(events)))
    final = events[-1].response
    assert (final.output_text, final.status, final.id) == ("Because it is.", "completed", events[0].response.id)
    assert (final.usage.input_tokens, final.usage.output_tokens) == (7, 5)
    assert await booked(gateway) == (7, 5)


async def test_the_stream_helper_gives_the_final_response(node: FakeOllama, ai: Ai) -> None:
    node.cue(says("Because ", "it is."))
    events, final = await streamed(ai)
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert (deltas, final.output_text, final.status) == (["Because ", "it is."], "Because it is.", "completed")


async def test_text_calls_and_text_are_items_of_their_own(node: FakeOllama, ai: Ai) -> None:
    """Ollama's own layer reuses an index here, and the helper of the client then fails."""
    paris, berlin = ("weather", {"city": "Paris"}), ("weather", {"city": "Berlin"})
    node.cue(says("Let me see.", calls(paris), calls(berlin), "Done."), times=2)
    events, final = await streamed(ai, tools=[WEATHER])
    once = await respond(ai, tools=[WEATHER])
    kinds = ["message", "function_call", "function_call", "message"]
    added = [event for event in events if event.type == "response.output_item.added"]
    done = [event for event in events if event.type == "response.output_item.done"]
    assert [event.output_index for event in added] == [event.output_index for event in done] == [0, 1, 2, 3]
    assert [item.type for item in final.output] == [item.type for item in once.output] == kinds
    found = [json.loads(item.arguments)["city"] for item in final.output if item.type == "function_call"]
    assert found == ["Paris", "Berlin"]
    assert len({item.call_id for item in final.output if item.type == "function_call"}) == 2
    assert len({item.id for item in final.output}) == 4
    assert final.output_text == once.output_text == "Let me see.Done."


async def test_results_of_tools_go_back(node: FakeOllama, ai: Ai) -> None:
    """The round trip as programs do it: the output as it came is appended, then the results."""
    node.cue(says("Let me see.", calls(("weather", {"city": "Paris"}))))
    first = await respond(ai, input="The weather in Paris?", tools=[WEATHER], instructions="Be brief.")
    call = first.output[1]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}
    history = [{"role": "user", "content": "The weather in Paris?"}, *first.output, result]
    got = await respond(ai, input=history, tools=[WEATHER], instructions="Be brief.")
    assert got.output_text
    system, user, assistant, told = (await asked(node, number=1))["messages"]
    assert (system["role"], system["content"]) == ("system", "Be brief.")
    assert (user["content"], assistant["content"]) == ("The weather in Paris?", "Let me see.")
    (sent,) = assistant["tool_calls"]
    assert (sent["function"]["name"], sent["function"]["arguments"]) == ("weather", {"city": "Paris"})
    assert (told["role"], told["content"]) == ("tool", "Rain.")
    assert (told["tool_name"], told["tool_call_id"]) == ("weather", sent["id"])
    assert (await asked(node))["tools"][0]["function"]["parameters"] == WEATHER["parameters"]


async def test_parts_and_images_reach_the_node_as_one_message(node: FakeOllama, ai: Ai) -> None:
    encoded = base64.b64encode(b"\x89PNG, nearly").decode()
    parts = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "detail": "auto", "image_url": f"data:image/png;base64,{encoded}"},
    ]
    await respond(ai, input=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}])
    system, user = (await asked(node))["messages"]
    assert (system["role"], system["content"]) == ("system", "Be brief.")
    assert user["content"] == "What is this?"
    assert [base64.b64decode(image) for image in user["images"]] == [b"\x89PNG, nearly"]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_was_cut_is_incomplete(
    gateway: RunningGateway, node: FakeOllama, ai: Ai, stream: bool
) -> None:
    got = await respond(ai, max_output_tokens=3, stream=stream)
    assert (await asked(node))["options"] == {"num_predict": 3}
    if stream:
        assert got[-1].type == "response.incomplete"
        assert "response.completed" not in {event.type for event in got}
    final = got[-1].response if stream else got
    assert (final.status, final.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (final.usage.output_tokens, final.max_output_tokens) == (3, 3)
    assert final.output_text
    assert (await gateway.row())["output_tokens"] == 3


async def test_parse_gives_an_object(node: FakeOllama, ai: Ai) -> None:
    node.cue(says('{"age":', " 7}"), times=2)
    got = await ai("responses.parse", model=MODEL, input="How old?", text_format=Age)
    assert got.output_parsed == Age(age=7)
    assert (await asked(node))["format"]["properties"].keys() == {"age"}
    _, final = await streamed(ai, text_format=Age)
    assert final.output_parsed == Age(age=7)


async def test_any_json_can_be_asked_for(node: FakeOllama, ai: Ai) -> None:
    await respond(ai, text={"format": {"type": "json_object"}})
    assert (await asked(node))["format"] == "json"


@pytest.mark.parametrize("stream", [False, True])
async def test_reasoning_is_an_item_before_the_message(node: FakeOllama, ai: Ai, stream: bool) -> None:
    node.cue(says({"content": "", "thinking": "Let me "}, {"content": "Blue.", "thinking": "think."}))
    arguments: dict[str, Any] = {"model": THINKER, "reasoning": {"effort": "high"}}
    got = (await streamed(ai, **arguments))[1] if stream else await respond(ai, **arguments)
    assert (await asked(node))["think"] == "high"
    thought, message = got.output
    assert (thought.type, message.type, got.output_text) == ("reasoning", "message", "Blue.")
    assert "".join(part.text for part in thought.summary) == "Let me think."


async def test_reasoning_can_be_said_again(node: FakeOllama, ai: Ai) -> None:
    node.cue(says({"content": "", "thinking": "Hm."}, "Blue."))
    first = await respond(ai, model=THINKER, include=["reasoning.encrypted_content"])
    history = [{"role": "user", "content": "Why?"}, *first.output, {"role": "user", "content": "Sure?"}]
    await respond(ai, model=THINKER, input=history)
    _, assistant, _ = (await asked(node, number=1))["messages"]
    assert (assistant["content"], assistant["thinking"]) == ("Blue.", "Hm.")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an earlier response": ({"previous_response_id": "resp_1"}, "previous_response_id"),
    "a conversation": ({"conversation": "conv_1"}, "conversation"),
    "in the background": ({"background": True}, "background"),
    "an item that is elsewhere": ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
    "an unknown item": ({"input": [{"type": "computer_call", "id": "cu_1"}]}, "input[0]"),
    "a tool of OpenAI's": ({"tools": [{"type": "web_search"}]}, "tools[0]"),
    "no tokens at all": ({"max_output_tokens": 0}, "max_output_tokens"),
    "no input": ({"input": []}, "input"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_answered_truly_is_refused(node: FakeOllama, ai: Ai, name: str) -> None:
    arguments, param = REFUSED[name]
    with pytest.raises(openai.BadRequestError) as caught:
        await respond(ai, **arguments)
    assert str(caught.value.param).startswith(param)
    assert caught.value.code in ("invalid_parameter", "missing_parameter")
    assert str(caught.value)
    assert not node.seen("/api/chat")


@pytest.mark.parametrize("fault", [Fault.ERROR_LINE, Fault.NO_DONE, Fault.CLOSE])
async def test_a_stream_that_breaks_is_an_error_and_never_completed(
    gateway: RunningGateway, node: FakeOllama, ai: Ai, fault: Fault
) -> None:
    lines = says("Because ", "it ", "is.").lines
    node.cue(Answer(lines=lines, fault=fault, after_lines=2, after_body=200 if fault is Fault.CLOSE else None), times=2)
    events: list[Any] = []
    with pytest.raises(openai.APIError):
        await respond(ai, stream=True, into=events)
    assert {"response.completed", "response.incomplete"}.isdisjoint(event.type for event in events)
    assert events[0].type == "response.created"
    with pytest.raises(openai.APIError):
        await streamed(ai)
    assert [row["outcome"] for row in await gateway.rows(2)] == ["failed", "failed"]
