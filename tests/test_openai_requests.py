"""Chat completions on their way in: every parameter becomes what Ollama calls it, or is refused by its name."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from openai_asking import MODEL, THINKER, USER, messages, opened, refused, sent
from parallama_openai.chat import open_chat

from parallama.errors import BadRequest
from parallama.testing import inbound

WEATHER = {"name": "weather", "description": "Tells it.", "parameters": {"type": "object", "properties": {"c": {}}}}
TIME = {"name": "time", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": one} for one in (WEATHER, TIME)]


def test_a_node_is_told_nothing_that_was_not_said() -> None:
    assert sent() == {"model": MODEL, "messages": [USER], "stream": True}
    assert sent(stream=True) == sent(stream=False) == sent()
    (outbound,) = opened().outbounds
    assert (outbound.method, outbound.path, outbound.model) == ("POST", "/api/chat", MODEL)


def test_nulls_are_as_good_as_nothing() -> None:
    names = ["temperature", "stop", "n", "tools", "tool_choice", "response_format", "reasoning_effort", "max_tokens"]
    names += ["logprobs", "top_logprobs", "stream", "stream_options", "web_search_options", "modalities", "user"]
    assert sent(**dict.fromkeys(names)) == sent()


def test_the_default_answers_who_names_no_model() -> None:
    for given in ({"messages": [USER]}, {"messages": [USER], "model": ""}, {"messages": [USER], "model": None}):
        (outbound,) = open_chat(inbound(given, default_model="qwen3")).outbounds
        assert (outbound.model, (outbound.body or {})["model"]) == ("qwen3", "qwen3")
        with pytest.raises(BadRequest) as caught:
            open_chat(inbound(given))
        assert (caught.value.code, caught.value.param) == ("missing_parameter", "model")


def test_samplers_become_options() -> None:
    samplers = {"temperature": 0, "top_p": 0.5, "seed": -3, "frequency_penalty": 2, "presence_penalty": -2}
    assert sent(**samplers)["options"] == samplers


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 2.1),
        ("temperature", "1"),
        ("top_p", -0.1),
        ("seed", 1.5),
        ("seed", 2**63),
        ("frequency_penalty", 3),
        ("presence_penalty", True),
        ("stop", [1]),
        ("stream", "true"),
        ("n", 0),
        ("n", 17),
        ("n", 10**30),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_completion_tokens", 0),
        ("max_completion_tokens", "5"),
        ("logprobs", 1),
        ("top_logprobs", 21),
        ("top_logprobs", -1),
        ("top_logprobs", 3),
        ("parallel_tool_calls", 0),
        ("model", 1),
        ("messages", {}),
        ("messages", []),
        ("reasoning_effort", "extreme"),
        ("reasoning", "high"),
        ("web_search_options", {}),
        ("moderation", {"model": "m"}),
        ("modalities", ["text", "audio"]),
        ("tool_choice", "any"),
        ("tool_choice", 1),
        ("tools", [1]),
    ],
)
def test_what_is_wrong_is_refused_by_its_name(name: str, value: Any) -> None:
    error = refused(**{name: value})
    assert (error.code, (error.param or "").partition("[")[0]) == ("invalid_parameter", name)
    assert name in str(error)


@pytest.mark.parametrize(("stop", "options"), [(".", ["."]), (["a", "", "b"], ["a", "b"]), ([], None), ("", None)])
def test_stops_become_a_list_and_no_stop_undoes_the_modelfiles(stop: Any, options: Any) -> None:
    assert sent(stop=stop).get("options", {}).get("stop") == options


def test_the_newer_limit_wins() -> None:
    assert sent(max_tokens=9, max_completion_tokens=3)["options"] == {"num_predict": 3}
    assert sent(max_tokens=9, max_completion_tokens=None)["options"] == {"num_predict": 9}
    assert sent(max_tokens=9.0)["options"] == {"num_predict": 9}


def test_choices_are_requests_that_share_their_messages() -> None:
    outbounds = opened(n=3, seed=7, temperature=1).outbounds
    bodies = [outbound.body or {} for outbound in outbounds]
    assert [body["options"] for body in bodies] == [{"temperature": 1, "seed": seed} for seed in (7, 8, 9)]
    assert all(body["messages"] is bodies[0]["messages"] for body in bodies)
    assert [body.get("options") for body in (outbound.body or {} for outbound in opened(n=2).outbounds)] == [None] * 2


EFFORTS = {"none": False, "minimal": "low", "low": "low", "medium": "medium", "high": "high", "max": "max"}


@pytest.mark.parametrize(("effort", "think"), [*EFFORTS.items(), ("xhigh", "max"), ("ultra", "max")])
def test_an_effort_to_reason_becomes_think(effort: str, think: Any) -> None:
    assert sent(model=THINKER, reasoning_effort=effort)["think"] == think
    assert sent(model=THINKER, reasoning_effort="low", reasoning={"effort": effort})["think"] == think
    assert sent(model="unheard-of", reasoning_effort=effort)["think"] == think
    assert "think" not in sent(model=MODEL, reasoning_effort=effort)


def test_an_alias_thinks_as_its_model_does() -> None:
    asked = {"model": "mine", "messages": [USER], "reasoning_effort": "high"}
    for target, thinks in ((THINKER, True), (MODEL, False)):
        (outbound,) = open_chat(inbound(asked, aliases={"mine": target})).outbounds
        assert ("think" in (outbound.body or {}), outbound.model) == (thinks, "mine")


SCHEMA = {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "additionalProperties": False}}}


def test_formats_become_ollamas() -> None:
    assert sent(response_format={"type": "json_object"})["format"] == "json"
    named = {"name": "x", "strict": True, "schema": SCHEMA}
    assert sent(response_format={"type": "json_schema", "json_schema": named})["format"] == SCHEMA
    assert "format" not in sent(response_format={"type": "text"})


@pytest.mark.parametrize(
    ("wanted", "param"),
    [
        ({}, "response_format.type"),
        ({"type": "xml"}, "response_format.type"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"schema": True}}, "response_format.json_schema.schema"),
    ],
)
def test_a_format_that_says_nothing_is_refused(wanted: Any, param: str) -> None:
    assert refused(response_format=wanted).param == param


def test_log_probabilities_are_asked_for_as_they_are() -> None:
    assert sent(logprobs=True, top_logprobs=20) == {**sent(), "logprobs": True, "top_logprobs": 20}
    assert sent(logprobs=True) == {**sent(), "logprobs": True}
    assert sent(logprobs=False, top_logprobs=0) == sent()


def test_what_changes_nothing_is_named_as_ignored() -> None:
    harmless = {"user": "me", "store": True, "metadata": {}, "logit_bias": {"1": 2}, "prediction": {}, "audio": {}}
    codec = opened(**harmless, nobody_knows=1, service_tier=None)
    assert sorted(codec.ignored) == sorted(harmless)
    assert sent(**harmless, nobody_knows=[{}], modalities=["text"]) == sent()


def test_tools_are_offered_as_they_are() -> None:
    assert sent(tools=TOOLS)["tools"] == TOOLS
    bare = {"type": "object", "properties": {}}
    assert sent(tools=[{"function": {"name": "a", "strict": True}}])["tools"] == [
        {"type": "function", "function": {"name": "a", "parameters": bare}}
    ]
    assert "tools" not in sent(tools=[])


def allowed(*names: str, flat: bool = False) -> dict[str, Any]:
    tools = [{"type": "function", **({"name": n} if flat else {"function": {"name": n}})} for n in names]
    inner = {"mode": "required", "tools": tools}
    return {"type": "allowed_tools", **(inner if flat else {"allowed_tools": inner})}


@pytest.mark.parametrize(
    ("choice", "offered"),
    [
        ("auto", ["weather", "time"]),
        ("required", ["weather", "time"]),
        ("none", None),
        ({"type": "function", "function": {"name": "time"}}, ["time"]),
        ({"type": "function", "name": "time"}, ["time"]),
        (allowed("time"), ["time"]),
        (allowed("weather", "time", flat=True), ["weather", "time"]),
        ({"type": "hosted"}, ["weather", "time"]),
    ],
)
def test_a_choice_of_tools_decides_what_is_offered(choice: Any, offered: Any) -> None:
    tools = sent(tools=TOOLS, tool_choice=choice).get("tools")
    assert (tools and [one["function"]["name"] for one in tools]) == offered


@pytest.mark.parametrize(
    "choice", [{"function": {"name": "nosuch"}}, allowed("nosuch"), {"type": "custom", "custom": {"name": "time!"}}]
)
def test_a_choice_that_is_not_among_the_tools_is_refused(choice: Any) -> None:
    assert refused(tools=TOOLS, tool_choice=choice).param == "tool_choice"


@pytest.mark.parametrize(
    ("tool", "where"),
    [
        ({"type": "custom", "custom": {"name": "shell"}}, ".type"),
        ({"type": "function"}, ".function"),
        ({"type": "function", "function": {"name": ""}}, ".function.name"),
        ({"type": "function", "function": {"name": "a", "parameters": "x"}}, ".function.parameters"),
    ],
)
def test_a_tool_that_is_no_function_is_refused(tool: Any, where: str) -> None:
    assert refused(tools=[TOOLS[0], tool]).param == f"tools[1]{where}"


def test_functions_are_tools_in_older_words() -> None:
    assert sent(functions=[WEATHER, TIME])["tools"] == TOOLS
    assert sent(functions=[WEATHER, TIME], function_call={"name": "time"})["tools"] == TOOLS[1:]
    assert "tools" not in sent(functions=[WEATHER], function_call="none")
    assert refused(functions=[WEATHER], function_call={"name": "nosuch"}).param == "function_call"
    older = {"role": "assistant", "content": None, "function_call": {"name": "time", "arguments": "{}"}}
    assert messages(older, {"role": "function", "name": "time", "content": "noon"}) == [
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "time", "arguments": {}}}]},
        {"role": "tool", "content": "noon", "tool_name": "time"},
    ]


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"", "invalid_json"), (b"{", "invalid_json"), (b"[]", "invalid_json_shape"), (b"\xff", "invalid_json")],
)
def test_what_is_no_object_is_refused(body: bytes, code: str) -> None:
    with pytest.raises(BadRequest) as caught:
        open_chat(inbound(body))
    assert caught.value.code == code


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=4),
        st.sampled_from(
            ["function", "text", "image_url", "assistant", "tool", "{", "\0", "data:;base64,AA", 2**64, 10**400]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["role", "content", "type", "text", "function", "name", "arguments", "tool_calls", "image_url", "tools"]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)
TOOLING = st.sampled_from(["tools", "tool_choice", "functions", "function_call", "response_format", "modalities"])
LIMITS = st.sampled_from(["model", "stop", "n", "seed", "max_tokens", "logprobs", "stream", "stream_options"])
FIELDS = st.one_of(TOOLING, LIMITS, st.sampled_from(["reasoning", "reasoning_effort", "user"]))
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool", "function"])},
        optional=dict.fromkeys(("content", "tool_calls", "function_call", "reasoning", "name", "tool_call_id"), JSON),
    ),
    max_size=3,
)


@drawn(fields=st.dictionaries(FIELDS, JSON, max_size=6), told=st.one_of(MESSAGES, JSON))
def test_no_body_raises_anything_but_a_bad_request(fields: dict[str, Any], told: Any) -> None:
    body = json.dumps({"model": MODEL, "messages": told, **fields}).encode()
    with suppress(BadRequest):
        assert all(orjson.dumps(outbound.body) for outbound in open_chat(inbound(body)).outbounds)


@drawn(body=st.binary(max_size=40))
def test_no_bytes_raise_anything_but_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequest):
        open_chat(inbound(body))
