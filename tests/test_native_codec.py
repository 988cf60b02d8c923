"""The native API passes byte for byte, in any cut, and is counted on its way."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from parallama_ollama import OllamaNative
from recorded import NAMES, NoModels, Recording, find_route, fragmentations, open_codec, recording

from parallama.errors import (
    ApiError,
    BadRequest,
    ModelUnknown,
    NotAllowedMethod,
    NotFound,
    TimedOut,
    UpstreamFailed,
)
from parallama.exchange import Usage
from parallama.gateway.api import Body, Codec, Head, Inbound, Use
from parallama.gateway.lines import read_object
from parallama.testing import check_codec, load_recording

NATIVE = OllamaNative()
FOLDER = Path(__file__).parent / "recordings"

NOT_ONE_REQUEST = {
    "http-chunked-body",
    "http-error-then-reuse",
    "http-length-and-chunked",
    "http-pipelined-two",
    "http-two-lengths",
}
"""Recorded for their framing: the body holds more than the body."""

WITHOUT_END = {"repeat-chat", "repeat-generate"}
TOLD_IN_THE_ANSWER = {
    "runner-killed-generate",
    "runner-stopped",
    "repeat-generate-once",
    "create-from-404",
    "pull-fails-stream",
    "pull-http-not-insecure",
    "pull-registry-404",
    "sdk-ollama-pull",
}
REFUSED_BY_US = {
    "generate-bad-json",
    "generate-empty-body",
    "generate-no-model",
    "http-gzip-body",
    "json-bom",
    "json-num-predict-1e400",
    "json-options-string",
    "json-stream-string",
    "pull-empty",
    "show-empty",
}


def below(record: Recording) -> str:
    return record.path.removeprefix("/api")


def has_route(name: str) -> bool:
    record = recording(name)
    known = record.path.startswith("/api/") and find_route(NATIVE, record.method, below(record)) is not None
    return known and record.head is not None and name not in NOT_ONE_REQUEST and name != "trailing-slash"


ROUTED = [name for name in NAMES if has_route(name)]
FORWARDED = sorted(set(ROUTED) - REFUSED_BY_US)

"""Lines shorter than the first without its text take from the estimate."""

"""An error line whose newline is missing is told again."""
KINDS = ("generate", "chat", "embed", "pull", "push", "create", "show", "tags", "runner", "server", "repeat", "busy")
KEEPING = [name for name in FORWARDED if name.startswith(KINDS)]


def opened(record: Recording, context: int | None = None) -> Codec:
    return open_codec(NATIVE, record.method, below(record), record.body, context)


def play(codec: Codec, record: Recording, chunks: list[bytes]) -> bytes:
    """Feed an answer and end it as it ended; all that the client got."""
    assert record.head is not None
    assert codec.begin(record.head) == record.head
    got = b"".join([codec.feed(chunk) for chunk in chunks])
    try:
        if record.end != "complete":
            raise UpstreamFailed("the node went away")
        return got + codec.finish()
    except UpstreamFailed as error:
        return got + codec.fail(error)


def read_lines(data: bytes) -> list[Any]:
    """A stream as a client reads it: half a line before the last one, an error, was under way when the node broke."""
    lines = [line for line in data.split(b"\n") if line]
    if len(lines) > 1 and lines[-1].startswith(b'{"error"') and read_object(lines[-2]) is None:
        del lines[-2]
    return [json.loads(line) for line in lines]


def counts(record: Recording) -> tuple[int | None, int | None, bool]:
    """Prompt tokens, output tokens, and whether they are the node's own."""
    last = record.messages[-1] if record.messages else {}
    whole = last.get("done", True) and "error" not in last
    return last.get("prompt_eval_count"), last.get("eval_count"), whole


@pytest.mark.parametrize("name", FORWARDED)
def test_a_recorded_answer_passes_unchanged_in_any_cut(name: str) -> None:
    record = recording(name)
    streams = record.head is not None and record.head.header("content-type") == "application/x-ndjson"
    broken = streams and (name in WITHOUT_END or record.end != "complete")
    for chunks in fragmentations(record.data):
        codec = opened(record)
        got = play(codec, record, chunks)
        assert codec.streams is streams
        assert got[: len(record.data)] == record.data
        last = got[len(record.data) :]
        assert list(json.loads(last)) == ["error"] and last[-1:] == b"\n" if broken else last == b""
        assert (codec.failed is not None) is (name in TOLD_IN_THE_ANSWER)


@pytest.mark.parametrize("name", KEEPING)
def test_a_recorded_answer_keeps_every_promise_of_a_codec(name: str) -> None:
    record = recording(name)
    assert record.head is not None
    streams = record.head.header("content-type") == "application/x-ndjson"
    kept = load_recording(FOLDER / f"{name}.json")
    check_codec(lambda: opened(record), kept, read=read_lines if streams else None, cuts=40)


@pytest.mark.parametrize(
    "name", [n for n in FORWARDED if recording(n).path in ("/api/generate", "/api/chat", "/api/embed")]
)
def test_the_counts_are_the_nodes_own_wherever_it_gave_some(name: str) -> None:
    record = recording(name)
    assert record.head is not None
    for chunks in fragmentations(record.data, 20):
        codec = opened(record)
        play(codec, record, chunks)
        if record.head.status >= 400:
            assert codec.usage == Usage()
            continue
        prompt, output, final = counts(record)
        assert codec.usage.final is final
        if final:
            assert (codec.usage.prompt_tokens, codec.usage.output_tokens) == (prompt, output)
        else:
            assert codec.usage.prompt_tokens is not None
            assert codec.usage.prompt_tokens >= 1


def test_a_stream_that_was_cut_is_estimated_by_its_lines_and_bytes() -> None:
    record = recording("server-killed")
    codec = opened(record)
    assert record.head is not None
    codec.begin(record.head)
    assert codec.usage.output_tokens is None
    for sent, chunk in enumerate([chunk for chunk in record.chunks if chunk], 1):
        codec.feed(chunk)
        assert codec.usage.output_tokens in range(sent, 2 * sent + 1)
    assert not codec.usage.final
    line = orjson.dumps({"model": "endless", "message": {"role": "assistant", "content": "x" * 4000}, "done": False})
    codec.feed(line + b"\n")
    assert codec.usage.output_tokens in range(950, 1050)


def test_the_prompt_of_a_cut_stream_is_a_quarter_of_its_bytes_without_images() -> None:
    messages = [{"role": "user", "content": "é" * 2000, "images": ["A" * 90_000]}]
    codec = open_codec(NATIVE, "POST", "/chat", orjson.dumps({"model": "a", "messages": messages}))
    codec.begin(Head(200, (("Content-Type", "application/x-ndjson"),)))
    assert codec.usage.prompt_tokens in range(1000, 1010)


def test_an_answer_of_another_node_is_counted_from_its_own_beginning() -> None:
    codec = opened(recording("generate-stream"))
    play(codec, recording("runner-killed-generate"), recording("runner-killed-generate").chunks)
    assert codec.failed is not None
    play(codec, recording("generate-stream"), recording("generate-stream").chunks)
    assert codec.failed is None
    assert codec.usage.final


@pytest.mark.parametrize("name", sorted(REFUSED_BY_US))
def test_what_ollama_would_refuse_is_refused_with_its_status_and_bytes(name: str) -> None:
    record = recording(name)
    with pytest.raises(ApiError) as caught:
        opened(record)
    reply = NATIVE.render_error(caught.value)
    assert record.head is not None
    assert (reply.status, reply.headers["Content-Type"]) == (record.head.status, record.head.header("content-type"))
    assert json.loads(reply.body) == json.loads(record.data)


@pytest.mark.parametrize(
    ("name", "error"),
    [("unknown-path", NotFound("x")), ("generate-get", NotAllowedMethod("x", allowed=["POST"]))],
)
def test_paths_and_methods_that_do_not_exist_answer_as_ollamas_do(name: str, error: ApiError) -> None:
    record = recording(name)
    reply = NATIVE.render_error(error)
    assert record.head is not None
    assert (reply.status, reply.body) == (record.head.status, record.data)
    assert reply.headers["Content-Type"] == record.head.header("content-type")


def test_a_slash_at_the_end_is_sent_to_the_path_without_it_as_recorded() -> None:
    record = recording("trailing-slash")
    codec = open_codec(NATIVE, "GET", "/tags/")
    assert record.head is not None
    assert not codec.outbounds
    assert codec.reply.status == record.head.status
    for header in ("location", "content-type"):
        assert codec.reply.header(header) == record.head.header(header)
    assert codec.finish() == record.data


@pytest.mark.parametrize(("method", "path"), [("POST", "/chat/"), ("HEAD", "/tags/"), ("DELETE", "/delete/")])
def test_a_slash_after_another_method_keeps_the_method(method: str, path: str) -> None:
    codec = open_codec(NATIVE, method, path)
    assert (codec.reply.status, codec.reply.header("location")) == (307, "/api" + path[:-1])
    assert codec.finish() == b""


def test_a_redirect_stays_below_the_mount_and_keeps_the_query() -> None:
    found = find_route(NATIVE, "GET", "/tags/")
    assert found is not None
    inbound = Inbound(
        id="0190a5d6c3f07abc8def0123456789ab",
        at=1_720_000_000,
        method="GET",
        mount="/ollama/api",
        path="/tags/",
        params={},
        query={"a": 'b"&c'},
        headers={},
        raw=b"",
        models=NoModels(),
    )
    codec = found[0].open(inbound)
    assert codec.reply.header("location") == "/ollama/api/tags?a=b%22%26c"


MISSING = [
    ("POST", "/generate", ModelUnknown, "model '' not found"),
    ("POST", "/embed", ModelUnknown, "model '' not found"),
    ("POST", "/chat", BadRequest, "model is required"),
    ("POST", "/embeddings", BadRequest, "model is required"),
    ("POST", "/show", BadRequest, "model is required"),
    ("POST", "/pull", BadRequest, "invalid model name"),
    ("POST", "/push", BadRequest, "invalid model name"),
    ("POST", "/create", BadRequest, "invalid model name"),
    ("DELETE", "/delete", BadRequest, "invalid model name"),
    ("POST", "/copy", BadRequest, "invalid model name"),
]


@pytest.mark.parametrize("body", [b"{}", b'{"model":null}', b'{"model":""}', b'{"source":"a"}', b"null"])
@pytest.mark.parametrize(("method", "path", "error", "message"), MISSING)
def test_no_model_at_all_answers_as_ollama_does(
    method: str, path: str, error: type[ApiError], message: str, body: bytes
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        open_codec(NATIVE, method, path, body)


ALIASED = [("POST", "/show"), ("POST", "/pull"), ("POST", "/push"), ("POST", "/create"), ("DELETE", "/delete")]


@pytest.mark.parametrize(("method", "path"), ALIASED)
def test_name_is_the_model_but_never_another_one(method: str, path: str) -> None:
    alone = open_codec(NATIVE, method, path, b'{"name":"a"}').outbounds[0]
    assert (alone.model, alone.model_key, alone.body, alone.raw) == ("a", "name", {"name": "a"}, b'{"name":"a"}')
    both = open_codec(NATIVE, method, path, b'{"name":"a","model":"a"}').outbounds[0]
    assert (both.model, both.model_key, both.body) == ("a", "model", {"model": "a"})
    empty = open_codec(NATIVE, method, path, b'{"name":"a","model":""}').outbounds[0]
    assert (empty.model, empty.model_key, empty.body) == ("a", "name", {"name": "a"})
    for body in (b'{"name":"a","model":"b"}', b'{"Name":"a","model":"b"}'):
        with pytest.raises(BadRequest, match="'name'"):
            open_codec(NATIVE, method, path, body)


@pytest.mark.parametrize("path", ["/generate", "/chat", "/embed", "/embeddings"])
def test_name_means_nothing_where_ollama_ignores_it(path: str) -> None:
    raw = b'{"name":"b","model":"a"}'
    outbound = open_codec(NATIVE, "POST", path, raw).outbounds[0]
    assert (outbound.model, outbound.raw) == ("a", raw)


def test_every_model_in_a_request_is_named() -> None:
    create = open_codec(NATIVE, "POST", "/create", b'{"model":"a","From":"b"}').outbounds[0]
    assert (create.model, create.names, create.leaves_node) == ("a", ("b",), False)
    copy = open_codec(NATIVE, "POST", "/copy", b'{"source":"a","destination":"b"}').outbounds[0]
    assert (copy.model, copy.model_key, copy.names) == ("a", "source", ("b",))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/create", b'{"model":"a","remote_HOST":"ollama.com"}'),
        ("/experimental/web_search", b'{"query":"x"}'),
        ("/experimental/web_fetch", b'{"url":"x"}'),
    ],
)
def test_a_request_that_makes_the_node_call_elsewhere_says_so(path: str, body: bytes) -> None:
    assert open_codec(NATIVE, "POST", path, body).outbounds[0].leaves_node


def test_every_route_of_ollama_is_there_with_its_permission() -> None:
    routes = {(route.method, route.path): route for route in NATIVE.routes() if not route.path.endswith("/")}
    manages = {path for (_, path), route in routes.items() if route.use is Use.MANAGE}
    assert len(routes) == 24
    assert manages == {
        "/blobs/{digest}",
        "/copy",
        "/create",
        "/delete",
        "/me",
        "/pull",
        "/push",
        "/signout",
        "/user/keys/{encodedKey}",
    }
    assert routes["POST", "/blobs/{digest}"].body is Body.STREAM


def test_a_path_reaches_the_node_encoded() -> None:
    outbound = open_codec(NATIVE, "DELETE", "/user/keys/a b?c").outbounds[0]
    assert (outbound.path, outbound.body, outbound.raw) == ("/api/user/keys/a%20b%3Fc", None, None)
    assert open_codec(NATIVE, "HEAD", "/blobs/sha256:ab").outbounds[0].path == "/api/blobs/sha256:ab"


def stream_of(*lines: Any) -> tuple[Codec, bytes]:
    codec = open_codec(NATIVE, "POST", "/chat", b'{"model":"a"}')
    codec.begin(Head(200, (("Content-Type", "application/x-ndjson"),)))
    return codec, b"".join([codec.feed(orjson.dumps(line) + b"\n") for line in lines])


def test_done_and_error_inside_a_tool_call_end_nothing() -> None:
    arguments = {"done": True, "error": "none", "eval_count": 7}
    call = {"message": {"tool_calls": [{"function": {"arguments": arguments}}]}, "done": False}
    codec, _ = stream_of(call)
    assert codec.failed is None
    assert not codec.usage.final
    with pytest.raises(UpstreamFailed):
        codec.finish()


def test_an_error_after_half_a_line_stands_on_a_line_of_its_own() -> None:
    codec, _ = stream_of({"done": False})
    codec.feed(b'{"half')
    assert codec.fail(TimedOut("too slow\u2028")) == b'\n{"error":"too slow\\u2028"}\n'


def test_nothing_follows_the_last_line_nor_stands_in_a_document() -> None:
    codec, _ = stream_of({"done": True})
    assert codec.fail(TimedOut("late")) == b""
    codec.begin(Head(200, (("Content-Type", "application/json"),)))
    assert codec.fail(TimedOut("late")) == b""


def test_a_line_too_long_to_look_at_passes_and_leaves_estimates() -> None:
    codec, _ = stream_of({"message": {"content": "a"}, "done": False})
    part = b"x" * 1024 * 1024
    assert all(codec.feed(part) is part for _ in range(17))
    assert codec.feed(b'","done":true,"eval_count":5}\n') == b'","done":true,"eval_count":5}\n'
    assert codec.finish() == b""
    assert not codec.usage.final
    assert codec.usage.output_tokens


def test_the_counts_of_a_document_are_found_behind_any_length() -> None:
    codec = open_codec(NATIVE, "POST", "/embed", b'{"model":"a","input":"x"}')
    codec.begin(Head(200, (("Content-Type", "application/json; charset=utf-8"),)))
    for _ in range(1000):
        codec.feed(b"0.12345678," * 1000)
    codec.feed(b'0]],"total_duration":5,"prompt_eval_')
    codec.feed(b'count":42}')
    codec.finish()
    assert codec.usage == Usage(prompt_tokens=42, output_tokens=None, final=True)


FULL = [
    ("cache-truncated", None, True),
    ("budget-shift-off", None, True),
    ("budget-num-predict-640", None, True),
    ("budget-num-predict-1", None, False),
    ("generate-once", None, None),
    ("generate-once", 4096, False),
    ("generate-once", 16, True),
    ("generate-stream", 16, True),
    ("generate-load", 4096, None),
    ("runner-killed-generate", 4096, None),
]


@pytest.mark.parametrize(("name", "context", "full"), FULL)
def test_a_full_context_is_noticed(name: str, context: int | None, full: bool | None) -> None:
    record = recording(name)
    codec = opened(record, context)
    assert codec.context_full is None
    play(codec, record, record.chunks)
    assert codec.context_full is full


@pytest.mark.parametrize(("name", "tokens"), [("cache-truncated", 512), ("budget-num-predict-640", 256)])
def test_the_context_that_a_document_had_is_known_behind_it(name: str, tokens: int) -> None:
    record = recording(name)
    codec = opened(record, 4096)
    play(codec, record, record.chunks)
    assert not codec.streams
    assert (codec.context, codec.context_full) == (tokens, True), "what the client asked for counts"


@pytest.mark.parametrize("name", ["generate-once", "generate-load", "chat-once", "embed-dimensions", "chat-stream"])
def test_the_context_of_the_loaded_model_holds_where_nobody_asked_for_another(name: str) -> None:
    codec = opened(recording(name), 4096)
    assert codec.context is None
    play(codec, recording(name), recording(name).chunks)
    assert codec.context == 4096


def test_every_endpoint_has_the_switch_of_what_it_does() -> None:
    switches = {route.path: route.switch for route in NATIVE.routes()}
    assert switches["/chat"] == "chat"
    assert switches["/chat/"] == "chat"
    assert switches["/tags"] == "list"
    assert switches["/experimental/web_search"] == switches["/experimental/web_fetch/"] == "web"
    assert set(switches.values()) == {"generate", "chat", "embed", "show", "list", "manage", "web"}
