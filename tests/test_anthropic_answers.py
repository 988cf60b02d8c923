"""The answer to a request for a message: one document or a stream of events, whatever the node says and however."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from anthropic_events import (
    THINKER,
    WEATHER,
    WORDY,
    Events,
    ask,
    broken,
    call,
    document,
    done,
    events,
    is_error,
    opened,
    piece,
    play,
    read_events,
)

from parallama.errors import ApiError, BadRequest, ModelUnknown, NoNode, UpstreamFailed
from parallama.gateway.api import Head, Outbound
from parallama.testing import Transcript, check_codec, load_recording

FOLDER = Path(__file__).parent / "recordings"
PARIS, ROME = call("get_weather", {"city": "Paris"}), call("get_weather", {"city": "Rome"})
THINKING = {"model": THINKER, "thinking": {"type": "enabled", "budget_tokens": 1024}}
ID = "0190a5d6c3f07abc8def0123456789ab"

WHOLE = {
    "text": [piece("Grüße, "), piece("Welt 🌍"), done()],
    "line separators": [piece("a\u2028b\u2029c\x85d\r\n"), done()],
    "empty pieces": [piece(), piece("a"), piece(), piece("b"), done()],
    "thinking": [piece(thinking="Hm"), piece(thinking=", hm."), piece("Yes."), done()],
    "thinking alone": [piece(thinking="Hm."), done()],
    "thinking and text in one line": [piece("Yes", thinking="Hm."), piece("."), done()],
    "thinking after text": [piece("Well"), piece(thinking="Hm."), piece("Yes."), done()],
    "a tool": [piece(calls=[PARIS]), done()],
    "two tools in a line": [piece(calls=[PARIS, ROME]), done()],
    "tools in lines of their own": [piece(calls=[PARIS]), piece(calls=[ROME]), done()],
    "a tool with ids": [
        piece(calls=[call("a", {}, "call_1"), call("b", {}, "call_1"), call("c", {}, "call_2")]),
        done(),
    ],
    "a tool on the done line": [piece("Let me look."), done(calls=[PARIS])],
    "text before and after a tool": [piece("Look: "), piece(calls=[PARIS]), piece("So "), piece("it is."), done()],
    "all in one line": [piece("Look.", "Hm.", [PARIS]), done()],
    "a tool without arguments": [piece(calls=[call("clock", {})]), piece(calls=[call("clock", None)]), done()],
    "large numbers": [piece(calls=[call("n", {"n": 2**63 - 1, "m": 1e300})]), done()],
    "a done line with text": [piece("a"), done(content="b", thinking="c")],
    "length": [piece("a"), done("length")],
    "a tool, then length": [piece(calls=[PARIS]), done("length")],
    "load": [done("load", None, None)],
    "unload": [done("unload", None, None)],
    "no reason": [piece("a"), done(None)],
    "no counts": [piece("a"), done(prompt=None, output=None)],
    "nothing": [done(output=1)],
    "a foreign field": [{**piece("a"), "logprobs": [{"token": "a", "logprob": -1}]}, {**done(), "new": 1}],
}
BROKEN = {
    "no line": [],
    "no done line": [piece("a")],
    "an error first": [{"error": "out of memory"}],
    "an error midway": [piece("a"), {"error": "out of memory"}],
    "an error in a thought": [piece(thinking="a"), {"error": "out of memory"}],
    "an error behind a tool": [piece(calls=[PARIS]), {"error": "out of memory"}],
    "a tool without an object": [piece("a"), piece(calls=[call("a", "[1]")]), done()],
}
RECORDED = [
    *(
        "chat-stream",
        "chat-think-stream",
        "chat-tools-stream",
        "budget-tools-cut-stream",
        "chat-once",
        "chat-tools-once",
    ),
    *("chat-404-model", "chat-think-unsupported", "busy-chat", "cache-chat-truncated"),
]


def stream(lines: list[dict[str, Any]]) -> Transcript:
    return Transcript.stream(*lines)


def body(streams: bool, **more: Any) -> dict[str, Any]:
    return {**ask(stream=streams, **more), **THINKING, "tools": [WEATHER]}


def types(found: Events) -> list[str]:
    """The names of events; those of deltas by what they carry."""
    return [data["delta"]["type"] if name == "content_block_delta" else name for name, data in found]


def accumulated(found: Events) -> dict[str, Any]:
    """The message that a stream comes to, by the rules of Anthropic's reference; fails for a stream against them."""
    message, opened_at, inputs = found[0][1]["message"], None, ""
    assert found.names[:2] == ["message_start", "ping"]
    assert found.names[-2:] == ["message_delta", "message_stop"]
    for name, data in found[2:-2]:
        index, content = data["index"], message["content"]
        if name == "content_block_start":
            assert (opened_at, index) == (None, len(content)), "one block is open at a time, and none is left out"
            opened_at, inputs = index, ""
            content.append(data["content_block"])
            continue
        assert index == opened_at
        if name == "content_block_stop":
            opened_at = None
            if content[index]["type"] == "tool_use":
                content[index]["input"] = json.loads(inputs)
            continue
        kind = data["delta"]["type"].removesuffix("_delta")
        if kind == "input_json":
            inputs += data["delta"]["partial_json"]
        elif kind == "signature":
            content[index]["signature"] = data["delta"]["signature"]
        else:
            content[index][kind] += data["delta"][kind]
    assert opened_at is None, "every block ends"
    last = found[-2][1]
    return {**message, **last["delta"], "usage": {**message["usage"], **last["usage"]}}


# every cut, every end, both forms


@pytest.mark.parametrize("streams", [False, True], ids=["document", "stream"])
@pytest.mark.parametrize("name", [*WHOLE, *BROKEN])
def test_no_cut_and_no_failure_changes_what_is_told(name: str, streams: bool) -> None:
    transcript = stream({**WHOLE, **BROKEN}[name])
    for asked in (body(streams), ask(stream=streams)):
        check_codec(lambda asked=asked: opened(asked), transcript, cuts=20, **reading(streams))  # type: ignore[misc]


@pytest.mark.parametrize("streams", [False, True], ids=["document", "stream"])
@pytest.mark.parametrize("name", RECORDED)
def test_the_answers_of_a_real_node_are_told_whole(name: str, streams: bool) -> None:
    recording = load_recording(FOLDER / f"{name}.json")
    check_codec(lambda: opened(body(streams)), recording, cuts=40, **reading(streams))


def reading(streams: bool) -> dict[str, Any]:
    return {"read": read_events, "is_error": is_error} if streams else {}


@pytest.mark.parametrize("name", WHOLE)
def test_a_stream_and_a_document_say_the_same(name: str) -> None:
    for asked in (body(False), ask(), body(False, tool_choice={"type": "any", "disable_parallel_tool_use": True})):
        assert accumulated(events(stream(WHOLE[name]), asked)) == document(stream(WHOLE[name]), asked)


# the document


def test_a_message_has_all_its_members() -> None:
    assert document(stream(WHOLE["text"])) == {
        "id": f"msg_{ID}",
        "type": "message",
        "role": "assistant",
        "model": WORDY,
        "content": [{"type": "text", "text": "Grüße, Welt 🌍"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 24,
            "output_tokens": 13,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
        },
    }


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("text", ["text"]),
        ("thinking", ["thinking", "text"]),
        ("thinking and text in one line", ["thinking", "text"]),
        ("thinking after text", ["text", "thinking", "text"]),
        ("two tools in a line", ["tool_use", "tool_use"]),
        ("text before and after a tool", ["text", "tool_use", "text"]),
        ("all in one line", ["thinking", "text", "tool_use"]),
        ("a tool on the done line", ["text", "tool_use"]),
        ("nothing", []),
        ("load", []),
    ],
)
def test_blocks_stand_in_the_order_in_which_they_came(name: str, kinds: list[str]) -> None:
    assert [block["type"] for block in document(stream(WHOLE[name]), body(False))["content"]] == kinds


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("text", "end_turn"),
        ("length", "max_tokens"),
        ("a tool", "tool_use"),
        ("a tool on the done line", "tool_use"),
        ("a tool, then length", "max_tokens"),
        ("load", "end_turn"),
        ("unload", "end_turn"),
        ("no reason", "end_turn"),
        ("nothing", "end_turn"),
    ],
)
def test_the_reason_of_the_end_is_one_that_clients_know(name: str, reason: str) -> None:
    told = document(stream(WHOLE[name]))
    assert (told["stop_reason"], told["stop_sequence"]) == (reason, None)


def test_what_the_node_did_not_count_is_nothing() -> None:
    usage = document(stream(WHOLE["no counts"]))["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (0, 0)


def test_every_call_has_an_id_of_its_own() -> None:
    first = document(stream(WHOLE["two tools in a line"]))["content"]
    assert all(block["id"].startswith("toolu_") for block in first)
    assert len({block["id"] for block in first}) == 2
    assert [block["input"] for block in first] == [{"city": "Paris"}, {"city": "Rome"}]
    given = [block["id"] for block in document(stream(WHOLE["a tool with ids"]))["content"]]
    assert (given[0], given[2], len(set(given))) == ("call_1", "call_2", 3)


def test_numbers_in_arguments_keep_all_their_digits() -> None:
    assert document(stream(WHOLE["large numbers"]))["content"][0]["input"] == {"n": 2**63 - 1, "m": 1e300}


def test_only_the_first_call_is_told_to_who_wants_one() -> None:
    one = ask(tools=[WEATHER], tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    for name in ("two tools in a line", "tools in lines of their own"):
        (use,) = document(stream(WHOLE[name]), one)["content"]
        assert use["input"] == {"city": "Paris"}


def test_a_thought_is_signed_and_taken_back() -> None:
    content = document(stream(WHOLE["thinking"]), body(False))["content"]
    assert content[0]["thinking"] == "Hm, hm."
    assert content[0]["signature"]
    again = [*ask()["messages"], {"role": "assistant", "content": content}]
    (outbound,) = opened(ask(messages=again)).outbounds
    assert (outbound.body or {})["messages"][1]["thinking"] == "Hm, hm."


@pytest.mark.parametrize("asked", [ask(THINKER), ask("unknown"), ask(THINKER, thinking={"type": "disabled"})])
def test_nobody_gets_thoughts_who_did_not_ask_for_them(asked: dict[str, Any]) -> None:
    for name in ("thinking", "thinking after text"):
        (block,) = document(stream(WHOLE[name]), asked)["content"]
        assert block["type"] == "text"
    assert types(events(stream(WHOLE["thinking"]), asked))[2:4] == ["content_block_start", "text_delta"]


def test_thoughts_may_be_sealed() -> None:
    sealed = ask(THINKER, thinking={"type": "adaptive", "display": "omitted"})
    block, _ = document(stream(WHOLE["thinking"]), sealed)["content"]
    assert (block["thinking"], bool(block["signature"])) == ("", True)
    found = types(events(stream(WHOLE["thinking"]), sealed))
    assert found[2:5] == ["content_block_start", "signature_delta", "content_block_stop"]


def test_a_reply_carries_the_clients_own_name_of_the_model() -> None:
    codec = opened(ask("claude-sonnet"), aliases={"claude-sonnet": WORDY})
    (asked,) = codec.outbounds
    changed = {**(asked.body or {}), "model": WORDY}
    codec.resolved([Outbound(method="POST", path="/api/chat", model="claude-sonnet", target=WORDY, body=changed)])
    assert json.loads(play(codec, stream(WHOLE["text"])))["model"] == "claude-sonnet"


# the stream


def test_a_stream_has_its_events_in_order() -> None:
    found = events(stream([piece(thinking="Hm."), piece("Look."), piece(calls=[PARIS]), done()]), body(True))
    block = ["content_block_start", "content_block_stop"]
    assert types(found) == [
        *("message_start", "ping"),
        *(block[0], "thinking_delta", "signature_delta", block[1]),
        *(block[0], "text_delta", block[1]),
        *(block[0], "input_json_delta", block[1]),
        *("message_delta", "message_stop"),
    ]


def test_the_start_of_a_stream_has_an_estimate_and_its_end_the_truth() -> None:
    found = events(stream(WHOLE["text"]))
    (start,), (end,) = found.named("message_start"), found.named("message_delta")
    assert start["message"]["content"] == []
    assert (start["message"]["stop_reason"], start["message"]["stop_sequence"]) == (None, None)
    assert start["message"]["usage"]["input_tokens"] == len("userWhy is the sky blue?") // 4
    assert start["message"]["usage"]["output_tokens"] == 0
    assert (end["usage"]["input_tokens"], end["usage"]["output_tokens"]) == (24, 13)
    assert end["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}


def test_blocks_begin_with_all_members_that_clients_add_to() -> None:
    found = events(stream(WHOLE["all in one line"]), body(True))
    thinking, text, use = (data["content_block"] for data in found.named("content_block_start"))
    assert thinking == {"type": "thinking", "thinking": "", "signature": ""}
    assert text == {"type": "text", "text": ""}
    assert (use["type"], use["name"], use["input"]) == ("tool_use", "get_weather", {})


def test_each_piece_is_passed_on_at_once() -> None:
    codec = opened(ask(stream=True))
    lines = [stream([line]).body for line in (piece("a"), piece("b"), piece())]
    codec.begin(stream([]).head)
    assert read_events(codec.feed(lines[0])).names[-1] == "content_block_delta"
    assert read_events(codec.feed(lines[1])).names == ["content_block_delta"]
    assert codec.feed(lines[2]) == b""


def test_an_answer_of_nothing_has_a_start_and_an_end() -> None:
    assert events(stream(WHOLE["nothing"])).names == ["message_start", "ping", "message_delta", "message_stop"]


def test_a_stream_says_that_it_is_one() -> None:
    codec = opened(ask(stream=True))
    assert codec.begin(stream([]).head).header("content-type").startswith("text/event-stream")
    assert codec.streams
    whole = opened(ask())
    assert whole.begin(stream([]).head).header("content-type") == "application/json"
    assert not whole.streams


def test_nothing_is_said_before_the_node_has_said_something() -> None:
    codec = opened(ask(stream=True))
    codec.begin(stream([]).head)
    assert codec.feed(b"") == b""


def test_a_second_node_begins_from_the_beginning() -> None:
    codec = opened(ask(stream=True))
    codec.begin(stream([]).head)
    codec.feed(stream([piece("lost")]).body)
    assert accumulated(read_events(play(codec, stream(WHOLE["text"]))))["content"][0]["text"] == "Grüße, Welt 🌍"


# errors in a stream


@pytest.mark.parametrize("name", BROKEN)
def test_a_stream_that_breaks_ends_with_one_error(name: str) -> None:
    found = read_events(broken_or_raised(name))
    assert found.names.count("error") == 1
    assert found.names[-1] == "error"
    assert "message_stop" not in found.names
    error = found[-1][1]
    assert set(error) == {"type", "error"}
    assert error["error"]["type"] == "api_error"
    if name.startswith("an error"):
        assert error["error"]["message"] == "out of memory"


def broken_or_raised(name: str) -> bytes:
    codec, transcript = opened(body(True)), stream(BROKEN[name])
    try:
        return broken(codec, transcript)[0]
    except UpstreamFailed as error:
        return codec.fail(error)


def test_an_error_in_an_open_block_comes_at_once() -> None:
    found = read_events(broken(opened(ask(stream=True)), stream(BROKEN["an error midway"]))[0])
    assert types(found)[-2:] == ["text_delta", "error"]


def test_a_stream_that_was_whole_is_left_alone() -> None:
    codec = opened(ask(stream=True))
    play(codec, stream(WHOLE["text"]))
    assert codec.fail(UpstreamFailed("late")) == b""


def test_a_heartbeat_is_a_ping() -> None:
    assert read_events(opened(ask(stream=True)).heartbeat) == [("ping", {"type": "ping"})]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((400, "invalid_request_error"), (404, "not_found_error"), (429, "rate_limit_error")),
        *((500, "api_error"), (503, "overloaded_error"), (504, "timeout_error")),
    ],
)
def test_behind_a_heartbeat_an_error_of_the_node_is_an_event(status: int, kind: str) -> None:
    codec, error = opened(ask(stream=True)), Transcript.document({"error": "no"}, status)
    assert codec.streams
    sent, _ = broken(codec, error)
    assert read_events(sent) == [("error", {"type": "error", "error": {"type": kind, "message": "no"}})]


def test_behind_a_heartbeat_a_missing_node_is_an_event() -> None:
    codec = opened(ask(stream=True))
    assert read_events(codec.fail(NoNode("none"))).names == ["error"]


# errors before the head


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    ("name", "kind", "status"),
    [
        ("chat-404-model", ModelUnknown, 404),
        ("chat-think-unsupported", BadRequest, 400),
        ("busy-chat", UpstreamFailed, 503),
    ],
)
def test_an_error_of_the_node_keeps_its_status(name: str, kind: type[ApiError], status: int, streams: bool) -> None:
    transcript = Transcript.of(load_recording(FOLDER / f"{name}.json"))
    codec = opened(ask(stream=streams))
    with pytest.raises(kind) as caught:
        play(codec, transcript)
    assert caught.value.status == status
    assert not codec.streams


def test_a_document_is_never_half_of_one() -> None:
    codec = opened(ask())
    codec.begin(Head(200))
    assert codec.feed(stream(BROKEN["no done line"]).body) == b""
    with pytest.raises(UpstreamFailed):
        codec.finish()
    assert codec.fail(UpstreamFailed("late")) == b""
