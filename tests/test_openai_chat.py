"""Chat completions on their way out: chunks, documents, their ends and their failures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openai_asking import MODEL, call, opened
from openai_events import DONE, is_error, read_events
from openai_transcripts import BROKEN, LOGPROBS, REFUSED, TWO, WHOLE, asks, end, said

from parallama.errors import ApiError, BadRequest, NoNode, UpstreamFailed
from parallama.exchange import Usage
from parallama.gateway.api import Codec, Head
from parallama.testing import Transcript, check_codec, load_recording
from parallama.testing.transcripts import NDJSON, read_document

FOLDER = Path(__file__).parent / "recordings"
ID = "chatcmpl-0190a5d6c3f07abc8def0123456789ab"


ASKED: dict[str, dict[str, Any]] = {
    "plain": {},
    "usage": {"stream_options": {"include_usage": True}},
    "logprobs": {"logprobs": True, "top_logprobs": 1},
    "one call": {"parallel_tool_calls": False},
    "functions": {"functions": [{"name": "weather"}]},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", [*WHOLE, *BROKEN, *REFUSED])
def test_every_promise_of_a_codec_is_kept(name: str, stream: bool) -> None:
    transcript = {**WHOLE, **BROKEN, **REFUSED}[name]
    read = read_events if stream and name not in REFUSED else None
    check_codec(lambda: opened(stream=stream), transcript, read=read, is_error=is_error, cuts=20)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("asked", ASKED)
def test_whatever_is_asked_keeps_them_too(asked: str, stream: bool) -> None:
    messages = (said("Hi ", logprobs=LOGPROBS, thinking="Hm."), said(tool_calls=TWO), end())
    read = read_events if stream else None
    check_codec(
        lambda: opened(stream=stream, **ASKED[asked]), Transcript.stream(*messages), read=read, is_error=is_error
    )


RECORDED = [
    "chat-stream",
    "chat-think-stream",
    "chat-tools-stream",
    "budget-tools-cut-stream",
    "budget-think-schema-stream",
    "repeat-chat",
    "chat-404-model",
    "chat-think-unsupported",
    "chat-images-unsupported",
    "busy-chat",
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_answer_keeps_every_promise_of_a_codec(name: str, stream: bool) -> None:
    kept = load_recording(FOLDER / f"{name}.json")
    read = read_events if stream and kept.status == 200 else None
    check_codec(lambda: opened(stream=stream), kept, read=read, is_error=is_error)


def play(codec: Codec, *transcripts: Transcript) -> bytes:
    out = b""
    for transcript in transcripts:
        codec.begin(transcript.head)
        out += codec.feed(transcript.body) + codec.finish()
    return out


def chunks(*transcripts: Transcript, **fields: Any) -> list[Any]:
    return read_events(play(opened(stream=True, **fields), *transcripts))


def document(*transcripts: Transcript, **fields: Any) -> dict[str, Any]:
    (found,) = read_document(play(opened(**fields), *transcripts))
    assert isinstance(found, dict)
    return found


def joined(events: list[Any], index: int = 0) -> dict[str, Any]:
    """The choice of a document that the chunks of a stream tell, as SDKs put them together."""
    message: dict[str, Any] = {"content": ""}
    ends, logprobs = [], []
    for choice in (one for event in events if event != DONE for one in event["choices"] if one["index"] == index):
        delta = choice["delta"]
        for name in ("content", "reasoning"):
            message[name] = message.get(name, "") + delta.get(name, "")
        for number, one in ((one.pop("index"), one) for one in delta.get("tool_calls", [])):
            message.setdefault("tool_calls", []).append(one)
            assert number == len(message["tool_calls"]) - 1
        message |= {key: value for key, value in delta.items() if key in ("role", "function_call")}
        logprobs += (choice["logprobs"] or {}).get("content", [])
        ends += [choice["finish_reason"]] if choice["finish_reason"] else []
    (reason,) = ends
    message["reasoning"] or message.pop("reasoning")
    told = {"content": logprobs, "refusal": None} if logprobs else None
    return {"index": index, "message": message, "logprobs": told, "finish_reason": reason}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("name", WHOLE)
def test_a_stream_says_what_the_document_says(name: str, asked: str) -> None:
    (choice,) = document(WHOLE[name], **ASKED[asked])["choices"]
    assert choice["message"].pop("refusal") is None
    choice["message"]["content"] = choice["message"]["content"] or ""
    if choice["logprobs"] == {"content": [], "refusal": None}:
        choice["logprobs"] = None
    assert joined(chunks(WHOLE[name], **ASKED[asked])) == choice


def test_a_document_is_openais() -> None:
    message = {"role": "assistant", "content": "Grüße, Welt 🌍", "refusal": None}
    assert document(WHOLE["text"]) == {
        "id": ID,
        "object": "chat.completion",
        "created": 1_720_000_000,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
    }
    codec = opened()
    assert (codec.streams, codec.reply.header("content-type")) == (False, "application/json")


def test_a_stream_is_openais() -> None:
    about = {"id": ID, "object": "chat.completion.chunk", "created": 1_720_000_000, "model": MODEL}

    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {**about, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]}

    assert chunks(WHOLE["text"]) == [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "Grüße, "}),
        chunk({"content": "Welt 🌍"}),
        chunk({}, "stop"),
        DONE,
    ]
    codec = opened(stream=True)
    assert codec.streams
    assert codec.reply.header("content-type").startswith("text/event-stream")
    assert codec.heartbeat == b": ping\n\n"


def test_usage_is_told_behind_the_choices_where_it_was_asked_for() -> None:
    *before, last, done = chunks(WHOLE["text"], stream_options={"include_usage": True})
    assert (last["choices"], done) == ([], DONE)
    assert last["usage"] == {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    assert all(chunk["usage"] is None for chunk in before)
    for options in ({}, {"include_usage": False}, {"include_obfuscation": True}):
        assert not any("usage" in chunk for chunk in chunks(WHOLE["text"], stream_options=options)[:-1])


def test_counts_that_the_node_leaves_out_are_told_as_0() -> None:
    assert document(WHOLE["no reason"])["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("text", "stop"),
        ("cut", "length"),
        ("loaded", "stop"),
        ("unloaded", "stop"),
        ("no reason", "stop"),
        ("calls at the end", "tool_calls"),
        ("calls midway", "tool_calls"),
        ("calls, then cut", "length"),
    ],
)
def test_the_reason_of_the_end_is_one_of_openais(name: str, reason: str) -> None:
    assert document(WHOLE[name])["choices"][0]["finish_reason"] == reason


def test_content_is_null_where_there_are_calls_only() -> None:
    said = {name: document(WHOLE[name])["choices"][0]["message"]["content"] for name in WHOLE}
    assert (said["calls at the end"], said["an empty answer"], said["calls midway"]) == (None, "", "Before.  After.")


@pytest.mark.parametrize("name", ["two calls, both number 0", "calls one by one", "calls at the end"])
def test_calls_are_numbered_in_their_order_and_have_ids_of_their_own(name: str) -> None:
    calls = document(WHOLE[name])["choices"][0]["message"]["tool_calls"]
    assert [one["function"] for one in calls] == [
        {"name": "weather", "arguments": '{"city":"Paris"}'},
        {"name": "time", "arguments": "{}"},
    ]
    assert len({one["id"] for one in calls}) == 2
    assert all(one["id"].startswith("call_") and one["type"] == "function" for one in calls)


def test_large_numbers_in_arguments_stay_as_they_are() -> None:
    answer = Transcript.stream(said(tool_calls=[asks("a", {"n": 2**53 + 1})]), end())
    (one,) = document(answer)["choices"][0]["message"]["tool_calls"]
    assert json.loads(one["function"]["arguments"]) == {"n": 2**53 + 1}


def test_one_call_is_kept_where_parallel_ones_are_not_wanted() -> None:
    for name in ("two calls, both number 0", "calls one by one"):
        calls = document(WHOLE[name], parallel_tool_calls=False)["choices"][0]["message"]["tool_calls"]
        assert [one["function"]["name"] for one in calls] == ["weather"]


def test_who_sends_functions_is_answered_in_their_words() -> None:
    (choice,) = document(WHOLE["two calls, both number 0"], **ASKED["functions"])["choices"]
    assert choice["message"]["function_call"] == {"name": "weather", "arguments": '{"city":"Paris"}'}
    assert ("tool_calls" in choice["message"], choice["finish_reason"]) == (False, "function_call")


def test_log_probabilities_have_openais_form() -> None:
    logprobs = document(WHOLE["log probabilities"], logprobs=True)["choices"][0]["logprobs"]
    hi = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}
    assert logprobs == {
        "content": [hi, {"token": "\ud7ff", "logprob": -1, "bytes": None, "top_logprobs": []}, hi],
        "refusal": None,
    }
    unasked = chunks(WHOLE["log probabilities"])
    assert all(chunk["choices"][0]["logprobs"] is None for chunk in unasked[:-1])
    assert len(unasked) == 4


def test_log_probabilities_are_those_of_the_content_not_of_its_thinking() -> None:
    answer = Transcript.stream(said(thinking="Hm", logprobs=LOGPROBS[1:]), said("Hi", logprobs=LOGPROBS[:1]), end())
    for choice in (document(answer, logprobs=True)["choices"][0], joined(chunks(answer, logprobs=True))):
        assert choice["message"]["reasoning"] == "Hm"
        assert [one["token"] for one in choice["logprobs"]["content"]] == ["Hi"]


ONE, OTHER = (
    Transcript.stream(said(word), said(thinking="Hm."), end(tool_calls=TWO[:1], prompt_eval_count=count))
    for word, count in (("one", 7), ("two", 1))
)


def test_choices_come_one_after_another_in_one_stream() -> None:
    events = chunks(ONE, OTHER, ONE, n=3, stream_options={"include_usage": True})
    assert [event == DONE for event in events] == [*[False] * (len(events) - 1), True]
    order = [event["choices"][0]["index"] for event in events[:-2]]
    assert order == sorted(order)
    for index, word in enumerate(("one", "two", "one")):
        first = next(event for event in events if event["choices"][0]["index"] == index)
        assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        choice = joined(events, index)
        assert (choice["message"]["content"], choice["finish_reason"]) == (word, "tool_calls")
    assert events[-2]["usage"] == {"prompt_tokens": 7, "completion_tokens": 15, "total_tokens": 22}


def test_choices_stand_in_one_document() -> None:
    codec = opened(n=2)
    (told,) = read_document(play(codec, ONE, OTHER))
    assert [(one["index"], one["message"]["content"]) for one in told["choices"]] == [(0, "one"), (1, "two")]
    assert told["usage"] == {"prompt_tokens": 7, "completion_tokens": 10, "total_tokens": 17}
    assert codec.usage == Usage(prompt_tokens=7, output_tokens=10, final=True)
    ids = {one["message"]["tool_calls"][0]["id"] for one in told["choices"]}
    assert len(ids) == 2


def test_a_failure_between_choices_ends_the_stream_with_an_error() -> None:
    codec = opened(n=2, stream=True)
    out = play(codec, ONE)
    codec.begin(OTHER.head)
    events = read_events(out + codec.feed(OTHER.body[:100]) + codec.fail(UpstreamFailed("it died")))
    assert [is_error(event) for event in events] == [*[False] * (len(events) - 1), True]
    assert DONE not in events


def test_an_error_is_told_in_the_stream_as_the_sdk_reads_it() -> None:
    codec = opened(stream=True)
    codec.begin(NDJSON)
    out = codec.feed(BROKEN["an error midway"].body)
    with pytest.raises(UpstreamFailed) as caught:
        codec.finish()
    *events, error = read_events(out + codec.fail(caught.value))
    assert error == {
        "error": {"message": "out of memory", "type": "api_error", "param": None, "code": "upstream_failed"}
    }
    assert [event["choices"][0]["delta"] for event in events] == [
        {"role": "assistant", "content": ""},
        {"content": "Blue"},
    ]


def test_an_error_can_be_told_behind_nothing_but_a_heartbeat() -> None:
    for begun in (False, True):
        codec = opened(stream=True)
        error: ApiError = NoNode("no node can take it")
        if begun:
            codec.begin(Head(400))
            codec.feed(b'{"error":"does not support tools"}')
            with pytest.raises(BadRequest) as caught:
                codec.finish()
            error = caught.value
        (event,) = read_events(codec.heartbeat + codec.fail(error))
        assert event["error"]["message"] == str(error)


def test_a_document_never_tells_an_error_in_its_middle() -> None:
    codec = opened()
    codec.begin(NDJSON)
    codec.feed(WHOLE["text"].body[:80])
    assert codec.fail(UpstreamFailed("it died")) == b""


def test_another_node_begins_anew() -> None:
    for stream in (False, True):
        codec = opened(stream=stream)
        codec.begin(NDJSON)
        codec.feed(Transcript.stream(said(tool_calls=TWO)).body)
        assert play(codec, WHOLE["text"]) == play(opened(stream=stream), WHOLE["text"])


def test_replies_carry_the_clients_name_whatever_the_core_resolves_it_to() -> None:
    for fields in ({}, {"stream": True}):
        codec = opened(model="mine", **fields)
        (outbound,) = codec.outbounds
        codec.resolved([type(outbound)(method="POST", path="/api/chat", model="mine", target="llama3", body={})])
        assert b'"model":"mine"' in play(codec, WHOLE["text"])


def test_a_stream_option_without_a_stream_is_ignored() -> None:
    codec = opened(stream_options={"include_usage": "yes"})
    assert not codec.streams


def test_a_history_with_calls_is_answered_like_any_other() -> None:
    codec = opened(messages=[{"role": "assistant", "content": None, "tool_calls": [call("{}")]}])
    assert b"Welt" in play(codec, WHOLE["text"])
