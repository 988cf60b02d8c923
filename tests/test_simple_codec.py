"""The simplified dialect: exact shapes, strict requests, whole answers or none."""

from __future__ import annotations

import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parallama_ollama import OllamaNative, OllamaSimple
from recorded import Recording, fragmentations, open_codec, recording

from parallama.errors import ApiError, BadRequest, ModelUnknown, NotAllowedMethod, NotFound, UpstreamFailed
from parallama.exchange import Usage
from parallama.gateway.api import Codec, Head
from parallama.gateway.lines import json_line
from parallama.gateway.ndjson import NdjsonCodec, node_error
from parallama.testing import Transcript, check_codec, load_recording

SIMPLE = OllamaSimple()
FOLDER = Path(__file__).parent / "recordings"
ASK: dict[str, dict[str, Any]] = {
    "/generate": {"model": "wordy", "prompt": "Why?"},
    "/chat": {"model": "wordy", "messages": [{"role": "user", "content": "Why?"}]},
    "/embeddings": {"model": "vectors", "input": "the sky"},
}


def opened(path: str, *, stream: bool = False, **more: Any) -> Codec:
    if path == "/models":
        return open_codec(SIMPLE, "GET", path)
    asked = {**ASK[path], **({"stream": True} if stream else {}), **more}
    return open_codec(SIMPLE, "POST", path, orjson.dumps(asked))


def play(codec: Codec, record: Recording, chunks: list[bytes]) -> bytes:
    assert record.head is not None
    codec.begin(record.head)
    return b"".join([codec.feed(chunk) for chunk in chunks]) + codec.finish()


def said(record: Recording) -> list[str]:
    return [line.get("response") or line.get("message", {}).get("content", "") for line in record.messages]


def told(record: Recording) -> dict[str, int]:
    last = record.messages[-1]
    prompt, output = last.get("prompt_eval_count", 0), last.get("eval_count", 0)
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


STREAMS = [("/generate", "generate-stream"), ("/chat", "chat-stream"), ("/chat", "chat-think-stream")]


@pytest.mark.parametrize(("path", "name"), STREAMS)
def test_a_stream_is_one_line_a_piece_and_a_last_one_with_usage(path: str, name: str) -> None:
    record = recording(name)
    for chunks in fragmentations(record.data):
        codec = opened(path, stream=True)
        lines = [json.loads(line) for line in play(codec, record, chunks).splitlines()]
        assert codec.streams
        assert codec.reply.header("content-type") == "application/x-ndjson"
        pieces = [line["text"] if path == "/generate" else line["messages"][0]["content"] for line in lines]
        assert [piece for piece in pieces if piece] == [piece for piece in said(record) if piece]
        assert all(set(line) == {"text" if path == "/generate" else "messages"} for line in lines[:-1])
        assert (lines[-1]["usage"], lines[-1]["done"]) == (told(record), True)
        assert codec.usage.final


@pytest.mark.parametrize(("path", "name"), STREAMS)
def test_one_document_holds_all_of_it(path: str, name: str) -> None:
    record, text = recording(name), "".join(said(recording(name)))
    answer = {"text": text} if path == "/generate" else {"messages": [{"role": "assistant", "content": text}]}
    for chunks in fragmentations(record.data):
        codec = opened(path)
        assert json.loads(play(codec, record, chunks)) == {"model": "wordy", **answer, "usage": told(record)}
        assert not codec.streams
        assert codec.reply.header("content-type").startswith("application/json")


def test_a_generation_always_streams_from_the_node() -> None:
    for path in ("/generate", "/chat"):
        outbound = opened(path).outbounds[0]
        assert (outbound.body or {})["stream"] is True
        assert outbound.path == f"/api{path}"


@pytest.mark.parametrize("stream", [False, True])
def test_loading_a_model_answers_with_no_text(stream: bool) -> None:
    record = recording("generate-load")
    last = play(opened("/generate", stream=stream), record, record.chunks).splitlines()[-1]
    assert json.loads(last)["text"] == ""
    assert json.loads(last)["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def test_embeddings_come_with_their_usage() -> None:
    record = recording("embed-dimensions")
    for chunks in fragmentations(record.data, 20):
        answer = json.loads(play(opened("/embeddings"), record, chunks))
        assert answer == {
            "model": "vectors",
            "embeddings": record.messages[0]["embeddings"],
            "usage": {"prompt_tokens": 8, "completion_tokens": 0, "total_tokens": 8},
        }


def test_models_are_listed_in_the_dialects_shape() -> None:
    record = recording("tags")
    codec = opened("/models")
    answer = json.loads(play(codec, record, record.chunks))
    assert [entry["name"] for entry in answer["models"]] == [m["name"] for m in record.messages[0]["models"]]
    for entry in answer["models"]:
        assert set(entry) == {"name", "size", "modified", "details"}
        assert set(entry["details"]) == {"format", "family"}
        assert entry["size"].endswith("M")
        assert entry["modified"].endswith("Z")
    assert codec.usage == Usage(final=True)


def test_times_of_any_offset_are_told_in_utc() -> None:
    codec = opened("/models")
    codec.begin(Head(200))
    times = ("2026-11-21T03:52:33.881760197+02:00", "no time")
    codec.feed(orjson.dumps({"models": [{"name": "a", "modified_at": time} for time in times]}))
    modified = [entry["modified"] for entry in json.loads(codec.finish())["models"]]
    assert modified == ["2026-11-21T01:52:33Z", "no time"]


ERRORS: list[tuple[str, str, type[ApiError], int]] = [
    ("/generate", "generate-404-model", ModelUnknown, 404),
    ("/chat", "chat-think-unsupported", BadRequest, 400),
    ("/generate", "busy-generate", UpstreamFailed, 503),
    ("/generate", "runner-killed-loading", UpstreamFailed, 500),
    ("/embeddings", "embed-completion-model", UpstreamFailed, 501),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "name", "kind", "status"), ERRORS)
def test_an_error_of_the_node_keeps_its_status_and_words(
    path: str, name: str, kind: type[ApiError], status: int, stream: bool
) -> None:
    record = recording(name)
    for chunks in fragmentations(record.data, 10):
        codec = opened(path, stream=stream and path != "/embeddings")
        with pytest.raises(kind) as caught:
            play(codec, record, chunks)
        assert (caught.value.status, str(caught.value)) == (status, record.messages[0]["error"])
        assert (caught.value.retry_after_s is not None) is (status == 503)
        assert not codec.streams
        assert codec.usage == Usage()


def test_the_innermost_words_of_a_wrapped_error_are_told() -> None:
    assert str(node_error(400, recording("chat-images-unsupported").data)).startswith("Multimodal data provided")
    assert str(node_error(500, b"<html>")) == "the node answered with status 500"
    assert str(node_error(500, b'{"error":{"error":{}}}')) == "the node answered with status 500"


BROKEN = [("/generate", "runner-killed-generate"), ("/generate", "repeat-generate"), ("/chat", "repeat-chat")]


@pytest.mark.parametrize(("path", "name"), BROKEN)
def test_an_answer_without_its_end_is_never_passed_for_whole(path: str, name: str) -> None:
    record = recording(name)
    assert record.head is not None
    for chunks in fragmentations(record.data, 20):
        codec = opened(path, stream=True)
        codec.begin(record.head)
        out: list[bytes] = []
        steps = itertools.chain((partial(codec.feed, chunk) for chunk in chunks), [codec.finish])
        with pytest.raises(UpstreamFailed) as caught:
            out.extend(step() for step in steps)
        assert len(b"".join(out).splitlines()) == len([text for text in said(record) if text])
        assert json.loads(codec.fail(caught.value)) == {"error": str(caught.value)}
        assert not codec.usage.final
        assert codec.usage.output_tokens
        unary = opened(path)
        with pytest.raises(UpstreamFailed):
            play(unary, record, chunks)
        assert unary.fail(caught.value) == b""


KEEPING = [
    *STREAMS,
    *BROKEN,
    *[(path, name) for path, name, _, _ in ERRORS],
    ("/generate", "generate-load"),
    ("/generate", "generate-emoji"),
    ("/chat", "chat-tools-stream"),
    ("/embeddings", "embed-dimensions"),
    ("/models", "tags"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "name"), KEEPING)
def test_a_recorded_answer_keeps_every_promise_of_a_codec(path: str, name: str, stream: bool) -> None:
    kept = load_recording(FOLDER / f"{name}.json")
    check_codec(lambda: opened(path, stream=stream and path in ("/generate", "/chat")), kept)


WORDS = [
    {"message": {"role": "assistant", "content": text}, "done": False}
    for text in ("Grüße 😂", '"done":true', "\x85\u2028\u2029\x7f", '{"error":"none"}', "")
]
END = {"message": {"role": "assistant", "content": ""}, "done": True, "prompt_eval_count": 7, "eval_count": 5}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "transcript",
    [
        Transcript.stream(*WORDS, END),
        Transcript.stream(*WORDS),
        Transcript.stream(*WORDS, {"error": "out of memory"}),
        Transcript(body=Transcript.stream(*WORDS, END).body, complete=False),
        Transcript(body=Transcript.stream(*WORDS).body + b"<html>\n" + Transcript.stream(END).body),
    ],
    ids=["whole", "no end", "an error", "broken behind its end", "no JSON"],
)
def test_odd_answers_keep_every_promise_of_a_codec(transcript: Transcript, stream: bool) -> None:
    check_codec(lambda: opened("/chat", stream=stream), transcript)


def test_nothing_follows_a_whole_answer() -> None:
    record = recording("generate-stream")
    codec = opened("/generate", stream=True)
    play(codec, record, record.chunks)
    assert codec.feed(b'{"response":"more","done":false}\n') == b""
    assert codec.fail(UpstreamFailed("late")) == b""


@pytest.mark.parametrize("line", [b"<html>\n", b"[1]\n", b'{"response":"a"\n'])
def test_a_line_that_is_no_message_is_a_failure_of_the_node(line: bytes) -> None:
    codec = opened("/generate", stream=True)
    codec.begin(Head(200))
    with pytest.raises(UpstreamFailed):
        codec.feed(line)


def test_a_line_without_end_is_given_up() -> None:
    codec = opened("/generate", stream=True)
    assert isinstance(codec, NdjsonCodec)
    codec.begin(Head(200))
    codec.feed(b"x" * codec.max_line)
    with pytest.raises(UpstreamFailed, match="line of more than"):
        codec.feed(b"x")


@given(text=st.text())
def test_a_line_is_one_line_to_every_reader(text: str) -> None:
    line = json_line({"text": text + "\x85\u2028\u2029\n"})
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line) == {"text": text + "\x85\u2028\u2029\n"}


def test_parameters_become_options() -> None:
    parameters = {
        "max_tokens": 5,
        "temperature": 0,
        "stop": ".",
        "seed": 3,
        "num_ctx": 512,
        "new_one": "x",
        "top_p": None,
    }
    body = opened("/generate", parameters=parameters).outbounds[0].body
    options = {"num_predict": 5, "temperature": 0.0, "stop": ["."], "seed": 3, "num_ctx": 512, "new_one": "x"}
    assert body == {"model": "wordy", "prompt": "Why?", "stream": True, "options": options}


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("/generate", {"model": None}, "model: missing; it is required"),
    ("/generate", {"model": ""}, "model: missing; it is required"),
    ("/generate", {"model": 0}, "model: a number is wrong; it must be a string"),
    ("/generate", {"prompt": ["a"]}, "prompt: an array is wrong; it must be a string"),
    ("/generate", {"stream": 1}, "stream: a number is wrong; it must be true or false"),
    ("/generate", {"promt": "a"}, "promt: unknown field; did you mean prompt?"),
    ("/generate", {"temperature": 1}, "temperature: unknown field; put it under parameters"),
    ("/generate", {"max_tokens": 1}, "max_tokens: unknown field; put it under parameters"),
    ("/generate", {"zzz": 1}, "zzz: unknown field; known are model, prompt, parameters, stream"),
    ("/generate", {"parameters": []}, "parameters: an array is wrong; it must be an object"),
    ("/generate", {"parameters": {"max_tokens": 0}}, "parameters.max_tokens: 0 is too small; it must be at least 1"),
    (
        "/generate",
        {"parameters": {"max_tokens": True}},
        "parameters.max_tokens: a boolean is wrong; it must be an integer",
    ),
    (
        "/generate",
        {"parameters": {"max_tokens": 1.5}},
        "parameters.max_tokens: a number is wrong; it must be an integer",
    ),
    ("/generate", {"parameters": {"seed": "1"}}, "parameters.seed: a string is wrong; it must be an integer"),
    ("/generate", {"parameters": {"top_p": False}}, "parameters.top_p: a boolean is wrong; it must be a number"),
    (
        "/generate",
        {"parameters": {"stop": [1]}},
        "parameters.stop: an array is wrong; it must be a string or an array of strings",
    ),
    (
        "/generate",
        {"parameters": {"num_predict": 1, "max_tokens": 1}},
        "parameters.max_tokens: max_tokens and num_predict say the same; send one of them",
    ),
    (
        "/generate",
        {"parameters": {"x": {}}},
        "parameters.x: an object is wrong; it must be a string, a number or a boolean",
    ),
    ("/chat", {"messages": "hi"}, "messages: a string is wrong; it must be an array of objects"),
    ("/chat", {"messages": [1]}, "messages[0]: a number is wrong; it must be an object"),
    ("/chat", {"messages": [{"role": "user"}]}, "messages[0].content: missing; it is required"),
    (
        "/chat",
        {"messages": [{"role": "user", "content": None}]},
        "messages[0].content: missing; it is required",
    ),
    (
        "/chat",
        {"messages": [{"role": "user", "content": "a", "x": 1}]},
        "messages[0].x: unknown field; known are role, content, images",
    ),
    ("/embeddings", {"input": 1}, "input: a number is wrong; it must be a string or an array of strings"),
    ("/embeddings", {"stream": True}, "stream: unknown field; known are model, input, parameters"),
]


@pytest.mark.parametrize(("path", "more", "message"), WRONG)
def test_a_wrong_request_is_told_the_field_and_what_would_be_right(
    path: str, more: dict[str, Any], message: str
) -> None:
    body = orjson.dumps({**ASK[path], **more})
    with pytest.raises(BadRequest) as caught:
        open_codec(SIMPLE, "POST", path, body)
    assert str(caught.value) == message
    assert caught.value.param == ("model" if message == "model: missing; it is required" else message.partition(":")[0])
    assert caught.value.code == ("missing_parameter" if "required" in message else "invalid_parameter")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff", b'{"model":"a"}'])
def test_what_is_no_request_at_all_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        open_codec(SIMPLE, "POST", "/generate", body)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)
FIELDS = st.sampled_from(["model", "prompt", "messages", "input", "parameters", "stream", "x"])
BODIES = st.one_of(
    st.binary(max_size=30),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(FIELDS, JSON).map(lambda value: json.dumps({**ASK["/chat"], **value}).encode()),
)


@given(body=BODIES, path=st.sampled_from(sorted(ASK)))
def test_no_body_raises_anything_but_an_api_error(body: bytes, path: str) -> None:
    try:
        outbound = open_codec(SIMPLE, "POST", path, body).outbounds[0]
    except ApiError as error:
        status = error.status
    else:
        status = 400 if not orjson.dumps(outbound.body) else 200
    assert status in (200, 400)


def test_every_error_has_the_one_shape() -> None:
    for error in (NotFound("no"), NotAllowedMethod("no", allowed=["GET"]), BadRequest("no")):
        reply = SIMPLE.render_error(error)
        assert (reply.status, json.loads(reply.body)) == (error.status, {"error": "no"})
        assert reply.headers["Content-Type"].startswith("application/json")


def test_both_dialects_are_one_family() -> None:
    assert (OllamaNative.name, OllamaNative.roles) == (OllamaSimple.name, OllamaSimple.roles)
    assert not set(OllamaNative.paths) & set(OllamaSimple.paths)
