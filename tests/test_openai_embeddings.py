"""Embeddings for OpenAI's clients: numbers or packed bytes, in order, and never fewer than asked for."""

from __future__ import annotations

import base64
import json
import math
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse
from openai_client import client
from parallama_openai.embeddings import open_embedding, pack

from parallama.errors import ApiError, BadRequest, UpstreamFailed
from parallama.exchange import Usage
from parallama.gateway.api import Codec
from parallama.testing import Transcript, check_codec, inbound, load_recording

FOLDER = Path(__file__).parent / "recordings"
OPTIONS = SimpleNamespace(max_embedding_inputs=3)
ASK: dict[str, Any] = {"model": "nomic-embed-text", "input": "the sky"}
VECTOR = [0.5, -0.25, 1.0]


def opened(**more: Any) -> Codec:
    return open_embedding(inbound({**ASK, **more}, "/embeddings"), OPTIONS)


def sent(**more: Any) -> Any:
    return opened(**more).outbounds[0].body


def refused(**more: Any) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        opened(**more)
    return caught.value


def played(codec: Codec, transcript: Transcript) -> Any:
    codec.begin(transcript.head)
    return json.loads(codec.feed(transcript.body) + codec.finish())


def vectors(*values: Any, **more: Any) -> Transcript:
    return Transcript.document({"model": "x", "embeddings": list(values), "prompt_eval_count": 4, **more})


def test_one_text_and_several_are_asked_for_alike() -> None:
    assert sent() == {"model": "nomic-embed-text", "input": ["the sky"]}
    assert sent(input=["a", "b"])["input"] == ["a", "b"]
    assert sent(dimensions=8)["dimensions"] == 8
    assert opened().outbounds[0].path == "/api/embed"


@pytest.mark.parametrize("input", ["", [], None, [""], ["a", ""], [1, 2], [[1, 2], [3]], 5, {"a": 1}, ["a", 1]])
def test_what_is_no_text_is_refused(input: Any) -> None:
    error = refused(input=input)
    assert error.param == "input"
    assert error.code == ("missing_parameter" if input is None else "invalid_parameter")


@pytest.mark.parametrize("input", [[1, 2], [[1, 2]], [1.5]])
def test_tokens_are_refused_by_that_name(input: Any) -> None:
    assert "tokens" in str(refused(input=input))


def test_too_many_texts_are_refused_with_the_limit() -> None:
    assert sent(input=["a"] * 3)["input"] == ["a"] * 3
    assert "may hold 3" in str(refused(input=["a"] * 4))


@pytest.mark.parametrize(("name", "value"), [("dimensions", 0), ("dimensions", "8"), ("encoding_format", "hex")])
def test_a_wrong_parameter_is_named(name: str, value: Any) -> None:
    assert refused(**{name: value}).param == name


def test_a_request_without_a_model_takes_the_default_or_is_refused() -> None:
    asked = {"input": "a"}
    codec = open_embedding(inbound(asked, default_model="nomic-embed-text"), OPTIONS)
    assert (codec.outbounds[0].model, codec.outbounds[0].body) == (
        "nomic-embed-text",
        {"model": "nomic-embed-text", "input": ["a"]},
    )
    with pytest.raises(BadRequest) as caught:
        open_embedding(inbound(asked), OPTIONS)
    assert (caught.value.param, caught.value.code) == ("model", "missing_parameter")


def test_a_user_changes_nothing_and_is_logged_as_ignored() -> None:
    codec = opened(user="someone")
    assert list(codec.ignored) == ["user"]
    assert "user" not in (codec.outbounds[0].body or {})


def test_vectors_come_as_numbers_in_the_order_of_the_texts() -> None:
    answer = played(opened(input=["a", "b"], encoding_format="float"), vectors(VECTOR, [0.15524419]))
    assert answer == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": VECTOR},
            {"object": "embedding", "index": 1, "embedding": [0.15524419]},
        ],
        "model": "nomic-embed-text",
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    }
    CreateEmbeddingResponse.model_validate(answer)


def test_packed_vectors_are_little_endian_floats_of_32_bits() -> None:
    answer = played(opened(encoding_format="base64"), vectors(VECTOR))
    assert base64.b64decode(answer["data"][0]["embedding"]) == struct.pack("<3f", *VECTOR)
    assert pack([1.0]) == base64.b64encode(b"\x00\x00\x80\x3f").decode()


@pytest.mark.parametrize("packed", [False, True])
def test_a_node_that_answers_otherwise_is_at_fault(packed: bool) -> None:
    wrong = [
        vectors(),
        vectors(VECTOR, VECTOR),
        vectors("text"),
        vectors(5),
        vectors([[1.0]]),
        Transcript.document({"model": "x"}),
    ]
    for transcript in wrong:
        with pytest.raises(UpstreamFailed):
            played(opened(encoding_format="base64" if packed else "float"), transcript)


@pytest.mark.parametrize("vector", [["a"], [None], [1e300], {"a": 1}, 5])
def test_what_is_no_vector_is_not_packed(vector: Any) -> None:
    with pytest.raises(UpstreamFailed):
        pack(vector)


def test_an_answer_of_many_megabytes_is_read() -> None:
    vector = [round(math.sin(n), 7) for n in range(1_000_000)]
    transcript = vectors(vector)
    assert len(transcript.body) > 9_000_000
    assert played(opened(), transcript)["data"][0]["embedding"] == vector


CASES = {
    "numbers": ({"encoding_format": "float"}, vectors(VECTOR)),
    "packed": ({"encoding_format": "base64"}, vectors(VECTOR)),
    "no counts": ({}, Transcript.document({"embeddings": [VECTOR]})),
    "an error": ({}, Transcript.document({"error": "model 'x' not found"}, 404)),
    "broken off": ({}, Transcript(body=vectors(VECTOR).body[:20], complete=False)),
}


@pytest.mark.parametrize("name", CASES)
def test_it_keeps_every_promise(name: str) -> None:
    more, transcript = CASES[name]
    check_codec(lambda: opened(**more), transcript, usage=None if transcript.usage() else Usage(final=True))


@pytest.mark.parametrize(("name", "texts"), [("embed-dimensions", 1), ("sdk-ollama-embed", 2)])
def test_recordings_keep_every_promise(name: str, texts: int) -> None:
    record = load_recording(FOLDER / f"{name}.json")
    check_codec(lambda: opened(input=["a"] * texts), record, usage=Transcript.of(record).usage())


def test_a_model_that_cannot_embed_is_the_nodes_error() -> None:
    transcript = Transcript.of(load_recording(FOLDER / "embed-completion-model.json"))
    with pytest.raises(UpstreamFailed, match="does not support embeddings") as caught:
        played(opened(), transcript)
    assert caught.value.status == 501


def test_the_sdk_reads_what_it_asks_for() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        asked = json.loads(request.content)
        assert asked["encoding_format"] == "base64"
        return httpx2.Response(200, json=played(opened(**asked), vectors(VECTOR, [0.0, 1.0, 0.5])))

    with client(answer) as sdk:
        found = sdk.embeddings.create(model="nomic-embed-text", input=["a", "b"])
    assert [entry.embedding for entry in found.data] == [VECTOR, [0.0, 1.0, 0.5]]
    assert found.usage.total_tokens == 4


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(["model", "input", "dimensions", "encoding_format"], JSON)))
def test_no_body_raises_anything_but_an_api_error(asked: dict[str, Any]) -> None:
    for body in (asked, {**ASK, **asked}):
        try:
            codec = open_embedding(inbound(json.dumps(body).encode()), OPTIONS)
        except ApiError:
            continue
        orjson.dumps(codec.outbounds[0].body)
