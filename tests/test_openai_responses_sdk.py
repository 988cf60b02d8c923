"""OpenAI's own SDK against Responses: it reads every event, puts them together, and raises what broke."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from typing import Any

import httpx2
import openai
import pytest
from openai.types import responses as types
from openai_client import answered, client
from parallama_openai.responses import open_response
from pydantic import BaseModel, TypeAdapter

from parallama.errors import ApiError
from parallama.testing import Transcript, inbound

EVENT: TypeAdapter[Any] = TypeAdapter(types.ResponseStreamEvent)
END: dict[str, Any] = {"done": True, "done_reason": "stop", "prompt_eval_count": 7, "eval_count": 12}
ASK: dict[str, Any] = {"model": "llama3.2:1b", "input": "Why?"}
TOOL: Any = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}


def line(text: str = "", thinking: str = "", calls: Any = None, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "thinking": thinking, "tool_calls": calls or []}
    return {"message": message, "done": False, **more}


LOOK = {"function": {"index": 0, "name": "look", "arguments": {"city": "Paris"}}}
ALL = Transcript.stream(
    line(thinking="Hm"), line("I "), line("look."), line(calls=[LOOK, LOOK]), line("Found."), line(**END)
)
CUT = Transcript.stream(line("I "), line(**{**END, "done_reason": "length"}))
BROKEN = Transcript.stream(line("I "), {"error": "out of memory"})


def sdk(transcript: Transcript, *, silent: bool = False) -> AbstractContextManager[openai.OpenAI]:
    """A client whose requests are answered from `transcript`; `silent`: by a failure behind a heartbeat alone."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        codec = open_response(inbound(request.content, "/responses"))
        if silent:
            return httpx2.Response(200, content=codec.heartbeat + codec.fail(ApiError("no node")))
        return answered(codec, transcript)

    return client(answer)


def test_every_event_is_of_a_type_that_the_sdk_knows() -> None:
    codec = open_response(inbound({**ASK, "stream": True, "tools": [TOOL]}))
    codec.begin(ALL.head)
    raw = codec.feed(ALL.body) + codec.finish()
    for block in raw.split(b"\n\n")[:-1]:
        EVENT.validate_json(block.partition(b"\ndata: ")[2])


def test_the_sdk_puts_the_stream_together() -> None:
    with sdk(ALL) as sdk_client, sdk_client.responses.stream(**ASK) as stream:
        seen = [event.type for event in stream]
        found = stream.get_final_response()
    assert (seen[0], seen[-1]) == ("response.created", "response.completed")
    assert [item.type for item in found.output] == ["reasoning", "message", "function_call", "function_call", "message"]
    assert found.output_text == "I look.Found."
    assert found.usage is not None
    assert (found.usage.input_tokens, found.usage.output_tokens) == (7, 12)


def test_the_sdk_reads_events_and_the_whole_response_alike() -> None:
    with sdk(ALL) as sdk_client:
        *_, last = sdk_client.responses.create(**ASK, stream=True)
        whole = sdk_client.responses.create(**ASK)
    assert last.type == "response.completed"
    assert last.response.to_dict() == whole.to_dict()
    assert whole.output_text == "I look.Found."


def test_the_sdk_takes_a_cut_answer_for_incomplete() -> None:
    with sdk(CUT) as sdk_client:
        *_, last = sdk_client.responses.create(**ASK, stream=True)
        whole = sdk_client.responses.create(**ASK)
    assert last.type == "response.incomplete"
    assert whole.incomplete_details is not None
    assert (whole.status, whole.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_the_sdk_raises_a_failure_midway_to_who_reads_events() -> None:
    with sdk(BROKEN) as sdk_client:
        stream = sdk_client.responses.create(**ASK, stream=True)
        seen = [next(stream).type for _ in range(6)]
        with pytest.raises(openai.APIError, match="out of memory"):
            next(stream)
    assert (seen[0], seen[-2:]) == ("response.created", ["response.output_text.delta", "response.failed"])


def test_the_sdk_raises_a_failure_midway_to_who_lets_it_put_the_stream_together() -> None:
    with sdk(BROKEN) as sdk_client, sdk_client.responses.stream(**ASK) as stream:
        with pytest.raises(openai.APIError, match="out of memory"):
            stream.get_final_response()


def test_the_sdk_raises_a_failure_behind_a_heartbeat() -> None:
    with sdk(ALL, silent=True) as sdk_client:
        with pytest.raises(openai.APIError, match="no node"):
            list(sdk_client.responses.create(**ASK, stream=True))
        with sdk_client.responses.stream(**ASK) as stream, pytest.raises(openai.APIError, match="no node"):
            stream.until_done()


class Fact(BaseModel):
    city: str


def test_the_sdk_parses_a_structured_answer() -> None:
    with sdk(Transcript.stream(line('{"city":"Paris"}'), line(**END))) as sdk_client:
        found = sdk_client.responses.parse(**ASK, text_format=Fact)
    assert found.output_parsed == Fact(city="Paris")


def test_an_answer_can_be_sent_back_as_it_is() -> None:
    with sdk(ALL) as sdk_client:
        first = sdk_client.responses.create(**ASK, include=["reasoning.encrypted_content"], store=False)
        outputs = [
            {"type": "function_call_output", "call_id": item.call_id, "output": "rain"}
            for item in first.output
            if item.type == "function_call"
        ]
        again = [{"role": "user", "content": "Why?"}, *(item.to_dict() for item in first.output), *outputs]
        assert sdk_client.responses.create(**{**ASK, "input": again}).status == "completed"
    messages = (open_response(inbound({**ASK, "input": json.loads(json.dumps(again))})).outbounds[0].body or {})[
        "messages"
    ]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool"]
    assert (messages[1]["thinking"], len(messages[1]["tool_calls"])) == ("Hm", 2)
    assert messages[1]["content"].startswith("I look.\n")
    assert [message.get("tool_name") for message in messages[2:]] == ["look", "look"]
