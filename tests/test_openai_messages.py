"""The messages of a chat completion on their way in: roles, parts, images, calls of tools and their results."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from openai_asking import USER, call, messages, refused
from parallama_openai.chat import open_chat

from parallama.testing import inbound

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n....>>>???").decode()


def test_roles_become_ollamas() -> None:
    roles = ["system", "developer", "user", "Assistant", "USER"]
    told = messages(*({"role": role, "content": role} for role in roles))
    assert [one["role"] for one in told] == ["system", "system", "user", "assistant", "user"]
    assert [one["content"] for one in told] == roles


def test_parts_stay_one_message() -> None:
    parts = [
        {"type": "text", "text": "one"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "refusal", "refusal": "two"},
    ]
    assert messages({"role": "user", "content": parts}) == [
        {"role": "user", "content": "one\ntwo", "images": [PNG, "UklGRg=="]}
    ]


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{PNG}",
        f"data:image/jpg;charset=utf-8;base64,{PNG}",
        f"DATA:image/WEBP;Base64,{PNG}",
        f"data:;base64,{PNG}",
        f"data:image/jpeg;base64,{PNG.rstrip('=')}",
        f"data:image/jpeg;base64, {PNG[:9]}\r\n {PNG[9:]}\n",
        f"data:image/png;base64,{PNG.replace('+', '-').replace('/', '_')}",
    ],
)
def test_a_data_url_gives_base64_as_a_node_reads_it(url: str) -> None:
    for image in (url, {"url": url}):
        (told,) = messages({"role": "user", "content": [{"type": "image_url", "image_url": image}]})
        assert told == {"role": "user", "content": "", "images": [PNG]}


def test_an_image_of_20_mb_passes() -> None:
    data = base64.b64encode(bytes(20_000_000)).decode()
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    assert messages({"role": "user", "content": [part]})[0]["images"] == [data]


@pytest.mark.parametrize(
    ("part", "where", "words"),
    [
        ({"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}, ".image_url.url", "data: URL"),
        ({"type": "image_url", "image_url": "http://x.test/a.png"}, ".image_url", "data: URL"),
        ({"type": "image_url", "image_url": "data:image/png,abc"}, ".image_url", "base64"),
        ({"type": "image_url", "image_url": "data:image/svg+xml;base64,AAAA"}, ".image_url", "image/png"),
        ({"type": "image_url", "image_url": "data:image/png;base64,A"}, ".image_url", "no base64"),
        ({"type": "image_url", "image_url": "data:image/png;base64,"}, ".image_url", "no base64"),
        ({"type": "image_url", "image_url": "data:image/png;base64,Ä"}, ".image_url", "no base64"),
        ({"type": "image_url", "image_url": {}}, ".image_url.url", "missing"),
        ({"type": "image_url"}, ".image_url", "missing"),
        ({"type": "input_audio", "input_audio": {"data": "AA==", "format": "ogg"}}, ".input_audio.format", "wav"),
        ({"type": "input_audio", "input_audio": {"data": "?"}}, ".input_audio.data", "no base64"),
        ({"type": "file", "file": {"file_id": "f"}}, ".type", "not supported"),
        ({"type": "text"}, ".text", "missing"),
        ({"text": "no type"}, ".type", "missing"),
        (5, "", "object"),
    ],
)
def test_a_part_that_no_node_can_have_is_refused(part: Any, where: str, words: str) -> None:
    error = refused(messages=[USER, {"role": "user", "content": [part]}])
    assert error.param == f"messages[1].content[0]{where}"
    assert words in str(error)


@pytest.mark.parametrize(
    ("given", "read"),
    [('{"city":"Paris"}', {"city": "Paris"}), ("", {}), (" \n", {}), (None, {}), ({"a": 1}, {"a": 1})],
)
def test_arguments_become_an_object(given: Any, read: Any) -> None:
    (told,) = messages({"role": "assistant", "content": None, "tool_calls": [call(given)]})
    function = {"name": "weather", "arguments": read}
    assert told == {"role": "assistant", "content": "", "tool_calls": [{"id": "call_1", "function": function}]}


@pytest.mark.parametrize("given", ["{", "[]", "5", "null x", 5, "[" * 500 + "]" * 500, '{"a":' * 300 + "1" + "}" * 300])
def test_arguments_that_are_no_object_are_refused(given: Any) -> None:
    error = refused(messages=[{"role": "assistant", "tool_calls": [call(given)]}])
    assert (error.code, error.param) == ("invalid_parameter", "messages[0].tool_calls[0].function.arguments")


def test_a_result_carries_its_id_and_the_name_of_its_tool() -> None:
    calls = [call("{}"), call("{}", "call_2", "time"), call("{}", "call_1", "later")]
    results = [
        {"role": "tool", "tool_call_id": id, "content": [{"type": "text", "text": id}]} for id in ("call_2", "x")
    ]
    again = {"role": "tool", "tool_call_id": "call_1", "content": ""}
    named = {"role": "tool", "name": "mine", "content": ""}
    told = messages({"role": "assistant", "tool_calls": calls}, *results, again, named)[1:]
    assert told == [
        {"role": "tool", "content": "call_2", "tool_call_id": "call_2", "tool_name": "time"},
        {"role": "tool", "content": "x", "tool_call_id": "x"},
        {"role": "tool", "content": "", "tool_call_id": "call_1", "tool_name": "later"},
        {"role": "tool", "content": "", "tool_name": "mine"},
    ]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_what_an_assistant_thought_is_thinking(name: str) -> None:
    told = messages({"role": "assistant", "content": "A", name: "Hm."}, {"role": "assistant", name: "Hm."})
    assert told[0] == {"role": "assistant", "content": "A", "thinking": "Hm."}
    assert told[1] == {"role": "assistant", "content": "", "thinking": "Hm."}


def test_a_refusal_of_an_assistant_is_what_it_said() -> None:
    assert messages({"role": "assistant", "content": None, "refusal": "No."})[0]["content"] == "No."


@pytest.mark.parametrize(
    ("message", "where", "code"),
    [
        ({"role": "user", "content": None}, ".content", "missing_parameter"),
        ({"role": "system"}, ".content", "missing_parameter"),
        ({"role": "assistant", "content": None, "tool_calls": []}, ".content", "missing_parameter"),
        ({"role": "tool", "tool_call_id": "a", "content": None}, ".content", "missing_parameter"),
        ({"role": "tool", "content": "a"}, ".tool_call_id", "missing_parameter"),
        ({"content": "a"}, ".role", "missing_parameter"),
        ({"role": "robot", "content": "a"}, ".role", "invalid_parameter"),
        ({"role": "user", "content": 5}, ".content", "invalid_parameter"),
        ({"role": "assistant", "tool_calls": [{"type": "custom"}]}, ".tool_calls[0].type", "invalid_parameter"),
        ({"role": "assistant", "tool_calls": [{}]}, ".tool_calls[0].function", "missing_parameter"),
        ({"role": "assistant", "tool_calls": [call("{}", name="")]}, ".tool_calls[0].function.name", None),
        (None, "", "invalid_parameter"),
    ],
)
def test_a_message_that_says_nothing_is_refused(message: Any, where: str, code: str | None) -> None:
    error = refused(messages=[message])
    assert (error.param, error.code) == (f"messages[0]{where}", code or "invalid_parameter")


def test_a_text_cut_within_a_character_is_read() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"a\\ud83d"}]}'
    (outbound,) = open_chat(inbound(body)).outbounds
    assert (outbound.body or {})["messages"] == [{"role": "user", "content": "a�"}]
    arguments = {"role": "assistant", "tool_calls": [call('{"a":"\\ud83d"}')]}
    assert messages(arguments)[0]["tool_calls"][0]["function"]["arguments"] == {"a": "�"}
