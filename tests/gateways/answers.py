"""Answers of nodes: recorded ones of a real Ollama, and hand-made ones for what recordings have not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import recorded

from parallama.testing import Transcript, load_recording

_FOLDER = Path(recorded.__file__).parent / "recordings"

_CHATS = (
    *("chat-stream", "chat-think-stream", "chat-tools-stream", "chat-once", "chat-think-once", "chat-tools-once"),
    *("budget-think-4", "budget-think-schema-4", "budget-think-schema-12", "budget-think-schema-stream"),
    *("budget-tools-cut-stream", "budget-stop-across-tokens", "repeat-chat"),
    *("chat-404-model", "chat-tools-unsupported", "chat-images-unsupported", "busy-chat"),
)
_GENERATIONS = (
    *("generate-stream", "generate-once", "generate-length", "generate-load", "generate-unload", "generate-logprobs"),
    *("generate-json", "generate-emoji", "generate-404-model", "generate-stop", "budget-think-schema-generate"),
    *("budget-num-predict-1", "runner-killed-generate", "runner-killed-generate-once", "repeat-generate"),
)


@dataclass(frozen=True)
class NodeAnswer:
    """One answer."""

    name: str
    node_path: str
    transcript: Transcript
    logprobs: bool = False
    """It has log probabilities, which are to be asked for."""


def _recorded() -> Iterator[NodeAnswer]:
    for name in (*_CHATS, *_GENERATIONS):
        kept = load_recording(_FOLDER / f"{name}.json")
        path = kept.request_head.decode().split(" ")[1]
        yield NodeAnswer(name, path, Transcript.of(kept), logprobs="logprobs" in name)


def _told(done: dict[str, Any] | None, *messages: dict[str, Any]) -> Transcript:
    """A chat of these messages; `done`: what the last line has besides, None: there is none."""
    head = {"model": "m", "created_at": "2026-11-21T01:55:54Z"}
    empty = {"role": "assistant", "content": ""}
    lines: list[dict[str, Any]] = [{**head, "message": {**empty, **message}, "done": False} for message in messages]
    if done is not None:
        lines.append({**head, "message": empty, "done": True, "done_reason": "stop", **COUNTS, **done})
    return Transcript.stream(*lines)


COUNTS = {"prompt_eval_count": 24, "eval_count": 13}
ODD = 'Grüße 🌍 "\\\n\r\t\x00\x85\u2028\u2029</script>'
PARIS = {"function": {"index": 0, "name": "weather", "arguments": {"city": "Paris"}}}
ROME = {"id": "", "function": {"index": 0, "name": "weather", "arguments": {"city": "Rome", "id": 2**53 + 1}}}
CLOCK = {"id": "call_1", "function": {"index": 0, "name": "clock", "arguments": {}}}
_HALF = [{"content": "Half "}, {"content": "of it"}]
_LOGPROB = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}
_LOGPROBS = [{**_LOGPROB, "top_logprobs": [_LOGPROB, {"token": "Ho", "logprob": -1.5, "bytes": [72, 111]}]}]
_ERROR = Transcript.stream({"error": "llama runner process has terminated"})
_LAST = {"message": {"role": "assistant", "content": "."}}


def _with_logprobs() -> Transcript:
    line = {"model": "m", "message": {"role": "assistant", "content": "Hi"}, "logprobs": _LOGPROBS, "done": False}
    bare = {"model": "m", "message": {"role": "assistant", "content": ""}, "logprobs": _LOGPROBS, "done": False}
    end = {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", **COUNTS}
    return Transcript.stream(line, bare, end)


HAND_MADE = {
    "text-odd-characters": _told({}, {"content": ODD[:6]}, {"content": ODD[6:]}),
    "text-on-the-last-line": _told(_LAST, {"content": "Blue"}),
    "text-of-nothing": _told({}),
    "text-empty-pieces": _told({}, {"content": ""}, {"content": "Blue"}, {"content": ""}),
    "text-cut-at-length": _told({"done_reason": "length"}, {"content": "Blue is"}),
    "text-reason-load": _told({"done_reason": "load"}),
    "text-reason-unload": _told({"done_reason": "unload"}),
    "text-reason-absent": _told({"done_reason": None}, {"content": "Blue."}),
    "text-counts-absent": _told({"prompt_eval_count": None, "eval_count": None}, {"content": "Blue."}),
    "thinking-and-text-in-one-line": _told(
        {}, {"thinking": "Hm", "content": "Blue"}, {"thinking": "m", "content": "."}
    ),
    "thinking-only": _told({}, {"thinking": "Hm"}, {"thinking": "m."}),
    "calls-without-ids-amid-text": _told(
        {}, {"content": "Let me look."}, {"tool_calls": [PARIS]}, {"tool_calls": [ROME, PARIS]}, {"content": "Done."}
    ),
    "calls-with-equal-ids": _told({}, {"tool_calls": [CLOCK, CLOCK]}),
    "calls-after-thinking": _told({}, {"thinking": "Hm."}, {"tool_calls": [CLOCK]}),
    "calls-on-the-last-line": _told({"message": {"role": "assistant", "content": "So.", "tool_calls": [PARIS, CLOCK]}}),
    "error-at-first": _ERROR,
    "error-midway": Transcript(body=_told(None, *_HALF).body + _ERROR.body),
    "error-in-thinking": Transcript(body=_told(None, {"thinking": "Hm"}).body + _ERROR.body),
    "error-after-a-call": Transcript(body=_told(None, {"tool_calls": [PARIS]}).body + _ERROR.body),
    "error-status": Transcript.document({"error": "out of memory"}, 500),
    "cut-without-last-line": _told(None, *_HALF),
    "cut-broken-off": Transcript(body=_told({}, *_HALF).body[:-40], complete=False),
    "cut-before-anything": Transcript(body=b""),
}

ANSWERS = [
    *_recorded(),
    *(NodeAnswer(name, "/api/chat", transcript) for name, transcript in HAND_MADE.items()),
    NodeAnswer("text-logprobs", "/api/chat", _with_logprobs(), logprobs=True),
]
