"""What of a chat's answer no dialect sees to itself: calls have arguments, and log probabilities are of the text."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from dialects import DIALECTS, Dialect, render

from parallama import Generation, Head, Outbound, Said, ToolCall, json_line
from parallama.testing import Transcript, check_codec, inbound


class Told(Generation):
    """Tells each piece on a line of its own."""

    def thought(self, text: str) -> bytes:
        return json_line({"thought": text})

    def wrote(self, text: str, logprobs: list[Any] | None) -> bytes:
        return json_line({"wrote": text, "logprobs": logprobs})

    def called(self, call: ToolCall) -> bytes:
        return json_line({"called": call.name, "arguments": call.arguments})

    def ended(self, said: Said) -> bytes:
        return json_line({"ended": said.reason})

    def document(self) -> bytes:
        (said,) = self.said
        return json_line(asdict(said))


OUTBOUND = Outbound(method="POST", path="/api/chat", model="qwen3:0.6b", body={"messages": []})


def told(transcript: Transcript, *, streams: bool = True) -> list[Any]:
    codec = Told(inbound(), OUTBOUND, streams=streams)
    assert codec.begin(transcript.head) == Head(200)
    return [json.loads(line) for line in (codec.feed(transcript.body) + codec.finish()).splitlines()]


def answer(*messages: dict[str, Any]) -> Transcript:
    return Transcript.stream(*messages, {"message": {"content": ""}, "done": True})


def asks(arguments: Any) -> dict[str, Any]:
    return {"message": {"content": "", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}}


OBJECTS = [
    ({"a": 2**53 + 1}, '{"a":9007199254740993}'),
    ({}, "{}"),
    (None, "{}"),
    ("", "{}"),
    ('{"a": 10000000000000000000001}', '{"a": 10000000000000000000001}'),
]
DEEP: Any = json.loads('{"a":' * 300 + "1" + "}" * 300)
NO_OBJECTS = ["not json", "[1]", "5", "null", " ", '{"a":1', [1], [], 5, 0, True, False, DEEP]
TALKING = [one for one in DIALECTS if one.node_path == "/api/chat" and not one.path.startswith("/ollama")]


@pytest.mark.parametrize(("arguments", "text"), OBJECTS, ids=str)
def test_the_arguments_of_a_call_are_an_object_as_text(arguments: Any, text: str) -> None:
    assert told(answer(asks(arguments))) == [{"called": "f", "arguments": text}, {"ended": "stop"}]
    (said,) = told(answer(asks(arguments)), streams=False)
    assert [(call["name"], call["arguments"]) for call in said["calls"]] == [("f", text)]


@pytest.mark.parametrize("arguments", NO_OBJECTS, ids=lambda value: str(value)[:12])
@pytest.mark.parametrize("dialect", TALKING, ids=lambda dialect: dialect.path)
def test_a_call_without_an_object_is_a_failure_of_the_node_in_every_dialect(dialect: Dialect, arguments: Any) -> None:
    transcript = answer({"message": {"content": "Hi"}}, asks(arguments))
    document = render(dialect, transcript, streams=False)
    assert (document.status, document.told_error()) == (502, 1)
    stream = render(dialect, transcript, streams=True)
    assert (stream.status, stream.told_error()) == (200, 1)
    assert b"Hi" in stream.body
    check_codec(lambda: Told(inbound(), OUTBOUND, streams=True), transcript)


def piece(token: str, **message: str) -> dict[str, Any]:
    return {"message": {"content": "", **message}, "logprobs": [{"token": token, "logprob": -0.5}]}


def test_log_probabilities_are_those_of_the_text() -> None:
    thinking = [piece("Hm", thinking="Hm"), piece(".", thinking=".")]
    transcript = answer(*thinking, piece("Bl", content="Bl"), piece("\xf0"), piece("ue", content="ue"))
    thoughts, pieces = told(transcript)[:2], told(transcript)[2:-1]
    assert thoughts == [{"thought": "Hm"}, {"thought": "."}]
    assert [(one["wrote"], one["logprobs"][0]["token"]) for one in pieces] == [("Bl", "Bl"), ("", "\xf0"), ("ue", "ue")]
    (said,) = told(transcript, streams=False)
    assert (said["thinking"], said["text"]) == ("Hm.", "Blue")
    assert [one["token"] for one in said["logprobs"]] == ["Bl", "\xf0", "ue"]


def test_a_message_of_both_keeps_its_log_probabilities() -> None:
    wrote = told(answer(piece("Blue", thinking="Hm", content="Blue")))[1]
    assert (wrote["wrote"], wrote["logprobs"][0]["token"]) == ("Blue", "Blue")


def test_log_probabilities_that_are_no_list_are_none() -> None:
    transcript = answer({"message": {"content": "Hi"}, "logprobs": {"token": "Hi"}})
    assert told(transcript)[0] == {"wrote": "Hi", "logprobs": None}


def test_another_node_begins_anew() -> None:
    codec = Told(inbound(), OUTBOUND)
    codec.begin(Head(200))
    codec.feed(Transcript.stream({"message": {"content": "lost"}}, asks({"lost": 1})).body)
    whole = answer({"message": {"content": "Hi"}})
    codec.begin(whole.head)
    said = json.loads(codec.feed(whole.body))
    assert (said["text"], said["calls"]) == ("Hi", [])
