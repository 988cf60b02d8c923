"""What a request for a message becomes on the node, and what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from anthropic_events import QUESTION, THINKER, WEATHER, WORDY, ask, image, native, opened, text, turn
from hypothesis import given
from hypothesis import strategies as st

from parallama.errors import BadRequest, ModelUnknown

UNKNOWN: dict[str, Any] = {"models": []}
CLOCK = {"name": "clock", "input_schema": {"type": "object"}}


def messages(*turns: Any, **more: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = native(messages=list(turns), **more)["messages"]
    return found


def refused(body: Any, **more: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        opened(body, **more)
    assert caught.value.status == 400
    return caught.value


def test_a_plain_question_is_sent_with_nothing_that_was_not_asked() -> None:
    body = {"model": WORDY, "messages": QUESTION, "stream": True, "options": {"num_predict": 64}}
    assert native() == body
    assert native(stream=True) == body
    assert opened(ask(stream=True)).streams
    assert not opened(ask()).streams


def test_a_request_without_a_model_gets_the_default() -> None:
    body = {"max_tokens": 1, "messages": QUESTION}
    (outbound,) = opened(body, default_model=WORDY).outbounds
    assert (outbound.model, (outbound.body or {})["model"]) == (WORDY, WORDY)
    for without in (body, {**body, "model": ""}, {**body, "model": None}):
        error = refused(without)
        assert (error.code, error.param) == ("missing_parameter", "model")


# system


@pytest.mark.parametrize(
    ("system", "told"),
    [
        ("Be brief.", "Be brief."),
        ([text("Be brief.")], "Be brief."),
        ([{**text("Be brief."), "cache_control": {"type": "ephemeral"}}, text("Be kind.")], "Be brief.\n\nBe kind."),
        ([text(""), text("Be kind.")], "Be kind."),
    ],
)
def test_the_system_prompt_is_the_first_message(system: Any, told: str) -> None:
    assert native(system=system)["messages"] == [{"role": "system", "content": told}, *QUESTION]


@pytest.mark.parametrize("system", ["", [], None, [text("")]])
def test_an_empty_system_prompt_leaves_the_models_own(system: Any) -> None:
    assert native(system=system)["messages"] == QUESTION


def test_a_system_message_stays_where_it_stands() -> None:
    turns = [*QUESTION, {"role": "system", "content": "Hurry."}, {"role": "system", "content": [text("Go.")]}]
    assert [(m["role"], m["content"]) for m in messages(*turns)][1:] == [("system", "Hurry."), ("system", "Go.")]


# content


def test_text_blocks_of_a_user_are_texts_of_their_own() -> None:
    assert messages(turn(text("One."), text(""), text("Two."))) == [{"role": "user", "content": "One.\n\nTwo."}]


def test_text_blocks_of_the_model_are_one_text() -> None:
    assert messages(*QUESTION, turn(text("Be"), text("cause"), role="assistant"))[1]["content"] == "Because"


def test_a_message_of_empty_blocks_is_still_a_message() -> None:
    assert messages(turn(text("")), turn()) == [{"role": "user", "content": ""}] * 2


def test_consecutive_messages_of_one_role_pass() -> None:
    assert messages(*QUESTION, *QUESTION) == [*QUESTION, *QUESTION]


def test_a_prefilled_answer_passes_as_it_is() -> None:
    prefill = {"role": "assistant", "content": "The answer is ("}
    assert messages(*QUESTION, prefill)[-1] == prefill


def test_an_image_in_base64_is_sent_beside_the_text() -> None:
    told = {"role": "user", "content": "What is it?", "images": ["iVBORw0KGgo="]}
    assert messages(turn(image(), text("What is it?"))) == [told]


@pytest.mark.parametrize("data", ["iVBORw0KGgo", "iVBO Rw0K\nGgo=", "iVBORw0KGgo="])
def test_an_image_is_sent_as_go_reads_base64(data: str) -> None:
    assert messages(turn(image(data=data)))[0]["images"] == ["iVBORw0KGgo="]


@pytest.mark.parametrize(
    ("source", "param"),
    [
        ({"type": "url", "url": "http://10.0.0.1/x.png"}, "type"),
        ({"type": "file", "file_id": "f"}, "type"),
        ({"media_type": "image/tiff"}, "media_type"),
        ({"media_type": None}, "media_type"),
        ({"data": "not base64!"}, "data"),
        ({"data": "data:image/png;base64,iVBORw0KGgo="}, "data"),
        ({"data": "ïVBO"}, "data"),
        ({"data": ""}, "data"),
        ({"data": None}, "data"),
    ],
)
def test_an_image_that_is_not_there_is_refused(source: Any, param: str) -> None:
    error = refused(ask(messages=[turn(text("x"), image(**source))]))
    assert error.param == f"messages[0].content[1].source.{param}"


def test_a_document_of_text_is_part_of_the_text() -> None:
    plain = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "The sky is blue."}}
    assert messages(turn(plain, text("Why?")))[0]["content"] == "The sky is blue.\n\nWhy?"
    named = {**plain, "title": "Sky", "context": "A book", "citations": {"enabled": True}}
    assert messages(turn(named))[0]["content"] == "Sky\n\nA book\n\nThe sky is blue."


def test_a_document_of_blocks_is_text_and_images() -> None:
    blocks = {"type": "document", "source": {"type": "content", "content": [text("One."), image()]}}
    assert messages(turn(blocks)) == [{"role": "user", "content": "One.", "images": ["iVBORw0KGgo="]}]
    assert messages(turn({"type": "document", "source": {"type": "content", "content": "x"}}))[0]["content"] == "x"


@pytest.mark.parametrize(
    ("source", "param"),
    [
        ({"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}, "type"),
        ({"type": "url", "url": "http://10.0.0.1/x.pdf"}, "type"),
        ({"type": "file", "file_id": "f"}, "type"),
        ({"type": "text", "media_type": "text/html", "data": "x"}, "media_type"),
        ({"type": "text"}, "data"),
        ({"type": "content"}, "content"),
        ({"type": "content", "content": [{"type": "document"}]}, "content[0].type"),
    ],
)
def test_a_document_that_no_model_can_read_is_refused(source: Any, param: str) -> None:
    error = refused(ask(messages=[turn({"type": "document", "source": source})]))
    assert error.param == f"messages[0].content[0].source.{param}"


def test_a_search_result_is_part_of_the_text() -> None:
    found = {"type": "search_result", "source": "http://sky", "title": "Sky", "content": [text("Blue."), text("Big.")]}
    assert messages(turn(found))[0]["content"] == "Sky\n\nhttp://sky\n\nBlue.\n\nBig."


@pytest.mark.parametrize(
    "kind",
    [
        *("server_tool_use", "web_search_tool_result", "web_fetch_tool_result", "code_execution_tool_result"),
        *("container_upload", "tool_reference", "compaction", "nonsense", "tool_use"),
    ],
)
def test_blocks_that_nothing_here_can_stand_for_are_refused_by_name(kind: str) -> None:
    error = refused(ask(messages=[turn(text("x"), {"type": kind})]))
    assert error.param == "messages[0].content[1].type"
    assert kind in str(error)


def test_what_only_users_say_the_model_may_not() -> None:
    assert refused(ask(messages=[*QUESTION, turn(image(), role="assistant")])).param == "messages[1].content[0].type"
    assert refused(ask(messages=[turn(image(), role="system")])).param == "messages[0].content[0].type"


# tools and thinking in messages

USED = turn(
    {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
    {"type": "redacted_thinking", "data": "secret"},
    text("Let me look."),
    {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}},
    {"type": "tool_use", "id": "toolu_2", "name": "clock", "input": {}},
    role="assistant",
)


def result(id: str = "toolu_1", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, **more}


def test_thinking_and_calls_are_sent_back_to_the_model() -> None:
    assert messages(*QUESTION, USED)[1] == {
        "role": "assistant",
        "content": "Let me look.",
        "thinking": "Hm.",
        "tool_calls": [
            {"id": "toolu_1", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}},
            {"id": "toolu_2", "function": {"name": "clock", "arguments": {}}},
        ],
    }


def test_results_stand_before_the_text_of_their_message_with_id_and_name() -> None:
    told = turn(text("And?"), result(content="sunny"), result("toolu_2", content=[text("noon"), image()]))
    assert messages(*QUESTION, USED, told)[2:] == [
        {"role": "tool", "content": "sunny", "tool_call_id": "toolu_1", "tool_name": "get_weather"},
        {
            "role": "tool",
            "content": "noon",
            "images": ["iVBORw0KGgo="],
            "tool_call_id": "toolu_2",
            "tool_name": "clock",
        },
        {"role": "user", "content": "And?"},
    ]


def test_results_alone_make_no_message_of_the_user() -> None:
    assert [message["role"] for message in messages(*QUESTION, USED, turn(result()))][2:] == ["tool"]


@pytest.mark.parametrize(("content", "told"), [("No.", "Error: No."), ([text("No.")], "Error: No."), (None, "Error: ")])
def test_a_tool_that_failed_is_told_as_an_error(content: Any, told: str) -> None:
    assert messages(*QUESTION, USED, turn(result(content=content, is_error=True)))[2]["content"] == told
    assert not messages(*QUESTION, USED, turn(result(content="x", is_error=False)))[2]["content"].startswith("Error")


def test_the_result_of_a_call_that_is_not_there_keeps_its_id() -> None:
    assert messages(turn(result("toolu_9", content="x"))) == [
        {"role": "tool", "content": "x", "tool_call_id": "toolu_9"}
    ]


def test_documents_and_search_results_may_be_results() -> None:
    plain = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "One."}}
    found = {"type": "search_result", "source": "s", "title": "t", "content": [text("Two.")]}
    assert messages(*QUESTION, USED, turn(result(content=[plain, found])))[2]["content"] == "One.\n\nt\n\ns\n\nTwo."
    error = refused(ask(messages=[turn(result(content=[result()]))]))
    assert error.param == "messages[0].content[0].content[0].type"


# parameters


def test_sampling_becomes_options() -> None:
    sent = native(max_tokens=7, temperature=0.5, top_p=1, top_k=40, stop_sequences=["a", "", "b"])
    assert sent["options"] == {"num_predict": 7, "temperature": 0.5, "top_p": 1, "top_k": 40, "stop": ["a", "b"]}


@pytest.mark.parametrize("stops", [[], [""], None])
def test_no_stop_sequence_leaves_the_models_own(stops: Any) -> None:
    assert "stop" not in native(stop_sequences=stops)["options"]


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 2**64}, "max_tokens"),
        ({"temperature": 1.1}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"stop_sequences": [1]}, "stop_sequences"),
        ({"stream": "yes"}, "stream"),
        ({"model": 5}, "model"),
        ({"system": 5}, "system"),
        ({"system": [image()]}, "system[0].type"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "Why?"}, "messages"),
        ({"messages": ["Why?"]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": {}}]}, "messages[0].content"),
        ({"messages": [turn("x")]}, "messages[0].content[0]"),
        ({"messages": [turn({"text": "x"})]}, "messages[0].content[0].type"),
        ({"messages": [turn({"type": "text"})]}, "messages[0].content[0].text"),
        ({"messages": [turn(result(""), {"type": "tool_result"})]}, "messages[0].content[1].tool_use_id"),
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{**WEATHER, "description": 5}]}, "tools[0].description"),
        ({"tool_choice": {}}, "tool_choice.type"),
        ({"tool_choice": {"type": "all"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "tool", "name": "get_weather"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "auto", "disable_parallel_tool_use": 1}}, "tool_choice.disable_parallel_tool_use"),
        ({"thinking": {}}, "thinking.type"),
        ({"thinking": {"type": "deep"}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": "x"}}, "thinking.budget_tokens"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"output_config": {"format": {"type": "json"}}}, "output_config.format.type"),
        ({"mcp_servers": [{"type": "url", "url": "http://x"}]}, "mcp_servers"),
    ],
)
def test_what_is_wrong_is_named(wrong: dict[str, Any], param: str) -> None:
    error = refused(ask(**wrong))
    assert error.param == param
    assert error.code in ("missing_parameter", "invalid_parameter")
    assert param in str(error)


def test_what_changes_nothing_is_ignored_and_named() -> None:
    known: dict[str, Any] = {
        "metadata": {"user_id": "u"},
        "service_tier": "auto",
        "container": "c",
        "cache_control": {},
    }
    codec = opened(ask(**known, mcp_servers=[], nonsense=1))
    assert set(codec.ignored) == set(known)
    assert native(**known, mcp_servers=[], nonsense=1) == native()


def test_the_query_changes_nothing() -> None:
    assert opened(ask(), query={"beta": "true"}).outbounds == opened(ask()).outbounds


# tools


def test_tools_become_functions() -> None:
    function = {
        "name": "get_weather",
        "description": "Weather in a city",
        "parameters": WEATHER["input_schema"],
    }
    tools = [{**WEATHER, "type": "custom", "cache_control": {}, "strict": True}, CLOCK]
    assert native(tools=tools)["tools"] == [
        {"type": "function", "function": function},
        {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}},
    ]
    assert "tools" not in native(tools=[])


@pytest.mark.parametrize(
    "kind",
    [
        *("web_search_20250305", "web_fetch_20250910", "bash_20250124", "computer_toolset_20260801"),
        *("text_editor_20250728", "code_execution_20260521", "memory_20250818", "tool_search_tool_regex_20251119"),
        "function",
    ],
)
def test_tools_of_anthropics_own_are_refused_by_name(kind: str) -> None:
    error = refused(ask(tools=[WEATHER, {"type": kind, "name": "x"}]))
    assert error.param == "tools[1].type"
    assert kind in str(error)


@pytest.mark.parametrize(
    ("choice", "offered", "ignored"),
    [
        ({"type": "auto"}, ["get_weather", "clock"], []),
        ({"type": "any"}, ["get_weather", "clock"], ["tool_choice"]),
        ({"type": "tool", "name": "clock"}, ["clock"], ["tool_choice"]),
        ({"type": "none"}, [], []),
    ],
)
def test_a_choice_of_tools_decides_which_are_offered(choice: Any, offered: list[str], ignored: list[str]) -> None:
    sent = native(tools=[WEATHER, CLOCK], tool_choice=choice)
    assert [tool["function"]["name"] for tool in sent.get("tools", ())] == offered
    assert opened(ask(tools=[WEATHER, CLOCK], tool_choice=choice)).ignored == ignored


# thinking and formats


@pytest.mark.parametrize(
    ("asked", "think"),
    [
        ({}, False),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, True),
        ({"thinking": {"type": "adaptive"}}, True),
        ({"thinking": {"type": "between_tools"}}, True),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, "low"),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}, "max"),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, False),
        ({"output_config": {"effort": "medium"}}, "medium"),
        ({"output_config": {"effort": "max"}}, "max"),
        ({"output_config": {}}, False),
    ],
)
def test_a_model_that_can_think_does_so_if_it_is_asked_to(asked: dict[str, Any], think: Any) -> None:
    assert native(THINKER, **asked)["think"] == think
    assert "think" not in native(WORDY, **asked), "a model that cannot is not asked"


def test_of_an_unknown_model_only_the_clients_own_wish_is_sent() -> None:
    assert "think" not in native("new", UNKNOWN)
    assert native("new", UNKNOWN, thinking={"type": "disabled"})["think"] is False
    assert native("new", UNKNOWN, thinking={"type": "adaptive"})["think"] is True


def test_an_alias_thinks_if_its_target_can() -> None:
    assert native("claude", {"aliases": {"claude": THINKER}})["think"] is False


@pytest.mark.parametrize("place", ["output_config", "output_format"])
def test_a_schema_of_the_answer_is_sent(place: str) -> None:
    form = {"type": "json_schema", "schema": {"type": "object", "$defs": {"a": {"type": "string"}}}}
    asked: dict[str, Any] = {place: {"format": form} if place == "output_config" else form}
    assert native(**asked)["format"] == form["schema"]


# bodies of any kind

ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["text", "user", "tool"])
VALUES = st.recursive(ATOMS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
KEYS = ("type", "text", "source", "content", "input", "id", "name", "tool_use_id", "thinking", "data", "media_type")
KINDS = ("text", "image", "document", "search_result", "tool_result", "tool_use", "thinking", "base64", "content")
BLOCKS: st.SearchStrategy[Any] = st.recursive(
    ATOMS | st.sampled_from(KINDS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.builds(
            lambda kind, rest: {**rest, "type": kind},
            st.sampled_from(KINDS),
            st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
        )
    ),
    max_leaves=12,
)
NAMES = (
    *("model", "max_tokens", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "stream"),
    *("temperature", "stop_sequences", "mcp_servers", "metadata", "output_format"),
)


def survives(raw: bytes) -> None:
    for path in ("/anthropic/v1/messages", "/v1/messages/count_tokens"):
        try:
            codec = opened(raw, path)
        except (BadRequest, ModelUnknown):
            continue
        for outbound in codec.outbounds:
            orjson.dumps(outbound.body)


@given(st.dictionaries(st.sampled_from(NAMES), VALUES | BLOCKS))
def test_no_value_breaks_the_reading_of_a_request(wrong: dict[str, Any]) -> None:
    survives(json.dumps({**ask(), **wrong}).encode())


@given(st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": BLOCKS})))
def test_no_block_breaks_the_reading_of_a_request(turns: list[Any]) -> None:
    survives(json.dumps(ask(messages=turns)).encode())


@given(st.binary())
def test_no_bytes_break_the_reading_of_a_request(raw: bytes) -> None:
    survives(raw)


DEEP = '{"model":"llama3.2:1b","max_tokens":1,"messages":[{"role":"user","content":%s}]}'


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"\x00",
        b"{" * 5000,
        (DEEP % ("[" * 1000 + "]" * 1000)).encode(),
        (DEEP % ('{"a":' * 250 + "1" + "}" * 250)).encode(),
        (DEEP % '"\\ud800"').encode(),
        (DEEP % '"\\u0000"').encode(),
        b'{"model":"x","max_tokens":1e400,"messages":[]}',
        b'{"model":"x","max_tokens":' + b"9" * 5000 + b',"messages":[]}',
        b'{"model":"\\udc00","max_tokens":1,"messages":[{"role":"user","content":"x"}]}',
    ],
)
def test_odd_bodies_are_answered(raw: bytes) -> None:
    survives(raw)


@pytest.mark.parametrize("depth", range(225, 256, 3))
def test_what_could_be_read_can_be_written(depth: int) -> None:
    deep: Any = {}
    for _ in range(depth):
        deep = {"a": deep}
    used = {"type": "tool_use", "id": "1", "name": "x", "input": deep}
    for body in (
        ask(tools=[{"name": "x", "input_schema": deep}]),
        ask(messages=[*QUESTION, turn(used, role="assistant")]),
    ):
        survives(json.dumps(body).encode())
