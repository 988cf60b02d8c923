"""Requests for OpenAI's Responses: items become messages, and what cannot be had is refused by its place."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parallama_openai.response_events import seal
from parallama_openai.responses import open_response, wanted_documents

from parallama.errors import ApiError, BadRequest
from parallama.gateway.api import Codec, Document
from parallama.testing import inbound

ASK: dict[str, Any] = {"model": "qwen3:0.6b", "input": "Why?"}
PNG = "iVBORw0KGgo="
IMAGE = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}
TOOL = {"type": "function", "name": "look", "description": "Looks", "parameters": {"type": "object"}, "strict": True}


def opened(**more: Any) -> Codec:
    return open_response(inbound({**ASK, **more}, "/responses"))


def sent(**more: Any) -> Any:
    return opened(**more).outbounds[0].body


def messages(*items: Any, **more: Any) -> Any:
    return sent(input=list(items), **more)["messages"]


def refused(**more: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        opened(**more)
    return caught.value


def says(text: str, role: str = "user", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": text, **more}


def reasoning(**more: Any) -> dict[str, Any]:
    return {"type": "reasoning", "id": "rs_1", "summary": [], **more}


def called(id: str = "call_1", name: str = "look", arguments: Any = '{"a":1}') -> dict[str, Any]:
    return {"type": "function_call", "call_id": id, "name": name, "arguments": arguments}


def result(output: Any, id: str = "call_1", **more: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": id, "output": output, **more}


CALL = {"id": "call_1", "function": {"name": "look", "arguments": {"a": 1}}}


def test_nothing_is_asked_that_was_not_sent() -> None:
    codec = opened()
    assert codec.outbounds[0].body == {"model": "qwen3:0.6b", "messages": [says("Why?")], "stream": True}
    assert (codec.outbounds[0].path, codec.streams) == ("/api/chat", False)
    assert opened(stream=True).streams


def test_a_text_and_an_item_say_the_same() -> None:
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Why?"}]}
    assert sent() == sent(input=[item]) == sent(input=[says("Why?")])


def test_instructions_come_first() -> None:
    found = messages(says("a", "developer"), says("b", "system"), says("c"), instructions="Be brief.")
    assert found == [says("Be brief.", "system"), says("a", "system"), says("b", "system"), says("c")]


def test_parts_become_one_message() -> None:
    parts = [{"type": "input_text", "text": "a"}, IMAGE, {"type": "input_text", "text": "b"}]
    assert messages({"role": "user", "content": parts}) == [says("a\nb", images=[PNG])]
    own = [{"type": "output_text", "text": "a", "annotations": []}, {"type": "refusal", "refusal": "no"}]
    assert messages({"role": "assistant", "content": own}) == [says("a\nno", "assistant")]


def test_parameters_become_options() -> None:
    found = sent(max_output_tokens=50, temperature=0, top_p=0.5)
    assert found["options"] == {"num_predict": 50, "temperature": 0, "top_p": 0.5}


@pytest.mark.parametrize(("effort", "think"), [("none", False), ("minimal", "low"), ("high", "high"), ("xhigh", "max")])
def test_an_effort_to_reason_becomes_thinking(effort: str, think: Any) -> None:
    assert sent(reasoning={"effort": effort})["think"] == think
    assert "think" not in sent(model="llama3.2:1b", reasoning={"effort": effort})


def test_a_format_of_the_text_becomes_a_format() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert sent(text={"format": {"type": "json_schema", "name": "x", "schema": schema}})["format"] == schema
    assert sent(text={"format": {"type": "json_object"}})["format"] == "json"
    assert "format" not in sent(text={"format": {"type": "text"}, "verbosity": "low"})


def test_flat_functions_become_tools() -> None:
    function = {"name": "look", "description": "Looks", "parameters": {"type": "object"}}
    assert sent(tools=[TOOL])["tools"] == [{"type": "function", "function": function}]
    assert "tools" not in sent(tools=[TOOL], tool_choice="none")
    assert "tools" not in sent(tools=[])
    assert sent(tools=[TOOL], tool_choice="required") == sent(tools=[TOOL])
    only = sent(tools=[TOOL, {**TOOL, "name": "ask"}], tool_choice={"type": "function", "name": "ask"})
    assert [tool["function"]["name"] for tool in only["tools"]] == ["ask"]


def test_a_turn_of_the_assistant_is_one_message() -> None:
    thought = reasoning(summary=[{"type": "summary_text", "text": "Hm"}])
    found = messages(says("a"), thought, says("I look.", "assistant"), called(), result("3"))
    assert found == [
        says("a"),
        says("I look.", "assistant", thinking="Hm", tool_calls=[CALL]),
        says("3", "tool", tool_call_id="call_1", tool_name="look"),
    ]


def test_calls_in_a_row_belong_together() -> None:
    found = messages(called(), called("call_2", "ask", ""), result("1"), result("2", "call_2"))
    second = {"id": "call_2", "function": {"name": "ask", "arguments": {}}}
    assert found[0] == says("", "assistant", tool_calls=[CALL, second])
    assert [message["tool_name"] for message in found[1:]] == ["look", "ask"]


def test_results_follow_the_calls_of_their_turn_whatever_text_came_behind_those() -> None:
    thought = reasoning(content=[{"type": "reasoning_text", "text": "Hm"}])
    found = messages(says("a", "assistant"), thought, called(), says("b", "assistant"), result("1"))
    assert found == [
        says("a", "assistant"),
        says("b", "assistant", thinking="Hm", tool_calls=[CALL]),
        says("1", "tool", tool_call_id="call_1", tool_name="look"),
    ]


@pytest.mark.parametrize(
    "item",
    [
        reasoning(encrypted_content=seal("Hm")),
        reasoning(summary=[{"type": "summary_text", "text": "Hm"}]),
        reasoning(content=[{"type": "reasoning_text", "text": "Hm"}], encrypted_content="gAAAA"),
    ],
)
def test_replayed_reasoning_is_the_thinking_of_the_next_message(item: dict[str, Any]) -> None:
    assert messages(says("a"), item, says("b", "assistant"))[1] == says("b", "assistant", thinking="Hm")


def test_reasoning_that_nobody_can_read_is_left_out() -> None:
    assert messages(says("a"), reasoning(encrypted_content="gAAAA"), says("b", "assistant")) == [
        says("a"),
        says("b", "assistant"),
    ]


def test_a_result_may_be_parts_and_may_name_its_tool() -> None:
    found = messages(result([{"type": "input_text", "text": "a"}, IMAGE], "call_9", name="look"))
    assert found == [says("a", "tool", images=[PNG], tool_call_id="call_9", tool_name="look")]
    assert messages(result("", "call_9")) == [says("", "tool", tool_call_id="call_9")]


@pytest.mark.parametrize("kind", ["item_reference", "web_search_call", "custom_tool_call", "computer_call", "x" * 100])
def test_items_of_another_type_are_refused_by_their_place(kind: str) -> None:
    error = refused(input=[says("a"), {"type": kind, "id": "x"}])
    assert (error.param, error.code) == ("input[1].type", "invalid_parameter")


@pytest.mark.parametrize(
    ("param", "more"),
    [
        ("input", {"input": None}),
        ("input", {"input": []}),
        ("input", {"input": 5}),
        ("input[0]", {"input": ["Why?"]}),
        ("input[0].role", {"input": [{"content": "a"}]}),
        ("input[0].role", {"input": [says("a", "tool")]}),
        ("input[0].content", {"input": [{"role": "user"}]}),
        ("input[0].content", {"input": [{"role": "user", "content": 5}]}),
        ("input[0].content[0].type", {"input": [{"role": "user", "content": [{"type": "input_file"}]}]}),
        ("input[0].content[0].image_url", {"input": [says([{**IMAGE, "image_url": "http://x/y.png"}])]}),  # type: ignore[arg-type]
        ("input[0].arguments", {"input": [called(arguments="[1]")]}),
        ("input[0].arguments", {"input": [called(arguments="{")]}),
        ("input[0].arguments", {"input": [called(arguments='{"a":' * 500 + "1" + "}" * 500)]}),
        ("input[0].call_id", {"input": [{"type": "function_call", "name": "x", "arguments": ""}]}),
        ("input[0].name", {"input": [called(name="")]}),
        ("input[0].output", {"input": [{"type": "function_call_output", "call_id": "x"}]}),
        ("input[0].summary[0].text", {"input": [reasoning(summary=[{"text": 5}])]}),
        ("previous_response_id", {"previous_response_id": "resp_1"}),
        ("conversation", {"conversation": "conv_1"}),
        ("conversation", {"conversation": {"id": "conv_1"}}),
        ("background", {"background": True}),
        ("prompt", {"prompt": {"id": "pmpt_1"}}),
        ("moderation", {"moderation": {"model": "x"}}),
        ("max_output_tokens", {"max_output_tokens": 0}),
        ("tools[0].type", {"tools": [{"type": "web_search"}]}),
        ("tools[0].name", {"tools": [{"type": "function"}]}),
        ("tool_choice", {"tools": [TOOL], "tool_choice": {"type": "function", "name": "other"}}),
        ("tool_choice", {"tool_choice": "always"}),
        ("reasoning.effort", {"reasoning": {"effort": "some"}}),
        ("text.format.type", {"text": {"format": {"type": "xml"}}}),
        ("text.format.schema", {"text": {"format": {"type": "json_schema", "name": "x"}}}),
        ("truncation", {"truncation": "never"}),
        ("metadata.a", {"metadata": {"a": 1}}),
        ("instructions", {"instructions": ["a"]}),
        ("include", {"include": [5]}),
        ("stream", {"stream": "yes"}),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(param: str, more: dict[str, Any]) -> None:
    assert refused(**more).param == param


def test_a_request_without_a_model_takes_the_default_or_is_refused() -> None:
    codec = open_response(inbound({"input": "a"}, default_model="qwen3:0.6b"))
    assert (codec.outbounds[0].model, (codec.outbounds[0].body or {})["model"]) == ("qwen3:0.6b", "qwen3:0.6b")
    with pytest.raises(BadRequest) as caught:
        open_response(inbound({"input": "a"}))
    assert (caught.value.param, caught.value.code) == ("model", "missing_parameter")


def test_parameters_without_effect_are_logged_as_ignored() -> None:
    codec = opened(store=True, user="me", include=["web_search_call.results"], service_tier="auto", mine=1)
    assert sorted(codec.ignored) == ["include", "service_tier", "store", "user"]
    assert list(opened(store=False, include=["reasoning.encrypted_content"], background=False).ignored) == []


@pytest.mark.parametrize(
    ("asked", "body"),
    [
        ({"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
        ({"include": ["message.output_text.logprobs"]}, {"logprobs": True}),
        ({"include": ["reasoning.encrypted_content"]}, {}),
    ],
)
def test_log_probabilities_are_asked_for(asked: dict[str, Any], body: dict[str, Any]) -> None:
    found = sent(**asked)
    assert {name: found[name] for name in ("logprobs", "top_logprobs") if name in found} == body


def test_a_null_is_as_good_as_nothing() -> None:
    names = ["instructions", "tools", "reasoning", "text", "previous_response_id", "conversation", "stream", "metadata"]
    assert sent(**dict.fromkeys(names)) == sent()


def test_the_earlier_response_is_asked_for_and_said_to_be_unknown() -> None:
    asked = inbound({**ASK, "previous_response_id": "resp_1"})
    assert list(wanted_documents(asked)) == ["resp_1"]
    assert list(wanted_documents(inbound(ASK))) == []
    assert list(wanted_documents(inbound({**ASK, "previous_response_id": None}))) == []
    with pytest.raises(BadRequest, match="send the whole conversation as input"):
        open_response(asked)
    other = replace(asked, documents={"resp_2": Document("resp_2", b"{}")})
    with pytest.raises(BadRequest, match="no response is stored here"):
        open_response(other)


@pytest.mark.parametrize("raw", [b"", b"[]", b"previous_response_id", b'{"previous_response_id":5}', b"\x00"])
def test_wanted_documents_raises_nothing_but_api_errors(raw: bytes) -> None:
    with suppress(ApiError):
        assert list(wanted_documents(inbound(raw))) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
TYPES = ["message", "reasoning", "function_call", "function_call_output", "input_text", "input_image", "output_text"]
PARTS = ["type", "text", "image_url", "refusal"]
MEMBERS = ["type", "role", "content", "summary", "encrypted_content", "call_id", "name", "arguments", "output"]
PART = st.fixed_dictionaries({}, optional={**dict.fromkeys(PARTS, JSON), "type": st.sampled_from(TYPES) | JSON})
ITEM = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(MEMBERS, JSON | st.just("{}")),
        "type": st.sampled_from(TYPES),
        "role": st.sampled_from(["user", "assistant"]) | JSON,
        **dict.fromkeys(["content", "output", "summary"], st.lists(PART, max_size=2) | JSON),
    },
)
NAMES = ["model", "instructions", "tools", "tool_choice", "reasoning", "text", "include", "metadata", "stream", "store"]
BODY = {**dict.fromkeys([*NAMES, "max_output_tokens", "temperature", "truncation", "background"], JSON)}


@given(st.fixed_dictionaries({}, optional={**BODY, "input": st.lists(ITEM, max_size=4) | JSON}))
def test_no_body_raises_anything_but_an_api_error(asked: dict[str, Any]) -> None:
    for body in (asked, {**ASK, **asked}, {**ASK, "input": asked.get("input", "a")}):
        try:
            codec = open_response(inbound(json.dumps(body).encode()))
        except ApiError:
            continue
        orjson.dumps(codec.outbounds[0].body)
        assert codec.fail(ApiError("gone")) or not codec.streams
