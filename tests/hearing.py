"""What a client of each dialect hears of an answer: from a stream's events, and from a document.

Written from the specifications of the dialects and not from the gateways, so that the two can be compared.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Heard:
    """An answer, whichever way it came."""

    thinking: str = ""
    text: str = ""
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    """Id, name and arguments."""
    reason: str | None = None
    usage: tuple[int, int] | None = None
    """Tokens of the prompt and of the answer."""


def events(data: bytes) -> list[Any]:
    """The values of a stream of server-sent events; `[DONE]` as it is. Raises ValueError for one without its end."""
    found = []
    *whole, rest = data.split(b"\n\n")
    if rest:
        raise ValueError("the last event has no end")
    for event in whole:
        value = b"".join(line.removeprefix(b"data: ") for line in event.split(b"\n") if line.startswith(b"data: "))
        if value:
            found.append("[DONE]" if value == b"[DONE]" else json.loads(value))
    return found


def errors(data: bytes) -> int:
    """How many errors are told in a stream."""
    if data.startswith((b"data: ", b"event: ", b":")):
        return sum(_is_error(event) for event in events(data) if isinstance(event, dict))
    return sum(line.startswith(b'{"error":') for line in data.splitlines())


def _is_error(event: dict[str, Any]) -> bool:
    # a broken Responses stream is told twice, for two kinds of readers, as one failure: the error event is the news
    return bool(event.get("error")) or event.get("type") == "error"


def _openai_usage(usage: Any) -> tuple[int, int] | None:
    return (usage["prompt_tokens"], usage["completion_tokens"]) if usage else None


def chat_stream(data: bytes) -> Heard:
    """Chunks of a chat completion, the usage in the last, and [DONE]."""
    heard = Heard()
    *chunks, done = events(data)
    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    calls: list[dict[str, Any]] = []
    for chunk in chunks:
        heard.usage = _openai_usage(chunk.get("usage")) or heard.usage
        for choice in chunk["choices"]:
            delta = choice["delta"]
            heard.text += delta.get("content") or ""
            heard.thinking += delta.get("reasoning") or delta.get("reasoning_content") or ""
            heard.reason = choice["finish_reason"] or heard.reason
            calls += delta.get("tool_calls") or []
    assert [call["index"] for call in calls] == list(range(len(calls)))
    heard.calls = [_call(call) for call in calls]
    return heard


def _call(call: dict[str, Any]) -> tuple[str, str, Any]:
    return call["id"], call["function"]["name"], json.loads(call["function"]["arguments"])


def chat_document(value: Any) -> Heard:
    """A chat completion."""
    (choice,) = value["choices"]
    message = choice["message"]
    return Heard(
        thinking=message.get("reasoning") or message.get("reasoning_content") or "",
        text=message["content"] or "",
        calls=[_call(call) for call in message.get("tool_calls") or []],
        reason=choice["finish_reason"],
        usage=_openai_usage(value["usage"]),
    )


def completion_stream(data: bytes) -> Heard:
    """Chunks of a completion."""
    heard = Heard()
    *chunks, done = events(data)
    assert done == "[DONE]"
    for chunk in chunks:
        heard.usage = _openai_usage(chunk.get("usage")) or heard.usage
        for choice in chunk["choices"]:
            heard.text += choice["text"]
            heard.reason = choice["finish_reason"] or heard.reason
    return heard


def completion_document(value: Any) -> Heard:
    """A completion."""
    (choice,) = value["choices"]
    return Heard(text=choice["text"], reason=choice["finish_reason"], usage=_openai_usage(value["usage"]))


def response_stream(data: bytes) -> Heard:
    """The events of a response; what the deltas say must be what its last event says."""
    told = events(data)
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert told[0]["type"] == "response.created"
    heard = Heard()
    for event in told:
        match event["type"]:
            case "response.output_text.delta":
                heard.text += event["delta"]
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                heard.thinking += event["delta"]
    last = response_document(told[-1]["response"])
    assert (heard.text, heard.thinking) == (last.text, last.thinking)
    added = [event["output_index"] for event in told if event["type"] == "response.output_item.added"]
    done = [event["output_index"] for event in told if event["type"] == "response.output_item.done"]
    assert added == done == list(range(len(added)))
    return last


def response_document(value: Any) -> Heard:
    """A response."""
    heard = Heard(reason=(value.get("incomplete_details") or {}).get("reason") or value["status"])
    for item in value["output"]:
        match item["type"]:
            case "message":
                heard.text += "".join(part["text"] for part in item["content"])
            case "reasoning":
                heard.thinking += "".join(part["text"] for part in item["summary"])
            case "function_call":
                heard.calls.append((item["call_id"], item["name"], json.loads(item["arguments"])))
    heard.usage = (value["usage"]["input_tokens"], value["usage"]["output_tokens"])
    return heard


def message_stream(data: bytes) -> Heard:
    """The events of a message: one block at a time, numbered from 0."""
    start, *told, stop = [event for event in events(data) if event["type"] != "ping"]
    assert (start["type"], stop["type"]) == ("message_start", "message_stop")
    message: dict[str, Any] = {**start["message"], "content": []}
    for event in told:
        match event["type"]:
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append({**event["content_block"], "json": ""})
            case "content_block_delta":
                assert event["index"] == len(message["content"]) - 1
                for key, value in event["delta"].items():
                    name = {"partial_json": "json"}.get(key, key)
                    message["content"][-1][name] += value if key != "type" else ""
            case "message_delta":
                message |= event["delta"] | {"usage": message["usage"] | event["usage"]}
    for block in message["content"]:
        block |= {"input": json.loads(block["json"] or "{}")} if block["type"] == "tool_use" else {}
    return message_document(message)


def message_document(value: Any) -> Heard:
    """A message."""
    heard = Heard(reason=value["stop_reason"])
    for block in value["content"]:
        match block["type"]:
            case "text":
                heard.text += block["text"]
            case "thinking":
                assert block["signature"]
                heard.thinking += block["thinking"]
            case "tool_use":
                heard.calls.append((block["id"], block["name"], block["input"]))
    heard.usage = (value["usage"]["input_tokens"], value["usage"]["output_tokens"])
    return heard


def simple_stream(data: bytes) -> Heard:
    """Lines of the simplified dialect."""
    heard = Heard()
    for line in data.splitlines():
        part = simple_document({"usage": None, **json.loads(line)})
        heard.text += part.text
        heard.usage = part.usage or heard.usage
    return heard


def simple_document(value: Any) -> Heard:
    """A document of the simplified dialect."""
    text = value["text"] if "text" in value else "".join(message["content"] for message in value["messages"])
    return Heard(text=text, usage=_openai_usage(value["usage"]))


def native_stream(data: bytes) -> Heard:
    """Lines of Ollama."""
    heard = Heard()
    for line in data.splitlines():
        part = native_document(json.loads(line))
        heard.text += part.text
        heard.thinking += part.thinking
        heard.usage = part.usage or heard.usage
    return heard


def native_document(value: Any) -> Heard:
    """A document of Ollama, or one of its lines."""
    told = value.get("message") or {"content": value["response"], "thinking": value.get("thinking")}
    heard = Heard(text=told["content"], thinking=told.get("thinking") or "", reason=value.get("done_reason"))
    if value["done"]:
        heard.usage = (value.get("prompt_eval_count", 0), value.get("eval_count", 0))
    return heard
