"""The official SDK reads what the gateway writes: accumulated streams, documents, errors, counts and models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic_events import (
    QUESTION,
    THINKER,
    WEATHER,
    WORDY,
    answering,
    ask,
    call,
    client,
    done,
    opened,
    piece,
    read_events,
)

from parallama.testing import Transcript, load_recording

FOLDER = Path(__file__).parent / "recordings"
ALL = Transcript.stream(
    piece(thinking="Hm"),
    piece(thinking=", hm."),
    piece("Let me "),
    piece("look. 🌍\u2028"),
    piece(calls=[call("get_weather", {"city": "Zürich"}), call("get_weather", {})]),
    piece("So."),
    done(),
)
ASKED: dict[str, Any] = ask(THINKER, thinking={"type": "enabled", "budget_tokens": 1024}, tools=[WEATHER])
MIDWAY = Transcript.stream(piece("a"), {"error": "out of memory"})


def content(message: Any) -> list[dict[str, Any]]:
    return [block.to_dict() for block in message.content]


@pytest.mark.parametrize("size", [0, 1, 7, 1000])
def test_a_stream_is_accumulated_to_the_document(size: int) -> None:
    with answering(ALL, size) as sdk:
        whole = sdk.messages.create(**ASKED)
        with sdk.messages.stream(**ASKED) as stream:
            final = stream.get_final_message()
    assert content(final) == content(whole)
    assert [block["type"] for block in content(final)] == ["thinking", "text", "tool_use", "tool_use", "text"]
    assert (final.stop_reason, final.stop_sequence) == (whole.stop_reason, whole.stop_sequence) == ("tool_use", None)
    assert final.usage == whole.usage
    assert (final.id, final.model) == (whole.id, THINKER)


def test_text_is_told_piece_by_piece() -> None:
    with answering(ALL) as sdk, sdk.messages.stream(**ASKED) as stream:
        assert list(stream.text_stream) == ["Let me ", "look. 🌍\u2028", "So."]


@pytest.mark.parametrize("name", ["chat-stream", "chat-think-stream", "chat-tools-stream"])
def test_the_answer_of_a_real_node_is_accumulated(name: str) -> None:
    with answering(Transcript.of(load_recording(FOLDER / f"{name}.json")), 100) as sdk:
        with sdk.messages.stream(**ASKED) as stream:
            final = stream.get_final_message()
        assert content(final) == content(sdk.messages.create(**ASKED))
        assert final.content


def test_an_empty_answer_is_accumulated() -> None:
    with answering(Transcript.stream(done(output=1))) as sdk, sdk.messages.stream(**ask()) as stream:
        final = stream.get_final_message()
    assert (final.content, final.stop_reason) == ([], "end_turn")


def test_a_message_of_the_sdk_is_taken_back() -> None:
    with answering(ALL) as sdk:
        message = sdk.messages.create(**ASKED)
        uses = [block.id for block in message.content if block.type == "tool_use"]
        results: Any = [{"type": "tool_result", "tool_use_id": id, "content": "ok"} for id in uses]
        turns: Any = [*QUESTION, message.to_param(), {"role": "user", "content": results}]
        assert sdk.messages.create(**{**ASKED, "messages": turns}).content


@pytest.mark.parametrize(
    "broken",
    [
        MIDWAY,
        Transcript.stream(piece("a")),
        Transcript.stream(piece(thinking="a")),
        Transcript.stream({"error": "out of memory"}),
    ],
    ids=["an error midway", "cut in a text", "cut in a thought", "an error first"],
)
def test_the_sdk_raises_for_a_stream_that_breaks(broken: Transcript) -> None:
    with answering(broken, 5) as sdk, sdk.messages.stream(**ASKED) as stream:
        with pytest.raises(anthropic.APIStatusError) as caught:
            stream.get_final_message()
    assert caught.value.type == "api_error"


def test_the_sdk_raises_for_a_document_that_breaks() -> None:
    with answering(MIDWAY) as sdk, pytest.raises(anthropic.InternalServerError) as caught:
        sdk.messages.create(**ask())
    assert caught.value.status_code == 502
    assert "out of memory" in str(caught.value)


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    ("name", "kind", "status"),
    [
        ("busy-chat", "OverloadedError", 529),
        ("chat-404-model", "NotFoundError", 404),
        ("chat-think-unsupported", "BadRequestError", 400),
    ],
)
def test_errors_before_the_head_are_exceptions_of_their_own(name: str, kind: str, status: int, streams: bool) -> None:
    transcript = Transcript.of(load_recording(FOLDER / f"{name}.json"))
    with answering(transcript) as sdk, pytest.raises(anthropic.APIStatusError) as caught:
        sdk.messages.create(**ask(stream=streams))
    assert (type(caught.value).__name__, caught.value.status_code) == (kind, status)


def test_pings_before_the_start_are_nothing_to_the_sdk() -> None:
    codec = opened(ask(stream=True))
    codec.begin(ALL.head)
    told = codec.heartbeat * 3 + codec.feed(ALL.body) + codec.finish()
    assert read_events(told).names[:4] == ["ping", "ping", "ping", "message_start"]
    with client(lambda _: httpx2.Response(200, content=told)) as sdk, sdk.messages.stream(**ask()) as stream:
        assert stream.get_final_text() == "Let me look. 🌍\u2028So."


def test_the_sdk_counts_tokens() -> None:
    with answering(Transcript.stream()) as sdk:
        assert sdk.messages.count_tokens(model=WORDY, messages=QUESTION).input_tokens == 6  # type: ignore[arg-type]


def test_the_sdk_pages_through_the_models() -> None:
    tags = Transcript.of(load_recording(FOLDER / "tags.json"))
    with answering(tags) as sdk:
        every = [model.id for model in sdk.models.list(limit=2)]
        assert len(every) == len(set(every)) == 5
        (last,) = sdk.models.list(after_id=every[3]).data
        assert sdk.models.retrieve(last.id).created_at == last.created_at
        assert [model.id for model in sdk.models.list(limit=2, before_id=every[3]).data] == every[1:3]
        assert last.lifecycle == "active"
        with pytest.raises(anthropic.NotFoundError):
            sdk.models.retrieve("nosuch")
