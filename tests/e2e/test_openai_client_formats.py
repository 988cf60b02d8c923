"""Reasoning and structured answers through the official `openai` client, its parsing helpers among them."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai_clients import MODEL, QUESTION, THINKER, Ai, asked, says
from pydantic import BaseModel
from running import RunningGateway
from shared_gateway import ai as ai
from shared_gateway import gateway as gateway
from shared_gateway import gateway_settings as gateway_settings
from shared_gateway import in_one_loop
from shared_gateway import node as node
from shared_gateway import served as served

from parallama.testing import FakeOllama

pytestmark = in_one_loop


class Street(BaseModel):
    name: str


class Place(BaseModel):
    age: int
    street: Street


SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
EFFORTS = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "max": "max",
    "xhigh": "max",
}


@pytest.mark.parametrize("effort", EFFORTS)
async def test_an_effort_of_reasoning_reaches_a_model_that_thinks(node: FakeOllama, ai: Ai, effort: str) -> None:
    await ai.chat(model=THINKER, reasoning_effort=effort)
    assert (await asked(node))["think"] == EFFORTS[effort]


@pytest.mark.parametrize("effort", ["none", "high"])
async def test_an_effort_is_dropped_for_a_model_that_does_not_think(node: FakeOllama, ai: Ai, effort: str) -> None:
    got = await ai.chat(model=MODEL, reasoning_effort=effort)
    assert got.choices[0].message.content
    assert (await asked(node)).get("think") is None


async def test_an_effort_that_does_not_exist_is_refused(node: FakeOllama, ai: Ai) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await ai.chat(model=THINKER, reasoning_effort="extreme")
    assert (caught.value.param, caught.value.code) == ("reasoning_effort", "invalid_parameter")
    assert not node.seen("/api/chat")


async def test_an_effort_may_stand_in_an_object(node: FakeOllama, ai: Ai) -> None:
    await ai.chat(model=THINKER, extra_body={"reasoning": {"effort": "low"}})
    assert (await asked(node))["think"] == "low"


async def test_reasoning_is_told_beside_the_answer(gateway: RunningGateway, node: FakeOllama, ai: Ai) -> None:
    thought = {"content": "", "thinking": "Let me "}
    both = {"content": "Blue", "thinking": "think."}
    node.cue(says(thought, both, "."), times=2)
    once = await ai.chat(model=THINKER, reasoning_effort="high")
    parts = await ai.chat(model=THINKER, reasoning_effort="high", stream=True)
    assert (once.choices[0].message.reasoning, once.choices[0].message.content) == ("Let me think.", "Blue.")
    deltas = [part.choices[0].delta for part in parts]
    assert "".join(getattr(delta, "reasoning", None) or "" for delta in deltas) == "Let me think."
    assert "".join(delta.content or "" for delta in deltas) == "Blue."
    told = [bool(delta.content) for delta in deltas if delta.content or getattr(delta, "reasoning", None)]
    assert told == sorted(told), "the answer begins where the reasoning has ended"
    assert [row["output_tokens"] for row in await gateway.rows(2)] == [5, 5]


async def test_reasoning_can_be_said_again(node: FakeOllama, ai: Ai) -> None:
    node.cue(says({"content": "", "thinking": "Hm."}, "Blue."))
    first = (await ai.chat(model=THINKER)).choices[0].message
    await ai.chat(model=THINKER, messages=[*QUESTION, first.model_dump(), {"role": "user", "content": "Sure?"}])
    _, assistant, _ = (await asked(node, number=1))["messages"]
    assert (assistant["content"], assistant["thinking"]) == ("Blue.", "Hm.")


async def test_any_json_can_be_asked_for(node: FakeOllama, ai: Ai) -> None:
    got = await ai.chat(response_format={"type": "json_object"})
    assert (await asked(node))["format"] == "json"
    assert isinstance(json.loads(got.choices[0].message.content), dict)


async def test_plain_text_can_be_asked_for(node: FakeOllama, ai: Ai) -> None:
    await ai.chat(response_format={"type": "text"})
    assert (await asked(node)).get("format") is None


async def test_a_schema_can_be_asked_for(node: FakeOllama, ai: Ai) -> None:
    named = {"name": "age", "strict": True, "schema": SCHEMA}
    got = await ai.chat(response_format={"type": "json_schema", "json_schema": named})
    assert (await asked(node))["format"] == SCHEMA
    assert list(json.loads(got.choices[0].message.content)) == ["age"]


@pytest.mark.parametrize("wanted", [{"type": "json_schema", "json_schema": {"name": "age"}}, {"type": "xml"}])
async def test_a_format_that_says_nothing_is_refused(node: FakeOllama, ai: Ai, wanted: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await ai.chat(response_format=wanted)
    assert str(caught.value.param).startswith("response_format")
    assert not node.seen("/api/chat")


async def test_parse_gives_an_object(node: FakeOllama, ai: Ai) -> None:
    """`parse` sends `$defs` and `$ref` for the class within the class."""
    node.cue(says('{"age": 7, ', '"street": {"name": "Main"}}'))
    got = await ai("chat.completions.parse", model=MODEL, messages=QUESTION, response_format=Place)
    assert got.choices[0].message.parsed == Place(age=7, street=Street(name="Main"))
    sent = await asked(node)
    assert sent["format"]["properties"].keys() == {"age", "street"}
    assert sent["format"]["$defs"].keys() == {"Street"}
    assert sent["stream"] is True


async def test_parse_tells_that_the_answer_was_cut(node: FakeOllama, ai: Ai) -> None:
    node.cue(says('{"age"', done_reason="length"))
    with pytest.raises(openai.LengthFinishReasonError):
        await ai("chat.completions.parse", model=MODEL, messages=QUESTION, response_format=Place)


async def test_the_stream_helper_parses(gateway: RunningGateway, node: FakeOllama, ai: Ai) -> None:
    node.cue(says('{"age": 7, ', '"street": {"name": "Main"}}'))
    events, final = await ai.helper(
        "chat.completions.stream", "get_final_completion", model=MODEL, messages=QUESTION, response_format=Place
    )
    assert final.choices[0].message.parsed == Place(age=7, street=Street(name="Main"))
    assert [event.type for event in events].count("content.done") == 1
    assert (await gateway.row())["streamed"] is True
