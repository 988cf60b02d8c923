"""Answers in OpenAI's Responses: items in the order in which they came, each event numbered, no end that is not one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import Response
from openai_events import is_error, read_responses
from parallama_openai.response_events import seal, unseal
from parallama_openai.responses import open_response

from parallama.errors import ApiError, BadRequest, ModelUnknown, NoNode, UpstreamFailed
from parallama.exchange import Usage
from parallama.gateway.api import Codec, Head
from parallama.testing import Transcript, check_codec, inbound, load_recording

FOLDER = Path(__file__).parent / "recordings"
ASK: dict[str, Any] = {"model": "llama3.2:1b", "input": "Why?"}
ID = "0190a5d6c3f07abc8def0123456789ab"
END = {"done": True, "done_reason": "stop", "prompt_eval_count": 7, "eval_count": 12}

TEXT_BEGINS = ["output_item.added", "content_part.added"]
TEXT_ENDS = ["output_text.done", "content_part.done", "output_item.done"]
THOUGHT_BEGINS = ["output_item.added", "reasoning_summary_part.added"]
THOUGHT_ENDS = ["reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"]
CALL = [
    "output_item.added",
    "function_call_arguments.delta",
    "function_call_arguments.done",
    "output_item.done",
]


def piece(text: str = "", thinking: str = "", *calls: Any, **more: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thinking:
        message["thinking"] = thinking
    if calls:
        message["tool_calls"] = list(calls)
    return {"message": message, "done": False, **more}


def call(name: str = "look", id: str = "", **arguments: Any) -> dict[str, Any]:
    return {"id": id, "function": {"index": 0, "name": name, "arguments": arguments}}


def answer(*pieces: dict[str, Any], **last: Any) -> Transcript:
    return Transcript.stream(*pieces, {**piece(), **END, **last})


def opened(**more: Any) -> Codec:
    return open_response(inbound({**ASK, **more}, "/responses"))


def played(codec: Codec, transcript: Transcript) -> bytes:
    codec.begin(transcript.head)
    return codec.feed(transcript.body) + codec.finish()


def events(transcript: Transcript, **more: Any) -> list[Any]:
    return read_responses(played(opened(stream=True, **more), transcript))


def document(transcript: Transcript, **more: Any) -> Any:
    found = json.loads(played(opened(**more), transcript))
    Response.model_validate(found)
    return found


def names(found: list[Any]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in found]


ALL = answer(
    piece(thinking="Let me"),
    piece(thinking=" see."),
    piece("I look"),
    piece(" it up."),
    piece("", "", call(city="Paris"), call("ask", "call_1")),
    piece("Found."),
)


def test_the_events_come_in_their_order() -> None:
    assert names(events(ALL)) == [
        *["created", "in_progress"],
        *THOUGHT_BEGINS,
        *["reasoning_summary_text.delta"] * 2,
        *THOUGHT_ENDS,
        *TEXT_BEGINS,
        *["output_text.delta"] * 2,
        *TEXT_ENDS,
        *CALL,
        *CALL,
        *TEXT_BEGINS,
        "output_text.delta",
        *TEXT_ENDS,
        "completed",
    ]


def test_every_event_has_its_name_and_its_number() -> None:
    raw = played(opened(stream=True), ALL)
    blocks = raw.decode().split("\n\n")[:-1]
    for number, (block, event) in enumerate(zip(blocks, read_responses(raw), strict=True)):
        assert block.split("\n")[0] == f"event: {event['type']}"
        assert event["sequence_number"] == number


def test_text_then_a_call_then_text_are_items_of_their_own() -> None:
    """Each has an index and an id of its own, and is done before the next is added."""
    found = events(ALL)
    steps = [event for event in found if event["type"].startswith("response.output_item.")]
    assert [(event["type"].rpartition(".")[2], event["output_index"]) for event in steps] == [
        (step, index) for index in range(5) for step in ("added", "done")
    ]
    items = [event["item"] for event in steps if event["type"].endswith("done")]
    assert [item["type"] for item in items] == ["reasoning", "message", "function_call", "function_call", "message"]
    assert len({item["id"] for item in items}) == 5
    assert found[-1]["response"]["output"] == items
    assert [event["item"]["id"] for event in steps if event["type"].endswith("added")] == [i["id"] for i in items]


def test_deltas_name_their_item_and_add_up_to_it() -> None:
    found = events(ALL)
    output = found[-1]["response"]["output"]
    texts: dict[int, str] = {}
    for event in found:
        if event["type"].endswith(".delta"):
            assert event["item_id"] == output[event["output_index"]]["id"]
            texts[event["output_index"]] = texts.get(event["output_index"], "") + event["delta"]
    assert [texts[index] for index in range(5)] == ["Let me see.", "I look it up.", '{"city":"Paris"}', "{}", "Found."]
    assert output[1]["content"][0]["text"] == "I look it up."
    assert output[2]["arguments"] == '{"city":"Paris"}'
    assert (output[2]["name"], output[3]["name"], output[3]["call_id"]) == ("look", "ask", "call_1")
    assert output[2]["call_id"].startswith("call_")


@pytest.mark.parametrize("done_reason", ["stop", "length"])
def test_one_document_is_the_response_of_the_stream(done_reason: str) -> None:
    transcript = Transcript.stream(*[json.loads(line) for line in ALL.body.splitlines()[:-1]])
    transcript = Transcript(body=transcript.body + answer(done_reason=done_reason).body)
    assert document(transcript) == events(transcript)[-1]["response"]


def test_the_response_says_all_that_its_type_requires() -> None:
    found = document(answer(piece("Because.")))
    assert found == {
        "id": f"resp_{ID}",
        "object": "response",
        "created_at": 1_720_000_000,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "background": False,
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "model": "llama3.2:1b",
        "output": [
            {
                "id": f"msg_{ID}00",
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Because.", "annotations": [], "logprobs": []}],
            }
        ],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": None,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 7,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 12,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 19,
        },
        "user": None,
    }


def test_the_response_repeats_the_request() -> None:
    tool = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": True}
    asked = {
        "instructions": "Be brief.",
        "max_output_tokens": 50,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low", "summary": "auto"},
        "temperature": 0.5,
        "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}},
        "tool_choice": {"type": "function", "name": "look"},
        "tools": [tool],
        "top_p": 0.9,
        "truncation": "auto",
        "user": "me",
    }
    found = document(answer(piece("x")), **asked)
    assert {name: found[name] for name in asked} == {**asked, "tools": [{**tool, "description": None}]}


def test_an_answer_that_was_cut_is_incomplete() -> None:
    transcript = answer(piece("Because"), done_reason="length")
    found = events(transcript)
    assert found[-1]["type"] == "response.incomplete"
    response = found[-1]["response"]
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert response["output"][0]["status"] == "incomplete"
    assert response["usage"]["output_tokens"] == 12
    assert document(transcript) == response


@pytest.mark.parametrize("done_reason", ["load", "unload", "stop", None])
def test_any_other_end_is_complete(done_reason: str | None) -> None:
    assert names(events(answer(piece("x"), done_reason=done_reason)))[-1] == "completed"


def test_an_empty_answer_has_no_items() -> None:
    assert names(events(answer())) == ["created", "in_progress", "completed"]
    assert document(answer())["output"] == []


def test_pieces_on_one_line_stay_in_order() -> None:
    transcript = Transcript.stream({**piece("x", "Hm", call()), **END})
    assert [item["type"] for item in document(transcript)["output"]] == ["reasoning", "message", "function_call"]
    assert [item["type"] for item in events(transcript)[-1]["response"]["output"]] == [
        "reasoning",
        "message",
        "function_call",
    ]


def test_thinking_is_a_share_of_the_output() -> None:
    usage = document(answer(piece(thinking="12345678"), piece("1234")))["usage"]
    assert usage["output_tokens_details"] == {"reasoning_tokens": 8}
    assert document(answer(piece(thinking="1234")))["usage"]["output_tokens_details"] == {"reasoning_tokens": 12}


def test_reasoning_can_be_taken_along_and_sent_back() -> None:
    transcript = answer(piece(thinking="Grüße"), piece("x"))
    plain, sealed = document(transcript), document(transcript, include=["reasoning.encrypted_content"])
    assert "encrypted_content" not in plain["output"][0]
    kept = sealed["output"][0]["encrypted_content"]
    assert unseal(kept) == "Grüße"
    again = opened(input=[{"type": "reasoning", "summary": [], "encrypted_content": kept}])
    assert (again.outbounds[0].body or {})["messages"][0]["thinking"] == "Grüße"


@pytest.mark.parametrize("sealed", ["", "gAAAAABo", "thinking:%", "thinking:/w==", "thinking:ÿ", seal("x")[:-1]])
def test_what_others_sealed_is_left_out(sealed: str) -> None:
    assert unseal(sealed) == ""


def test_one_call_is_given_to_who_wants_one() -> None:
    two = answer(piece("", "", call(), call()))
    assert len(document(two)["output"]) == 2
    assert len(document(two, parallel_tool_calls=False)["output"]) == 1
    assert names(events(two, parallel_tool_calls=False)) == ["created", "in_progress", *CALL, "completed"]


def test_log_probabilities_alone_are_no_text() -> None:
    lone = {**piece(), "logprobs": [{"token": "", "logprob": -1}]}
    assert document(answer(lone))["output"] == []


TRANSCRIPTS = {
    "everything": ALL,
    "text": answer(piece("Grüße, "), piece("Welt 🌍"), piece("\u2028\x85")),
    "thinking and text at once": answer(piece("x", "Hm")),
    "thinking only": answer(piece(thinking="Hm")),
    "calls without ids": answer(piece("", "", call(), call())),
    "equal ids": answer(piece("", "", call(id="call_1")), piece("", "", call(id="call_1"))),
    "a call at the end": Transcript.stream(piece("x"), {**piece("", "", call(n=2**60)), **END}),
    "text around a call": answer(piece("x"), piece("", "", call()), piece("y")),
    "the end with text": Transcript.stream(piece("x"), {**piece("y"), **END}),
    "empty": answer(),
    "length": answer(piece("x"), done_reason="length"),
    "load": answer(done_reason="load"),
    "unload": answer(done_reason="unload"),
    "no reason, no counts": Transcript.stream(piece("x"), {**piece(), "done": True}),
    "an error first": Transcript.stream({"error": "out of memory"}),
    "an error midway": Transcript.stream(piece("x"), {"error": "out of memory"}),
    "an error behind a call": Transcript.stream(piece("x", "Hm", call()), {"error": "out of memory"}),
    "without its end": Transcript.stream(piece("x")),
    "broken off": Transcript(body=ALL.body[:150], complete=False),
    "no JSON": Transcript(body=Transcript.stream(piece("x")).body + b"nonsense\n"),
    "an error status": Transcript.document({"error": "model 'x' not found"}, 404),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_it_keeps_every_promise(name: str, stream: bool) -> None:
    transcript = TRANSCRIPTS[name]
    check_codec(
        lambda: opened(stream=stream, include=["reasoning.encrypted_content"]),
        transcript,
        read=read_responses if stream else None,
        is_error=is_error if stream else lambda event: bool(event.get("error")),
        usage=transcript.usage() or Usage(final=True),
        cuts=50,
    )


RECORDINGS = ("chat-stream", "chat-think-stream", "chat-tools-stream", "budget-tools-cut-stream")


@pytest.mark.parametrize("name", RECORDINGS)
def test_recordings_keep_every_promise(name: str) -> None:
    record = load_recording(FOLDER / f"{name}.json")
    check_codec(lambda: opened(stream=True), record, read=read_responses, is_error=is_error, cuts=50)
    assert document(Transcript.of(record)) == events(Transcript.of(record))[-1]["response"]


def failed(codec: Codec, transcript: Transcript) -> list[Any]:
    codec.begin(transcript.head)
    out = codec.feed(transcript.body)
    with pytest.raises(ApiError) as caught:
        codec.finish()
    return read_responses(out + codec.fail(caught.value))


def test_a_failure_midway_is_one_event_with_the_failed_response() -> None:
    found = failed(opened(stream=True), TRANSCRIPTS["an error behind a call"])
    assert names(found)[-1] == "failed"
    assert sum(is_error(event) for event in found) == 1
    response = found[-1]["response"]
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": "out of memory"}
    assert [item["type"] for item in response["output"]] == ["reasoning", "message", "function_call"]
    assert found[-1]["error"]["message"] == "out of memory"
    Response.model_validate(response)


def test_a_failure_before_any_event_is_told_behind_the_first_ones() -> None:
    codec = opened(stream=True)
    assert codec.heartbeat == b": ping\n\n"
    found = read_responses(codec.heartbeat + codec.fail(NoNode("no node")))
    assert names(found) == ["created", "in_progress", "failed"]
    assert [event["sequence_number"] for event in found] == [0, 1, 2]


def test_an_error_status_after_a_heartbeat_is_told() -> None:
    codec = opened(stream=True)
    codec.begin(Head(404))
    codec.feed(b'{"error":"model not found"}')
    with pytest.raises(ModelUnknown) as caught:
        codec.finish()
    assert not codec.streams
    assert names(read_responses(codec.fail(caught.value))) == ["created", "in_progress", "failed"]


@pytest.mark.parametrize(
    ("error", "code"), [(BadRequest("x"), "invalid_prompt"), (UpstreamFailed("x"), "server_error")]
)
def test_a_failed_response_has_a_code_that_clients_know(error: ApiError, code: str) -> None:
    found = read_responses(opened(stream=True).fail(error))[-1]["response"]
    assert found["error"]["code"] == code
    Response.model_validate(found)


def test_a_complete_answer_cannot_fail_any_more() -> None:
    codec = opened(stream=True)
    played(codec, ALL)
    assert codec.fail(UpstreamFailed("late")) == b""


def test_nothing_goes_out_before_the_first_piece() -> None:
    codec = opened(stream=True)
    codec.begin(Head(200))
    assert codec.feed(Transcript.stream(piece()).body) == b""
    assert names(read_responses(codec.feed(Transcript.stream(piece("x")).body)))[:2] == ["created", "in_progress"]


def test_an_answer_of_another_node_takes_the_place_of_the_first() -> None:
    codec = opened()
    codec.begin(Head(200))
    codec.feed(Transcript.stream(piece("lost")).body)
    assert json.loads(played(codec, answer(piece("x"))))["output"][0]["content"][0]["text"] == "x"


@pytest.mark.parametrize("asked", [True, False])
def test_log_probabilities_are_told_with_their_text_and_only_if_asked_for(asked: bool) -> None:
    probable = {"token": "x", "logprob": -0.5, "bytes": [120]}
    message = {"message": {"role": "assistant", "content": "x"}, "logprobs": [probable]}
    node = Transcript.stream(
        message, {"message": {"content": ""}, "done": True, "prompt_eval_count": 1, "eval_count": 1}
    )
    more = {"include": ["message.output_text.logprobs"]} if asked else {}
    told = [{**probable, "top_logprobs": []}] if asked else []
    found = {event["type"]: event for event in read_responses(played(opened(stream=True, **more), node))}
    (delta, done) = (found[f"response.output_text.{step}"] for step in ("delta", "done"))
    whole = found["response.completed"]["response"]
    assert (delta["logprobs"], done["logprobs"], whole["output"][0]["content"][0]["logprobs"]) == (told, told, told)
    document = json.loads(played(opened(**more), node))
    assert document["output"] == whole["output"]
