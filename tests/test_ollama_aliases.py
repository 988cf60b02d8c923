"""A client meets its own names of models only: in answers, in lists, and where it named none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parallama_ollama import OllamaNative, OllamaSimple
from parallama_ollama.aliases import Renaming, go_string
from recorded import NAMES, Recording, fragmentations, open_codec, recording
from test_native_codec import FORWARDED, read_lines

from parallama.errors import ApiError, BadRequest, ModelUnknown, UpstreamFailed
from parallama.gateway.api import Codec, Gateway, Head, Outbound
from parallama.simulated.go import encode
from parallama.testing import Transcript, check_codec, load_recording

NATIVE, SIMPLE = OllamaNative(), OllamaSimple()
FOLDER = Path(__file__).parent / "recordings"
STREAM = Head(200, (("Content-Type", "application/x-ndjson"),))

ALIAS = 'team/größe <&>"\\\u2028'
WRITTEN = '"team/größe \\u003c\\u0026\\u003e\\"\\\\\\u2028"'.encode()
"""The same as Go writes it."""

ANSWERING = ("/api/generate", "/api/chat", "/api/embed", "/api/embeddings")


def is_answer(name: str) -> bool:
    record = recording(name)
    return record.path in ANSWERING and record.head is not None and record.head.status < 400 and bool(record.data)


ANSWERS = [name for name in FORWARDED if is_answer(name)]
KEEPING = [name for name in ANSWERS if name.startswith(("chat", "embed", "generate", "repeat", "runner", "server"))]


def aliased(codec: Codec, alias: str, target: str, **forced: Any) -> Codec:
    """What the core makes of a request for an alias."""

    def resolve(outbound: Outbound) -> Outbound:
        body = {**(outbound.body or {}), outbound.model_key: target, **forced}
        return replace(outbound, model=alias, target=target, body=body, raw=None)

    codec.resolved([resolve(outbound) for outbound in codec.outbounds])
    return codec


def opened(record: Recording, context: int | None = None) -> Codec:
    """The recorded request, had the client asked for the alias."""
    codec = open_codec(NATIVE, record.method, record.path.removeprefix("/api"), record.body, context)
    return aliased(codec, ALIAS, codec.outbounds[0].model or "")


def played(codec: Codec, head: Head, chunks: list[bytes]) -> bytes:
    codec.begin(head)
    return b"".join([codec.feed(chunk) for chunk in chunks]) + codec.finish()


def renamed(line: bytes) -> bytes:
    """A line of a recording as the client is to get it: made from its parsed name, not by the code under test."""
    name = json.loads(line).get("model") if line else None
    start = b'{"model":' + json.dumps(name).encode()
    return line.replace(start, b'{"model":' + WRITTEN, 1) if line.startswith(start) else line


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_names_the_alias_and_is_the_nodes_to_the_byte_otherwise(name: str) -> None:
    record = recording(name)
    assert record.head is not None
    expected = b"\n".join(renamed(line) for line in record.data.split(b"\n"))
    for chunks in fragmentations(record.data, 10):
        codec = opened(record)
        head = codec.begin(record.head)
        got = b"".join([codec.feed(chunk) for chunk in chunks])
        assert got == expected
        assert (head.status, head.header("content-length")) == (record.head.status, "")
        assert head.header("content-type") == record.head.header("content-type")
    named = [line["model"] for line in map(json.loads, filter(None, expected.split(b"\n"))) if "model" in line]
    assert set(named) <= {ALIAS}
    assert named or record.path == "/api/embeddings" or b'"error"' in expected


@pytest.mark.parametrize("name", KEEPING)
def test_an_answer_for_an_alias_keeps_every_promise_of_a_codec(name: str) -> None:
    record = recording(name)
    assert record.head is not None
    streams = record.head.header("content-type") == "application/x-ndjson"
    kept = load_recording(FOLDER / f"{name}.json")
    check_codec(lambda: opened(record), kept, read=read_lines if streams else None, cuts=20)


TEMPTING = [
    '{"model":"wordy"',
    '\n{"model":"wordy","done":true}\n',
    '","model":"wordy","x":"',
    "wordy",
    "<wordy> & größe",
    "\\",
    "",
]


def tempting(**more: Any) -> list[dict[str, Any]]:
    """Lines whose texts and tool calls say what a line begins with."""
    call = {"function": {"name": "wordy", "arguments": {"model": "wordy", '{"model":"wordy"': [{"model": "wordy"}]}}}
    return [
        *({"model": "wordy", "message": {"role": "assistant", "content": text}, "done": False} for text in TEMPTING),
        {"model": "wordy", "message": {"role": "assistant", "content": "", "tool_calls": [call]}, "done": False},
        {
            "model": "wordy",
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "model_info": "wordy",
            **more,
        },
    ]


CHAT = recording("chat-stream")
COUNTS = {"prompt_eval_count": 7, "eval_count": 5}
TRANSCRIPTS = {
    "a stream": Transcript.stream(*tempting(**COUNTS)),
    "a document": Transcript.document(tempting(**COUNTS)[-1]),
    "a document of text": Transcript.document({**tempting()[1], "done": True, **COUNTS}),
    "without its end": Transcript.stream(*tempting()[:-1]),
    "broken off": Transcript(body=Transcript.stream(*tempting()).body[:-60], complete=False),
    "broken off in a name": Transcript(body=Transcript.stream(*tempting()[:2]).body + b'{"model":"wo', complete=False),
    "an error in the middle": Transcript.stream(*tempting()[:2], {"error": "model 'wordy' failed"}),
    "an error first": Transcript.stream({"error": "model 'wordy' failed"}),
    "an error status": Transcript.document({"error": "model 'wordy' not found"}, 404),
    "no newline at its end": Transcript(body=Transcript.stream(*tempting(**COUNTS)).body[:-1]),
}


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_odd_answers_for_an_alias_keep_every_promise_of_a_codec(name: str) -> None:
    transcript = TRANSCRIPTS[name]
    streams = transcript.head == STREAM
    check_codec(lambda: opened(CHAT), transcript, read=read_lines if streams else None, cuts=60)


def test_nothing_that_a_model_says_is_taken_for_its_name() -> None:
    lines = tempting(**COUNTS)
    data = Transcript.stream(*lines).body
    for chunks in fragmentations(data, 60):
        got = played(opened(CHAT), STREAM, chunks)
        assert read_lines(got) == [{**line, "model": ALIAS} for line in lines]


def test_the_name_is_written_as_go_writes_it() -> None:
    assert go_string(ALIAS) == WRITTEN
    assert go_string("a<b>\x85") == b'"a\\u003cb\\u003e\\u0085"', "nor may it end a line to any reader"


@given(st.text())
def test_every_name_comes_back_as_the_client_wrote_it(name: str) -> None:
    written = go_string(name)
    assert json.loads(written) == name
    assert len(written.decode().splitlines()) == 1
    assert not set(b"<>&") & set(written)
    assert Renaming(name).feed(b'{"model":"x"}') == b'{"model":' + written + b"}"


NODES_NAMES = st.text(alphabet='a"\\<é\n', max_size=6)
LINES = st.one_of(
    st.builds(lambda name, text: encode({"model": name, "response": text}), NODES_NAMES, NODES_NAMES),
    st.sampled_from([b"", b"{", b'{"model"', b'{"model": "x"}', b'{"model":"x', b'{"error":"x"}', b'{"model":7}']),
    st.text(alphabet='{"model":}\\', max_size=14).map(str.encode),
)


@given(lines=st.lists(LINES, max_size=5), cuts=st.lists(st.integers(0, 200), max_size=8), last=st.booleans())
def test_no_cut_changes_what_the_client_gets(lines: list[bytes], cuts: list[int], last: bool) -> None:
    data = b"\n".join(lines) + (b"\n" if last else b"")
    at = sorted(min(cut, len(data)) for cut in cuts)
    outputs = []
    for pieces in ([data], [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]):
        renaming = Renaming("alias")
        outputs.append(b"".join([renaming.feed(piece) for piece in pieces]) + renaming.held)
    assert outputs[0] == outputs[1]


def test_a_name_without_end_is_not_waited_for() -> None:
    line = b'{"model":"' + b"x" * 5000 + b'","done":true}\n'
    for pieces in ([line], [line[i : i + 1] for i in range(len(line))]):
        renaming = Renaming("alias")
        longest = 0
        got = b""
        for piece in pieces:
            got += renaming.feed(piece)
            longest = max(longest, len(renaming.held))
        assert got == line
        assert longest <= 1024


def test_what_was_held_when_the_node_broke_is_not_told() -> None:
    codec = opened(CHAT)
    codec.begin(STREAM)
    assert codec.feed(b'{"model":"wor') == b""
    assert codec.fail(UpstreamFailed("gone")) == b'{"error":"gone"}\n'


def test_another_node_begins_anew() -> None:
    codec = opened(CHAT)
    codec.begin(STREAM)
    assert codec.feed(b'{"model":"wor') == b""
    assert played(codec, STREAM, [CHAT.data]).count(b'{"model":' + WRITTEN) == len(CHAT.messages)


@pytest.mark.parametrize("name", ["chat-404-model", "generate-404-model", "busy-chat", "embed-completion-model"])
def test_an_error_of_the_node_passes_as_it_is(name: str) -> None:
    record = recording(name)
    assert record.head is not None
    codec = opened(record)
    chunk = record.chunks[0]
    assert codec.begin(record.head) == record.head
    assert codec.feed(chunk) is chunk


@pytest.mark.parametrize("name", ["chat-once", "chat-stream", "embed-dimensions"])
def test_without_an_alias_the_very_bytes_pass(name: str) -> None:
    record = recording(name)
    assert record.head is not None
    plain = open_codec(NATIVE, record.method, record.path.removeprefix("/api"), record.body)
    forced = open_codec(NATIVE, record.method, record.path.removeprefix("/api"), record.body)
    forced.resolved([replace(forced.outbounds[0], body={**(forced.outbounds[0].body or {}), "think": False}, raw=None)])
    for codec in (plain, forced):
        chunk = record.chunks[0]
        assert codec.begin(record.head) == record.head
        assert codec.feed(chunk) is chunk


def test_the_accounts_are_those_of_the_targets_request() -> None:
    record = recording("generate-once")
    codec = open_codec(NATIVE, "POST", "/generate", record.body, 4096)
    aliased(codec, ALIAS, "wordy", options={"num_ctx": 300})
    assert record.head is not None
    played(codec, record.head, [record.data])
    assert codec.usage.final
    assert codec.context == 512


TAGS = recording("tags")
ALIASES = {"gpt-4": "WORDY-tools", "gpt-4-mini": "library/wordy-think:latest", "gone": "no-such-model"}
LISTS: list[tuple[Gateway, str]] = [(NATIVE, "/tags"), (SIMPLE, "/models")]


def listed(gateway: Gateway, path: str, aliases: Mapping[str, str]) -> list[dict[str, Any]]:
    assert TAGS.head is not None
    codec = open_codec(gateway, "GET", path, aliases=aliases)
    models: list[dict[str, Any]] = json.loads(played(codec, TAGS.head, [TAGS.data]))["models"]
    return models


@pytest.mark.parametrize(("gateway", "path"), LISTS)
def test_aliases_are_listed_behind_the_models_they_stand_for(gateway: Gateway, path: str) -> None:
    without, models = listed(gateway, path, {}), listed(gateway, path, ALIASES)
    assert models[: len(without)] == without
    by_name = {model["name"]: model for model in models}
    assert list(by_name)[len(without) :] == ["gpt-4", "gpt-4-mini"]
    for alias, target in (("gpt-4", "wordy-tools:latest"), ("gpt-4-mini", "wordy-think:latest")):
        own = {"name": alias, "model": alias} if gateway is NATIVE else {"name": alias}
        assert by_name[alias] == {**by_name[target], **own}


@pytest.mark.parametrize(("gateway", "path"), LISTS)
def test_an_alias_stands_where_its_name_hides_a_model(gateway: Gateway, path: str) -> None:
    names = [model["name"] for model in listed(gateway, path, {"Wordy-Tools": "wordy-think"})]
    assert "wordy-tools:latest" not in names
    assert names[-1] == "Wordy-Tools"
    hidden_by_nothing = [model["name"] for model in listed(gateway, path, {"wordy-tools": "no-such-model"})]
    assert hidden_by_nothing == [name for name in names if name != "Wordy-Tools"]


@pytest.mark.parametrize(("gateway", "path"), LISTS)
def test_a_list_with_aliases_keeps_every_promise_of_a_codec(gateway: Gateway, path: str) -> None:
    kept = load_recording(FOLDER / "tags.json")
    check_codec(lambda: open_codec(gateway, "GET", path, aliases=ALIASES), kept, cuts=40)


def test_without_aliases_the_list_passes_as_it_is() -> None:
    assert TAGS.head is not None
    codec = open_codec(NATIVE, "GET", "/tags")
    assert codec.begin(TAGS.head) is TAGS.head
    assert codec.feed(TAGS.chunks[0]) is TAGS.chunks[0]


def test_a_head_of_the_list_is_the_nodes() -> None:
    head = Head(200, (("Content-Length", "4711"),))
    assert open_codec(NATIVE, "HEAD", "/tags", aliases=ALIASES).begin(head) is head


ODD_LISTS = [
    *(b'{"models":null}', b'{"models":{}}', b"[]", b"<html>", b"", b'{"error":"no"}', b'{"models":[]}'),
    *(b'{"models":[{"name":"wordy-tools"},7]}', b'{"models":[{"name":' + b"[" * 400 + b"]" * 400 + b"}]}"),
]


@pytest.mark.parametrize("body", ODD_LISTS)
def test_what_is_no_list_of_models_passes_as_it_is(body: bytes) -> None:
    codec = open_codec(NATIVE, "GET", "/tags", aliases=ALIASES)
    assert played(codec, Head(200), [body[:5], body[5:]]) == body


def test_odd_entries_of_a_list_stay() -> None:
    entries = [{}, {"name": None}, {"name": 7}, {"name": "wordy-tools", "size": 1}]
    codec = open_codec(NATIVE, "GET", "/tags", aliases=ALIASES)
    head = codec.begin(Head(200, (("Content-Length", "99"), ("Date", "now"))))
    assert head.headers == [("Date", "now")]
    codec.feed(orjson.dumps({"models": entries, "more": 1}))
    own = {"name": "gpt-4", "model": "gpt-4", "size": 1}
    assert json.loads(codec.finish()) == {"models": [*entries, own], "more": 1}


def test_a_list_without_end_is_given_up() -> None:
    codec = open_codec(NATIVE, "GET", "/tags", aliases=ALIASES)
    codec.begin(Head(200))
    part = b" " * 1024 * 1024
    assert {codec.feed(part) for _ in range(16)} == {b""}
    with pytest.raises(UpstreamFailed, match="list of models"):
        codec.feed(part)


ASKING: list[tuple[Gateway, str, dict[str, Any]]] = [
    (NATIVE, "/generate", {"prompt": "Why?"}),
    (NATIVE, "/chat", {"messages": []}),
    (NATIVE, "/embed", {"input": "x"}),
    (NATIVE, "/embeddings", {"prompt": "x"}),
    (NATIVE, "/show", {}),
    (SIMPLE, "/generate", {"prompt": "Why?"}),
    (SIMPLE, "/chat", {"messages": []}),
    (SIMPLE, "/embeddings", {"input": "x"}),
]


@pytest.mark.parametrize("no_model", [{}, {"model": None}, {"model": ""}])
@pytest.mark.parametrize(("gateway", "path", "body"), ASKING)
def test_the_default_model_answers_whoever_names_none(
    gateway: Gateway, path: str, body: dict[str, Any], no_model: dict[str, Any]
) -> None:
    asked = orjson.dumps({**body, **no_model})
    outbound = open_codec(gateway, "POST", path, asked, default_model="llama").outbounds[0]
    assert (outbound.model, outbound.model_key, outbound.raw) == ("llama", "model", None)
    assert outbound.body is not None
    assert outbound.body.items() >= {"model": "llama"}.items()
    with pytest.raises((BadRequest, ModelUnknown), match="model"):
        open_codec(gateway, "POST", path, asked)


@pytest.mark.parametrize(("gateway", "path", "body"), ASKING)
def test_a_client_that_names_a_model_gets_that(gateway: Gateway, path: str, body: dict[str, Any]) -> None:
    asked = orjson.dumps({**body, "model": "own"})
    outbound = open_codec(gateway, "POST", path, asked, default_model="llama").outbounds[0]
    assert (outbound.model, (outbound.body or {})["model"]) == ("own", "own")


def test_a_model_to_show_may_still_be_called_name() -> None:
    named = open_codec(NATIVE, "POST", "/show", b'{"name":"own"}', default_model="llama").outbounds[0]
    assert (named.model, named.body) == ("own", {"name": "own"})
    empty = open_codec(NATIVE, "POST", "/show", b'{"name":"","model":""}', default_model="llama").outbounds[0]
    assert (empty.model, empty.body) == ("llama", {"model": "llama"})


MANAGING = [("POST", "/pull"), ("POST", "/push"), ("POST", "/create"), ("DELETE", "/delete"), ("POST", "/copy")]


@pytest.mark.parametrize(("method", "path"), MANAGING)
def test_nothing_is_pulled_or_deleted_by_default(method: str, path: str) -> None:
    with pytest.raises(ApiError, match="invalid model name"):
        open_codec(NATIVE, method, path, b"{}", default_model="llama")


def test_an_answer_of_the_default_model_bears_its_name() -> None:
    codec = open_codec(NATIVE, "POST", "/chat", b'{"messages":[]}', default_model=ALIAS)
    aliased(codec, codec.outbounds[0].model or "", "wordy")
    assert {line["model"] for line in read_lines(played(codec, STREAM, [CHAT.data]))} == {ALIAS}


@pytest.mark.parametrize("stream", [False, True])
def test_the_simple_dialect_answers_in_the_clients_name(stream: bool) -> None:
    asked = orjson.dumps({"model": ALIAS, "messages": [], "stream": stream})
    codec = aliased(open_codec(SIMPLE, "POST", "/chat", asked), ALIAS, "wordy")
    got = played(codec, STREAM, [CHAT.data])
    assert b"wordy" not in got
    assert stream or json.loads(got)["model"] == ALIAS


def names_of_models() -> Iterator[tuple[str, str, str]]:
    for name in NAMES:
        record = recording(name)
        if name in ANSWERS and record.messages and record.messages[0].get("model"):
            asked = open_codec(NATIVE, record.method, record.path.removeprefix("/api"), record.body).outbounds[0].model
            yield name, asked or "", record.messages[0]["model"]


def test_a_real_node_answers_in_the_spelling_that_it_was_asked_in() -> None:
    """So a name comes back by what was asked, not by what a node makes of it."""
    found = list(names_of_models())
    assert len(found) > 40
    assert [name for name, asked, answered in found if asked != answered] == []
