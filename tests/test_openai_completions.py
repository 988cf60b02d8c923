"""Completions of plain texts: choices from several answers of a node, in a stream and in one document alike."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai_client import answered, client
from openai_events import DONE, is_error, read_events
from parallama_openai.completions import open_completion

from parallama.errors import ApiError, BadRequest, ModelUnknown, UpstreamFailed
from parallama.exchange import Usage
from parallama.gateway.api import Codec, Head
from parallama.testing import Transcript, check_codec, inbound, load_recording

FOLDER = Path(__file__).parent / "recordings"
ASK: dict[str, Any] = {"model": "llama3.2:1b", "prompt": "Why?"}
COUNTS = {"prompt_eval_count": 7, "eval_count": 3}


def opened(**more: Any) -> Codec:
    return open_completion(inbound({**ASK, **more}, "/completions"))


def sent(**more: Any) -> Any:
    return opened(**more).outbounds[0].body


def refused(**more: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        opened(**more)
    return caught.value


def played(codec: Codec, *transcripts: Transcript) -> bytes:
    out = b""
    for transcript in transcripts:
        codec.begin(transcript.head)
        out += codec.feed(transcript.body) + codec.finish()
    return out


def said(*texts: str, **last: Any) -> Transcript:
    pieces = [{"response": text, "done": False} for text in texts]
    return Transcript.stream(*pieces, {"response": "", "done": True, "done_reason": "stop", **COUNTS, **last})


def events(transcript: Transcript, **more: Any) -> list[Any]:
    return read_events(played(opened(stream=True, **more), transcript))


def document(*transcripts: Transcript, **more: Any) -> Any:
    answer = json.loads(played(opened(**more), *transcripts))
    Completion.model_validate(answer)
    return answer


def joined(chunks: list[Any], index: int = 0) -> tuple[str, str]:
    """The text of a choice in a stream, and why it ended."""
    own = [choice for chunk in chunks if chunk != DONE for choice in chunk["choices"] if choice["index"] == index]
    assert [choice["finish_reason"] for choice in own[:-1]] == [None] * (len(own) - 1)
    return "".join(choice["text"] for choice in own), own[-1]["finish_reason"]


def test_a_prompt_is_asked_for_without_thinking_and_with_nothing_that_was_not_sent() -> None:
    assert sent(model="unheard-of") == {"model": "unheard-of", "prompt": "Why?", "stream": True, "think": False}
    assert sent(model="qwen3:0.6b")["think"] is False
    assert sent() == {"model": "llama3.2:1b", "prompt": "Why?", "stream": True}
    assert opened().outbounds[0].path == "/api/generate"


def test_parameters_become_options() -> None:
    asked = sent(
        suffix=" end", max_tokens=5, temperature=0, top_p=0.5, seed=3, stop="x", frequency_penalty=1, presence_penalty=1
    )
    assert asked["suffix"] == " end"
    assert asked["options"] == {
        "num_predict": 5,
        "temperature": 0,
        "top_p": 0.5,
        "seed": 3,
        "stop": ["x"],
        "frequency_penalty": 1,
        "presence_penalty": 1,
    }


@pytest.mark.parametrize("prompt", [None, "", [], [""], ["a", ""], [1, 2], [[1], [2]], 5, {}, ["a", 1], ["a"] * 17])
def test_a_prompt_that_is_no_text_is_refused(prompt: Any) -> None:
    error = refused(prompt=prompt)
    assert error.param == "prompt"
    assert error.code == ("missing_parameter" if prompt is None else "invalid_parameter")


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("n", {"n": 0}),
        ("n", {"n": 17}),
        ("n", {"n": 6, "prompt": ["a", "b", "c"]}),
        ("best_of", {"best_of": 2}),
        ("best_of", {"n": 2, "best_of": 1}),
        ("logprobs", {"logprobs": 6}),
        ("logprobs", {"logprobs": True}),
        ("logprobs", {"logprobs": 0, "echo": True}),
        ("max_tokens", {"max_tokens": 0}),
        ("suffix", {"suffix": 5}),
        ("stream_options.include_usage", {"stream": True, "stream_options": {"include_usage": 1}}),
        ("temperature", {"temperature": "hot"}),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(name: str, more: dict[str, Any]) -> None:
    assert refused(**more).param == name


def test_nulls_empty_stops_and_unknown_fields_change_nothing() -> None:
    nulls = dict.fromkeys(["temperature", "n", "best_of", "echo", "logprobs", "suffix", "stream_options", "max_tokens"])
    assert sent(**nulls) == sent(stop=[]) == sent(stop="") == sent(suffix="") == sent(mine=1) == sent()


def test_parameters_without_effect_are_logged_as_ignored() -> None:
    assert list(opened(user="me", logit_bias={"50256": -100}, best_of=1).ignored) == ["logit_bias", "user"]


def test_a_document_has_the_text_the_reason_and_the_usage() -> None:
    answer = document(said("It", " is"))
    assert answer == {
        "id": "cmpl-0190a5d6c3f07abc8def0123456789ab",
        "object": "text_completion",
        "created": 1_720_000_000,
        "model": "llama3.2:1b",
        "choices": [{"text": "It is", "index": 0, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }


def test_a_stream_is_chunks_of_text_a_reason_and_the_end() -> None:
    chunks = events(said("It", " is"))
    assert [chunk if chunk == DONE else chunk["choices"][0]["text"] for chunk in chunks] == ["It", " is", "", DONE]
    assert joined(chunks) == ("It is", "stop")
    assert all("usage" not in chunk for chunk in chunks[:-1])
    for chunk in chunks[:-2]:
        Completion.model_validate({**chunk, "choices": [{**chunk["choices"][0], "finish_reason": "stop"}]})


def test_usage_comes_last_in_a_stream_that_wants_it() -> None:
    chunks = events(said("It"), stream_options={"include_usage": True})
    assert chunks[-1] == DONE
    assert chunks[-2]["choices"] == []
    assert chunks[-2]["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    assert all(chunk["usage"] is None for chunk in chunks[:-2])


@pytest.mark.parametrize(
    ("told", "reason"), [("length", "length"), ("stop", "stop"), ("load", "stop"), ("unload", "stop"), (None, "stop")]
)
def test_reasons_that_clients_do_not_know_are_a_stop(told: str | None, reason: str) -> None:
    answer = said("It", done_reason=told)
    assert joined(events(answer))[1] == reason
    assert document(answer)["choices"][0]["finish_reason"] == reason


def test_an_echo_comes_before_the_answer() -> None:
    assert document(said(" Because"), echo=True)["choices"][0]["text"] == "Why? Because"
    assert joined(events(said(" Because", "!"), echo=True))[0] == "Why? Because!"
    assert document(said(), echo=True)["choices"][0]["text"] == "Why?"
    assert joined(events(said(), echo=True))[0] == "Why?"


def test_each_prompt_has_its_choices_in_order() -> None:
    codec = opened(prompt=["a?", "b?"], n=2, echo=True)
    assert [(outbound.body or {})["prompt"] for outbound in codec.outbounds] == ["a?", "a?", "b?", "b?"]
    answers = [said(f" {number}") for number in range(4)]
    choices = json.loads(played(codec, *answers))["choices"]
    assert [(choice["index"], choice["text"]) for choice in choices] == [
        (0, "a? 0"),
        (1, "a? 1"),
        (2, "b? 2"),
        (3, "b? 3"),
    ]
    chunks = read_events(played(opened(prompt=["a?", "b?"], n=2, echo=True, stream=True), *answers))
    assert [joined(chunks, index)[0] for index in range(4)] == ["a? 0", "a? 1", "b? 2", "b? 3"]
    assert chunks.count(DONE) == 1


def test_a_prompt_is_paid_for_once_however_many_choices_it_has() -> None:
    codec = opened(prompt=["ab?", "cd?"], n=2)
    played(codec, *[said("x")] * 4)
    assert codec.usage == Usage(prompt_tokens=14, output_tokens=12, final=True)


def test_choices_with_a_seed_differ() -> None:
    outbounds = opened(n=3, seed=5).outbounds
    assert [(outbound.body or {})["options"]["seed"] for outbound in outbounds] == [5, 6, 7]
    assert all("options" not in (outbound.body or {}) for outbound in opened(n=3).outbounds)


LOGPROBS = [
    {"token": "It", "logprob": -0.5, "top_logprobs": [{"token": "It", "logprob": -0.5}, {"token": "A", "logprob": -1}]},
    {"token": " is", "logprob": -0.25, "top_logprobs": [{"token": " is", "logprob": -0.25}]},
]


def with_logprobs() -> Transcript:
    pieces = [{"response": entry["token"], "done": False, "logprobs": [entry]} for entry in LOGPROBS]
    return Transcript.stream(*pieces, {"response": "", "done": True, **COUNTS})


def test_log_probabilities_come_as_four_lists() -> None:
    assert (sent(logprobs=2)["logprobs"], sent(logprobs=2)["top_logprobs"]) == (True, 2)
    assert document(with_logprobs(), logprobs=2)["choices"][0]["logprobs"] == {
        "tokens": ["It", " is"],
        "token_logprobs": [-0.5, -0.25],
        "top_logprobs": [{"It": -0.5, "A": -1}, {" is": -0.25}],
        "text_offset": [0, 2],
    }


def test_log_probabilities_in_a_stream_go_on_where_they_were() -> None:
    chunks = events(with_logprobs(), logprobs=1)[:2]
    told = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [entry["tokens"] for entry in told] == [["It"], [" is"]]
    assert [entry["text_offset"] for entry in told] == [[0], [2]]


def test_log_probabilities_without_alternatives() -> None:
    asked = sent(logprobs=0)
    assert asked["logprobs"] is True
    assert "top_logprobs" not in asked
    told = document(with_logprobs(), logprobs=0)["choices"][0]["logprobs"]
    assert (told["tokens"], told["top_logprobs"]) == (["It", " is"], None)


def test_odd_log_probabilities_break_nothing() -> None:
    odd = Transcript.stream(
        {"response": "x", "done": False, "logprobs": [5, {"top_logprobs": [1], "logprob": []}]}, {"done": True}
    )
    told = json.loads(played(opened(logprobs=1), odd))["choices"][0]["logprobs"]
    assert (told["tokens"], told["token_logprobs"], told["top_logprobs"]) == ([""], [None], [{}])


def test_thinking_is_left_out() -> None:
    answer = Transcript.stream({"response": "", "thinking": "Hm", "done": False}, {"response": "x", "done": True})
    assert document(answer)["choices"][0]["text"] == "x"
    assert joined(events(answer))[0] == "x"


TRANSCRIPTS = {
    "text": said("Grüße, ", "Welt 🌍", "\u2028\x85"),
    "an empty answer": said(),
    "the end with text": said("It", response=" is"),
    "length": said("It", done_reason="length"),
    "load": said(done_reason="load"),
    "unload": said(done_reason="unload"),
    "no reason": Transcript.stream({"response": "x", "done": True}),
    "thinking and text": Transcript.stream(
        {"response": "x", "thinking": "Hm", "done": False}, {"done": True, **COUNTS}
    ),
    "log probabilities": with_logprobs(),
    "an error first": Transcript.stream({"error": "out of memory"}),
    "an error midway": Transcript.stream({"response": "x", "done": False}, {"error": "out of memory"}),
    "without its end": Transcript.stream({"response": "x", "done": False}),
    "broken off": Transcript(body=said("Grüße", "x").body[:60], complete=False),
    "no JSON": Transcript(body=b'{"response":"x","done":false}\nnonsense\n'),
    "an error status": Transcript.document({"error": "model 'x' not found"}, 404),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_it_keeps_every_promise(name: str, stream: bool) -> None:
    answer = TRANSCRIPTS[name]
    more: dict[str, Any] = {"logprobs": 2} if name == "log probabilities" else {"echo": True}
    check_codec(
        lambda: opened(stream=stream, stream_options={"include_usage": True}, **more),
        answer,
        read=read_events if stream else None,
        is_error=is_error,
        usage=answer.usage() or Usage(final=True),
        cuts=50,
    )


RECORDINGS = ("generate-stream", "generate-length", "generate-emoji", "generate-logprobs", "runner-killed-generate")


@pytest.mark.parametrize("name", RECORDINGS)
def test_recordings_keep_every_promise_in_a_stream(name: str) -> None:
    record = load_recording(FOLDER / f"{name}.json")
    check_codec(lambda: opened(stream=True, logprobs=2), record, read=read_events, is_error=is_error, cuts=50)


@pytest.mark.parametrize("name", [name for name in RECORDINGS if name != "runner-killed-generate"])
def test_a_stream_and_a_document_say_the_same(name: str) -> None:
    answer = Transcript.of(load_recording(FOLDER / f"{name}.json"))
    choice = document(answer)["choices"][0]
    assert joined(events(answer)) == (choice["text"], choice["finish_reason"])


def test_a_failure_before_the_first_byte_has_its_status() -> None:
    codec = opened(stream=True)
    codec.begin(Head(404))
    codec.feed(b'{"error":"model not found"}')
    with pytest.raises(ModelUnknown):
        codec.finish()
    assert not codec.streams


def test_a_failure_after_a_heartbeat_is_told_once_and_without_an_end() -> None:
    codec = opened(stream=True)
    assert codec.heartbeat == b": ping\n\n"
    told = read_events(codec.heartbeat + codec.fail(UpstreamFailed("no node")))
    assert [is_error(event) for event in told] == [True]


def test_a_failure_between_two_choices_is_told() -> None:
    codec = opened(stream=True, n=2)
    chunks = read_events(played(codec, said("x")) + codec.fail(UpstreamFailed("gone")))
    assert is_error(chunks[-1])
    assert DONE not in chunks


def test_an_answer_of_another_node_takes_the_place_of_the_first() -> None:
    codec = opened(n=2)
    codec.begin(Head(200))
    codec.feed(b'{"response":"lost","done":false}\n')
    assert [choice["text"] for choice in json.loads(played(codec, said("a"), said("b")))["choices"]] == ["a", "b"]


def sdk(transcript: Transcript) -> AbstractContextManager[openai.OpenAI]:
    return client(lambda request: answered(open_completion(inbound(request.content, "/completions")), transcript))


def test_the_sdk_reads_a_stream_and_a_document() -> None:
    with sdk(said("It", " is")) as sdk_client:
        found = sdk_client.completions.create(model="llama3.2:1b", prompt="Why?")
        assert (found.choices[0].text, found.usage and found.usage.total_tokens) == ("It is", 10)
        chunks = list(sdk_client.completions.create(model="llama3.2:1b", prompt="Why?", stream=True))
        assert "".join(chunk.choices[0].text for chunk in chunks) == "It is"


def test_the_sdk_raises_an_error_inside_a_stream() -> None:
    with sdk(TRANSCRIPTS["an error midway"]) as sdk_client:
        with pytest.raises(openai.APIError, match="out of memory"):
            list(sdk_client.completions.create(model="llama3.2:1b", prompt="Why?", stream=True))


NAMES = ["model", "prompt", "n", "best_of", "echo", "logprobs", "suffix", "stream", "stream_options", "max_tokens"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys([*NAMES, "seed", "stop", "temperature", "user"], JSON)))
def test_no_body_raises_anything_but_an_api_error(asked: dict[str, Any]) -> None:
    for body in (asked, {**ASK, **asked}):
        try:
            codec = open_completion(inbound(json.dumps(body).encode()))
        except ApiError:
            continue
        for outbound in codec.outbounds:
            orjson.dumps(outbound.body)
