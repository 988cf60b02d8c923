"""The dialects in which the systems are asked: the bytes of a request, and what its answer must be.

Answers are checked event by event against patterns, which leave open only what two right answers differ in: ids,
times, the node's clock. Native ones, which pass unchanged, are checked to the byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench import chat

Pattern = re.Pattern[bytes]

_MESSAGES = [{"role": role, "content": content.strip()} for role, content in chat.HISTORY]
_SYSTEM, *_TURNS = _MESSAGES
_CHUNK = rb" (\d{7}) (\d{18})"
"""The text of a chunk: its number, and the node's clock."""


@dataclass(frozen=True)
class Answer:
    """What an answer must be: patterns of its events, without the bytes that end each, and of the one document."""

    event_end: bytes
    begin: Sequence[Pattern]
    chunk: Pattern
    """Its groups: number and clock (ns)."""
    chunks: int
    end: Sequence[Pattern]
    document: Pattern

    @property
    def events(self) -> int:
        """How many there are in a stream."""
        return len(self.begin) + self.chunks + len(self.end)


@dataclass(frozen=True)
class Dialect:
    """How to ask in it, and what comes back."""

    title: str
    path: str
    body: Callable[[str, bool], Mapping[str, Any]]
    """Of a request to the model of that name, for a stream or not; about 0.9 KB."""
    answer: Callable[[bytes, int], Answer]
    """Of the model of that name, in so many chunks."""

    def request(self, port: int, key: str, named: str, *, stream: bool) -> bytes:
        """The very bytes of one request."""
        body = json.dumps(self.body(named, stream), separators=(",", ":")).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: bench\r\nAccept: */*\r\n"
            f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def _native_body(named: str, stream: bool) -> Mapping[str, Any]:
    return {"model": named, "messages": _MESSAGES, "stream": stream, "options": {"seed": 3, "temperature": 0.7}}


def _native_answer(named: bytes, chunks: int) -> Answer:
    line = re.escape(chat.line(named, 0, 0).rstrip(b"\n"))
    return Answer(
        event_end=b"\n",
        begin=(),
        chunk=re.compile(line.replace(re.escape(b" %07d %018d" % (0, 0)), _CHUNK)),
        chunks=chunks,
        end=_patterns(re.escape(chat.last_line(named, chunks).rstrip(b"\n"))),
        document=re.compile(re.escape(chat.document(named, chunks))),
    )


def _openai_body(named: str, stream: bool) -> Mapping[str, Any]:
    streams = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    return {"model": named, "messages": _MESSAGES, **streams, "seed": 3, "temperature": 0.7}


def _openai_answer(named: bytes, chunks: int) -> Answer:
    prompt, total = chat.PROMPT_TOKENS, chat.PROMPT_TOKENS + chunks
    usage = rb'"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (prompt, chunks, total)
    about = rb'{"id":"chatcmpl-\w{32}","object":"chat.completion%b","created":\d{10},"model":"' + named + rb'",'
    start = b"data: " + about % b".chunk" + rb'"choices":\['
    choice = start + rb'{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}\],"usage":null}'
    stopped = rb'"content":"%b".*"finish_reason":"stop"}\],' % _text(chunks)
    return Answer(
        event_end=b"\n\n",
        begin=_patterns(choice % (b'{"role":"assistant","content":""}', b"null")),
        chunk=re.compile(choice % (b'{"content":"' + _CHUNK + b'"}', b"null")),
        chunks=chunks,
        end=_patterns(choice % (b"{}", b'"stop"'), start + rb"\]," + usage + b"}", rb"data: \[DONE\]"),
        document=re.compile(about % b"" + rb'"choices":\[.*' + stopped + usage + b"}"),
    )


def _responses_body(named: str, stream: bool) -> Mapping[str, Any]:
    return {
        "model": named,
        "instructions": _SYSTEM["content"],
        "input": _TURNS,
        "stream": stream,
        "temperature": 0.7,
    }


def _responses_answer(named: bytes, chunks: int) -> Answer:
    usage = rb'"usage":{"input_tokens":%d,.*"output_tokens":%d,' % (chat.PROMPT_TOKENS, chunks)
    about = rb'{"id":"resp_\w{32}",.*"status":"%b",.*%b.*"model":"' + named + rb'",.*'
    begun, text = rb',.*"response":' + about % (b"in_progress", b""), rb',.*"text":"%b".*' % _text(chunks)
    whole = about % (b"completed", usage) + rb'"output":\[.*"text":"%b".*' % _text(chunks)
    begin = [_event(b"response.created", begun), _event(b"response.in_progress", begun)]
    begin += [_event(b"response.output_item.added", b".*"), _event(b"response.content_part.added", b".*")]
    end = [_event(b"response.output_text.done", text), _event(b"response.content_part.done", text)]
    end += [_event(b"response.output_item.done", text), _event(b"response.completed", rb',.*"response":' + whole)]
    return Answer(
        event_end=b"\n\n",
        begin=_patterns(*begin),
        chunk=re.compile(_event(b"response.output_text.delta", rb',.*"delta":"' + _CHUNK + b'"}')),
        chunks=chunks,
        end=_patterns(*end),
        document=re.compile(whole),
    )


def _anthropic_body(named: str, stream: bool) -> Mapping[str, Any]:
    asked = {"model": named, "max_tokens": 1024, "system": _SYSTEM["content"], "messages": _TURNS}
    return {**asked, "stream": stream, "temperature": 0.7}


def _anthropic_answer(named: bytes, chunks: int) -> Answer:
    usage = rb'"usage":{"input_tokens":%d,.*"output_tokens":%d}}' % (chat.PROMPT_TOKENS, chunks)
    about = rb'{"id":"msg_\w{32}","type":"message","role":"assistant","model":"' + named + rb'",.*'
    begin = [_event(b"message_start", rb',"message":' + about), _event(b"ping", b"}")]
    begin += [_event(b"content_block_start", rb',"index":0,"content_block":{"type":"text","text":""}}')]
    delta = rb',"index":0,"delta":{"type":"text_delta","text":"' + _CHUNK + b'"}}'
    stopped = _event(b"message_delta", rb',"delta":{"stop_reason":"end_turn",.*' + usage)
    return Answer(
        event_end=b"\n\n",
        begin=_patterns(*begin),
        chunk=re.compile(_event(b"content_block_delta", delta)),
        chunks=chunks,
        end=_patterns(_event(b"content_block_stop", rb',"index":0}'), stopped, _event(b"message_stop", b"}")),
        document=re.compile(about + rb'"text":"%b".*' % _text(chunks) + usage),
    )


def _event(kind: bytes, rest: bytes) -> bytes:
    """The pattern of an event with a name, which its JSON repeats; `rest` follows that."""
    name = re.escape(kind)
    return rb'event: %b\ndata: {"type":"%b"%b' % (name, name, rest)


def _text(chunks: int) -> bytes:
    """The pattern of the text of all chunks, in their order."""
    return b"".join([rb" %07d \d{18}" % number for number in range(chunks)])


def _patterns(*patterns: bytes) -> Sequence[Pattern]:
    return [re.compile(pattern) for pattern in patterns]


NATIVE = "native"
"""The one that every system speaks; Parallama translates the others."""

DIALECTS: Mapping[str, Dialect] = {
    NATIVE: Dialect("native", chat.PATH, _native_body, _native_answer),
    "openai": Dialect("OpenAI chat", "/v1/chat/completions", _openai_body, _openai_answer),
    "responses": Dialect("OpenAI responses", "/v1/responses", _responses_body, _responses_answer),
    "anthropic": Dialect("Anthropic messages", "/v1/messages", _anthropic_body, _anthropic_answer),
}
